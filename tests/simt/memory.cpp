/* Shared memory of the block at hand, its shadow, and the clocks by which threads know of each other. */
#include "run.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace simt {

namespace {

/* Kept from block to block. */
struct store {
  unsigned char *bytes = nullptr;
  size_t room = 0;
  std::vector<cell> cells;
  std::vector<reader> readers;
  std::vector<uint32_t> known; /* [warps, threads + 1] */
};

thread_local store *s;

uint32_t all_threads() { return here.threads + 1; } /* the copy engine is the last */

/* The marks of everything before a block's barrier may become one and the same, and clocks start again. */
void restart_clocks() {
  for (size_t i = 0; i < (here.bytes + CELL - 1) / CELL; i++) {
    cell &c = here.cells[i];
    if (c.write != 0 && c.write < UNDER_WAY) c.write = 1u << NUMBER_BITS;
    c.read = 0;
  }
  for (uint32_t i = 0; i < here.warps * all_threads(); i++) s->known[i] = 1;
  for (uint32_t w = 0; w < here.warps; w++) warp_of(static_cast<int>(w))->clock = 1;
}

void move_on(warp *home) {
  if (++home->clock >= MOST_CLOCK)
    fail("too many barriers of parts of a block: the emulator's clocks are at their end");
}

} // namespace

void take_memory(size_t bytes, uint32_t threads) {
  if (s == nullptr) s = new store();
  if (s->room < bytes) {
    free(s->bytes);
    s->room = (bytes + 1023) / 1024 * 1024;
    s->bytes = static_cast<unsigned char *>(aligned_alloc(1024, s->room));
    if (s->bytes == nullptr) abort();
  }
  size_t cells = (bytes + CELL - 1) / CELL;
  s->cells.resize(cells);
  s->readers.resize(cells * (threads / LANES));
  s->known.resize(threads / LANES * (threads + 1));
  here.memory = s->bytes;
  here.bytes = bytes;
  here.cells = s->cells.data();
  here.readers = s->readers.data();
}

void start_memory() {
  if (here.bytes > 0) {
    memset(here.memory, 0xff, here.bytes);
    memset(static_cast<void *>(here.cells), 0, s->cells.size() * sizeof *here.cells);
  }
  memset(s->known.data(), 0, s->known.size() * sizeof(uint32_t));
  here.engine_clock = 0;
  for (uint32_t w = 0; w < here.warps; w++) {
    warp *home = warp_of(static_cast<int>(w));
    home->clock = 1;
    home->known = &s->known[w * all_threads()];
  }
}

/* ---- clocks ---- */

void order_warp(warp *home) {
  uint32_t *own = home->known + home->number * LANES;
  for (int i = 0; i < LANES; i++) own[i] = home->clock;
  move_on(home);
}

void order_warps(const int *warps, int count) {
  static thread_local uint32_t joint[MOST_THREADS + 1];
  memset(joint, 0, sizeof joint);
  bool restart = false;
  for (int i = 0; i < count; i++) {
    warp *home = warp_of(warps[i]);
    order_warp(home);
    for (uint32_t t = 0; t < all_threads(); t++) joint[t] = home->known[t] > joint[t] ? home->known[t] : joint[t];
    restart = restart || home->clock > MOST_CLOCK / 2;
  }
  for (int i = 0; i < count; i++) memcpy(warp_of(warps[i])->known, joint, all_threads() * sizeof *joint);
  if (restart && count == static_cast<int>(here.warps)) restart_clocks();
}

void publish(uint32_t *clocks) {
  warp *home = here.self->home;
  for (uint32_t t = 0; t < all_threads(); t++) clocks[t] = home->known[t] > clocks[t] ? home->known[t] : clocks[t];
  clocks[here.self->number] = home->clock;
  move_on(home);
}

void see(const uint32_t *clocks) {
  uint32_t *known = here.self->home->known;
  for (uint32_t t = 0; t < all_threads(); t++) known[t] = clocks[t] > known[t] ? clocks[t] : known[t];
}

/* ---- readers ---- */

void another_reader(size_t at) {
  cell &c = here.cells[at];
  reader *all = here.readers + at * here.warps;
  if ((c.read & SEVERAL) == 0) {
    if (is_known(c.read)) {
      c.read = stamp();
      return;
    }
    memset(static_cast<void *>(all), 0, here.warps * sizeof *all);
    uint32_t first = c.read & NUMBER;
    all[first / LANES] = {c.read >> NUMBER_BITS, 1u << first % LANES};
    c.read = SEVERAL;
  }
  reader &mine = all[here.self->home->number];
  const uint32_t clock = here.self->home->clock, others = mine.clock == clock ? mine.lanes : 0;
  mine.clock = clock; /* not as one struct, which the compiler puts together in memory: slow, and much is read here */
  mine.lanes = others | 1u << here.self->number % LANES;
}

/* Some reader of the place that the running thread does not know of; -1 when it knows of all. */
static int unknown_reader(size_t at) {
  const cell &c = here.cells[at];
  if ((c.read & SEVERAL) == 0) return c.read == 0 || is_known(c.read) ? -1 : static_cast<int>(c.read & NUMBER);
  const reader *all = here.readers + at * here.warps;
  for (uint32_t w = 0; w < here.warps; w++)
    for (uint32_t lanes = all[w].lanes; lanes != 0; lanes &= lanes - 1) {
      uint32_t thread = w * LANES + static_cast<uint32_t>(__builtin_ctz(lanes));
      if (!is_known(all[w].clock << NUMBER_BITS | thread)) return static_cast<int>(thread);
    }
  return -1;
}

bool readers_are_known(size_t at) { return unknown_reader(at) < 0; }

/* ---- what is found ---- */

/* Whose write or copy it is: "thread 7", or the engine that copies. */
static const char *who(uint32_t mark, char (&text)[32]) {
  uint32_t number = mark & NUMBER;
  if (number == here.threads) snprintf(text, sizeof text, "the copy engine");
  else snprintf(text, sizeof text, "thread %u", number);
  return text;
}

void fail_place(const void *p, size_t bytes, size_t alignment) {
  long long offset = static_cast<const unsigned char *>(p) - here.memory;
  if (offset < 0 || static_cast<size_t>(offset) + bytes > here.bytes)
    fail("shared memory: %zu bytes at offset %lld are outside of the block's %zu", bytes, offset, here.bytes);
  fail("shared memory: %zu bytes at offset %lld, which is not a multiple of %zu", bytes, offset, alignment);
}

void fail_read(size_t at) {
  char by[32];
  uint32_t write = here.cells[at].write;
  size_t offset = at * CELL;
  if (write == 0) fail("shared memory at offset %zu is read, and nobody has written there", offset);
  if (write >= UNDER_WAY)
    fail("shared memory at offset %zu is read while a copy of %s is on its way there", offset,
         who(write & ~UNDER_WAY, by));
  fail("race: shared memory at offset %zu is read with no barrier since %s wrote there", offset, who(write, by));
}

void fail_write(size_t at) {
  char by[32];
  uint32_t write = here.cells[at].write;
  size_t offset = at * CELL;
  if (write >= UNDER_WAY)
    fail("shared memory at offset %zu is written while a copy of %s is on its way there", offset,
         who(write & ~UNDER_WAY, by));
  if (write != 0 && !is_known(write))
    fail("race: shared memory at offset %zu is written with no barrier since %s wrote there", offset, who(write, by));
  fail("race: shared memory at offset %zu is written with no barrier since thread %d read there", offset,
       unknown_reader(at));
}

void check_collective_read(const void *p, size_t bytes, size_t alignment) {
  size_t first = place(p, bytes, alignment);
  for (size_t i = first; i < first + bytes / CELL; i++) {
    uint32_t write = here.cells[i].write;
    if (write != 0 && write < UNDER_WAY && here.self->home->known[write & NUMBER] < write >> NUMBER_BITS) fail_read(i);
  }
  note_read(first, bytes / CELL);
}

void copy_arrives(void *p, const void *from, size_t bytes, uint32_t mark) {
  if (from != nullptr) memcpy(p, from, bytes);
  else memset(p, 0, bytes);
  size_t first = static_cast<size_t>(static_cast<unsigned char *>(p) - here.memory) / CELL;
  for (size_t i = first; i < first + bytes / CELL; i++) here.cells[i] = {mark, 0};
}

} // namespace simt
