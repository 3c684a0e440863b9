/* mbarrier, TMA and the fence between threads' writes and the engines that read: hopper_emulation.h. */
#include "hopper_engines.h"

#include <map>
#include <vector>

namespace simt {

namespace {

struct mbarrier {
  int count, pending;
  int64_t bytes; /* expected and not yet come: negative where they came first */
  uint32_t phase;
  bool announced;
  std::vector<uint32_t> arriving, over; /* clocks: of those who arrived so far, and until the last phase ended */
};

struct state {
  std::map<const unsigned char *, mbarrier> barriers;
  std::vector<uint32_t> fences; /* [threads] clock of the last np_async_fence */
};
thread_local state s;

enum { ROWS = 64, ROW_BYTES = 128 };

mbarrier &barrier_at(unsigned char *p) {
  check_read(p, 8, 8); /* initialised, and a block's barrier since */
  auto found = s.barriers.find(p);
  if (found == s.barriers.end()) fail("shared memory at offset %td is no mbarrier", p - here.memory);
  if (!found->second.announced) fail("mbarrier at offset %td: np_barrier_init_done was not called", p - here.memory);
  return found->second;
}

/* The phase ends once all have arrived and all bytes are there. */
void settle(mbarrier &b) {
  if (b.pending > 0 || b.bytes != 0) return;
  b.over = b.arriving;
  b.pending = b.count;
  b.phase++;
}

/* A panel on its way. */
struct panel {
  unsigned char *to, *barrier;
  np_tensor_map map;
  int64_t from[4];
};

/* The 128-byte swizzle: bits 4-6 of the address ^= bits 7-9. */
size_t swizzled(size_t offset) { return offset ^ (offset >> 7 & 7) << 4; }

void arrive(const panel &l) {
  const np_tensor_map *map = &l.map;
  uint32_t mark = ++here.engine_clock << NUMBER_BITS | here.threads;
  size_t start = static_cast<size_t>(l.to - here.memory);
  for (int row = 0; row < ROWS; row++)
    for (int chunk = 0; chunk < ROW_BYTES / 16; chunk++) {
      int64_t at[4] = {l.from[0] + chunk * 8, l.from[1], l.from[2] + row, l.from[3]};
      const unsigned char *from = map->base;
      for (int i = 0; i < 4; i++) {
        if (at[i] < 0 || at[i] >= map->sizes[i]) from = nullptr; /* zeros */
        if (from != nullptr) from += at[i] * map->strides[i];
      }
      copy_arrives(here.memory + swizzled(start + static_cast<size_t>(row * ROW_BYTES + chunk * 16)), from, 16, mark);
    }
  mbarrier &b = s.barriers.find(l.barrier)->second;
  b.bytes -= ROWS * ROW_BYTES;
  b.arriving[here.threads] = here.engine_clock;
  settle(b);
}

} // namespace

void mbarrier_init(unsigned char *p, int count) {
  const uint64_t bits = static_cast<uint64_t>(count);
  check_write(p, 8, 8);
  memcpy(p, &bits, sizeof bits);
  std::vector<uint32_t> none(here.threads + 1, 0);
  s.barriers[p] = {count, count, 0, 0, false, none, none};
  s.fences.assign(here.threads, 0);
  forget_products();
}

void mbarrier_announce() {
  for (auto &b : s.barriers) b.second.announced = true;
}

void mbarrier_arrive(unsigned char *p, int bytes) {
  mbarrier &b = barrier_at(p);
  if (b.pending == 0) fail("mbarrier at offset %td: more than %d arrivals in a phase", p - here.memory, b.count);
  publish(b.arriving.data());
  b.bytes += bytes;
  b.pending--;
  settle(b);
}

void mbarrier_wait(unsigned char *p, int parity) {
  mbarrier &b = barrier_at(p);
  wait_until("np_barrier_wait", [&b, parity] { return static_cast<int>(b.phase & 1) != parity; });
  see(b.over.data());
}

void async_fence() { s.fences[here.self->number] = here.self->home->clock; }

void check_engine_read(const void *p, size_t bytes) {
  size_t first = place(p, bytes, CELL);
  for (size_t i = first; i < first + bytes / CELL; i++) {
    uint32_t write = here.cells[i].write, by = write & NUMBER;
    if (write != 0 && write < UNDER_WAY && by < here.threads && s.fences[by] < write >> NUMBER_BITS)
      fail("shared memory at offset %zu is read by wgmma with no np_async_fence since thread %u wrote there", i * CELL,
           by);
  }
  note_read(first, bytes / CELL);
}

void tensor_load(unsigned char *to, const np_tensor_map *map, const int (&from)[4], unsigned char *p) {
  barrier_at(p);
  if ((to - here.memory) % ROW_BYTES != 0)
    fail("TMA to offset %td, which is not a multiple of %d", to - here.memory, ROW_BYTES);
  copy_leaves(to, ROWS * ROW_BYTES);
  panel l = {to, p, *map, {from[0], from[1], from[2], from[3]}};
  later([l] { arrive(l); });
}

} // namespace simt
