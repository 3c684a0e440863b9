/* wgmma: hopper_emulation.h. */
#include "hopper_engines.h"
#include "run.h"

#include <deque>
#include <memory>
#include <vector>

namespace simt {

namespace {

enum { M = 64, K = 16 };
const uint32_t UNTOUCHED = 0x7fc5a5a5u; /* a NaN: what sums hold while products are under way */

/* Sums under way: taken from their threads at the first product, given back after the last. */
struct sums {
  int each; /* a thread */
  float *home[GROUP];
  std::vector<float> value; /* [GROUP, each] */
  int under_way;
};

struct call {
  std::shared_ptr<sums> d;
  int columns;
  bool from_registers, turned_a, turned_b, accumulate;
  uint64_t a_matrix, b_matrix;
  uint32_t a[GROUP][4];
  const uint32_t *a_home[GROUP];
};

struct warpgroup {
  bool fenced;
  std::vector<std::shared_ptr<sums>> open;
  std::vector<call> calls; /* not yet committed */
  std::deque<std::vector<call>> committed;
};
thread_local warpgroup groups[MOST_THREADS / GROUP];

warpgroup &own_group() { return groups[here.self->number / GROUP]; }

/* Where element (mn, k) of a matrix lies: PTX ISA, matrix descriptor and canonical layouts, 128-byte swizzle of bf16.
 */
const unsigned char *element(uint64_t matrix, bool turned, int mn, int k) {
  size_t start = (matrix & 0x3fff) << 4, leading = (matrix >> 16 & 0x3fff) << 4, stride = (matrix >> 32 & 0x3fff) << 4;
  if (matrix >> 62 != 1 || (matrix >> 49 & 7) != 0)
    fail("matrix descriptor %#llx: only 128-byte swizzle, base offset 0", static_cast<unsigned long long>(matrix));
  size_t i = static_cast<size_t>(mn), j = static_cast<size_t>(k), offset;
  if (turned) offset = i % 64 * 2 + i / 64 * leading + j % 8 * 128 + j / 8 * stride;
  else offset = i % 8 * 128 + i / 8 * stride + j * 2;
  offset += start;
  offset ^= (offset >> 7 & 7) << 4;
  return here.memory + offset;
}

/* All warps of the group read the matrix: [mn, K] values. */
void read_matrix(uint64_t matrix, bool turned, int size, std::vector<float> &out) {
  thread *self = here.self;
  uint32_t first = self->number / GROUP * GROUP;
  out.resize(static_cast<size_t>(size) * K);
  for (uint32_t warp = 0; warp < GROUP / LANES; warp++) {
    here.self = thread_of(first + warp * LANES);
    for (int i = 0; i < size; i++)
      for (int k = 0; k < K; k++) check_engine_read(element(matrix, turned, i, k), 2);
  }
  here.self = self;
  for (int i = 0; i < size; i++)
    for (int k = 0; k < K; k++) {
      np_bf16 value;
      memcpy(&value, element(matrix, turned, i, k), sizeof value);
      out[static_cast<size_t>(i * K + k)] = np_bf16_to_f32(value);
    }
}

/* Rows and columns of a thread's registers: two to a register of a; one to a sum. */
int row_of(int thread, int high) { return thread / LANES * 16 + thread % LANES / 4 + 8 * high; }

void a_from_registers(const call &c, std::vector<float> &out) {
  out.resize(M * K);
  for (int t = 0; t < GROUP; t++)
    for (int r = 0; r < 4; r++)
      for (int half = 0; half < 2; half++) {
        int column = t % 4 * 2 + r / 2 * 8 + half;
        out[static_cast<size_t>(row_of(t, r % 2) * K + column)] =
            np_bf16_to_f32(static_cast<np_bf16>(c.a[t][r] >> 16 * half));
      }
}

void check_untouched(const sums &d) {
  for (int t = 0; t < GROUP; t++)
    for (int i = 0; i < d.each; i++) {
      uint32_t bits;
      memcpy(&bits, d.home[t] + i, sizeof bits);
      if (bits != UNTOUCHED) fail("sum %d of thread %d of the warpgroup is written while wgmma is under way", i, t);
    }
}

void run(const call &c) {
  static thread_local std::vector<float> a, b;
  if (c.from_registers) {
    for (int t = 0; t < GROUP; t++)
      if (memcmp(c.a[t], c.a_home[t], sizeof c.a[t]) != 0)
        fail("registers a of thread %d of the warpgroup are written while wgmma is under way", t);
    a_from_registers(c, a);
  } else {
    read_matrix(c.a_matrix, c.turned_a, M, a);
  }
  read_matrix(c.b_matrix, c.turned_b, c.columns, b);
  sums &d = *c.d;
  for (int t = 0; t < GROUP; t++)
    for (int i = 0; i < d.each; i++) {
      const float *row = &a[static_cast<size_t>(row_of(t, i / 2 % 2) * K)];
      const float *column = &b[static_cast<size_t>((i / 4 * 8 + t % 4 * 2 + i % 2) * K)];
      float &value = d.value[static_cast<size_t>(t * d.each + i)];
      float sum = c.accumulate ? value : 0.0f;
      for (int k = 0; k < K; k++) sum += row[k] * column[k];
      value = sum;
    }
  if (--d.under_way > 0) return;
  check_untouched(d);
  for (int t = 0; t < GROUP; t++)
    memcpy(d.home[t], &d.value[static_cast<size_t>(t * d.each)], static_cast<size_t>(d.each) * sizeof(float));
}

std::shared_ptr<sums> sums_of(warpgroup &group, factors *const *threads, int each) {
  for (size_t i = 0; i < group.open.size(); i++) {
    if (group.open[i]->under_way == 0) group.open.erase(group.open.begin() + static_cast<ptrdiff_t>(i--));
    else if (group.open[i]->home[0] == threads[0]->d) return group.open[i];
  }
  if (!group.fenced) fail("np_wgmma on registers with no np_wgmma_fence since they were waited for");
  auto d = std::make_shared<sums>();
  d->each = each;
  d->value.resize(static_cast<size_t>(GROUP * each));
  d->under_way = 0;
  for (int t = 0; t < GROUP; t++) {
    d->home[t] = threads[t]->d;
    memcpy(&d->value[static_cast<size_t>(t * each)], threads[t]->d, static_cast<size_t>(each) * sizeof(float));
    for (int i = 0; i < each; i++) memcpy(threads[t]->d + i, &UNTOUCHED, sizeof UNTOUCHED);
  }
  group.open.push_back(d);
  return d;
}

void issue(factors *const *threads, int columns, bool turned_a, bool turned_b) {
  static thread_local std::vector<float> unused;
  warpgroup &group = own_group();
  const factors &f = *threads[0];
  call c = {};
  for (int t = 0; t < GROUP; t++) {
    if (threads[t]->a_matrix != f.a_matrix || threads[t]->b_matrix != f.b_matrix ||
        threads[t]->accumulate != f.accumulate)
      fail("np_wgmma: thread %d of the warpgroup brings another matrix than thread 0", t);
    c.a_home[t] = threads[t]->a;
    if (threads[t]->a) memcpy(c.a[t], threads[t]->a, sizeof c.a[t]);
  }
  c.columns = columns;
  c.from_registers = f.a != nullptr;
  c.turned_a = turned_a;
  c.turned_b = turned_b;
  c.accumulate = f.accumulate;
  c.a_matrix = f.a_matrix;
  c.b_matrix = f.b_matrix;
  c.d = sums_of(group, threads, columns / 2);
  if (!c.from_registers) read_matrix(c.a_matrix, turned_a, M, unused);
  read_matrix(c.b_matrix, turned_b, columns, unused);
  c.d->under_way++;
  group.calls.push_back(std::move(c));
}

} // namespace

void forget_products() {
  for (warpgroup &group : groups) group = warpgroup();
}

void product(factors &mine, int columns, bool turned_a, bool turned_b) {
  together_group("np_wgmma", columns * 8 + (mine.a ? 4 : 0) + (turned_a ? 2 : 0) + turned_b, mine,
                 [=](factors *const *threads) { issue(threads, columns, turned_a, turned_b); });
}

void products_fence() {
  char nothing = 0;
  together_group("np_wgmma_fence", 0, nothing, [](char *const *) { own_group().fenced = true; });
}

void products_commit() {
  char nothing = 0;
  together_group("np_wgmma_commit", 0, nothing, [](char *const *) {
    warpgroup &group = own_group();
    group.committed.push_back(std::move(group.calls));
    group.calls.clear();
  });
}

void products_wait(int left) {
  char nothing = 0;
  together_group("np_wgmma_wait", left, nothing, [left](char *const *) {
    warpgroup &group = own_group();
    while (group.committed.size() > static_cast<size_t>(left)) {
      for (const call &c : group.committed.front()) run(c);
      group.committed.pop_front();
    }
    group.fenced = false;
  });
}

void registers(int count) {
  char nothing = 0;
  together_group("np_registers", count, nothing, [](char *const *) {});
}

} // namespace simt
