/* Tensor-core and copy instructions of device.cuh. */
#include "run.h"

extern "C" {
#include "util/dtype.h"
}
#include "shared.h"

#include <algorithm>
#include <cmath>
#include <deque>

namespace simt {

/* ---- mma.m16n8k16 ---- */

static float low(uint32_t pair) { return np_bf16_to_f32(static_cast<np_bf16>(pair)); }
static float high(uint32_t pair) { return np_bf16_to_f32(static_cast<np_bf16>(pair >> 16)); }

void mma_bf16(float *const *d, const uint32_t *const *a, const uint32_t *const *b) {
  float left[16][16], right[16][8], sum[16][8];
  for (int lane = 0; lane < LANES; lane++) {
    int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; r++) {
      left[g + r % 2 * 8][2 * t + r / 2 * 8] = low(a[lane][r]);
      left[g + r % 2 * 8][2 * t + r / 2 * 8 + 1] = high(a[lane][r]);
      sum[g + r / 2 * 8][2 * t + r % 2] = d[lane][r];
    }
    for (int r = 0; r < 2; r++) {
      right[2 * t + r * 8][g] = low(b[lane][r]);
      right[2 * t + r * 8 + 1][g] = high(b[lane][r]);
    }
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 8; j++) sum[i][j] += left[i][k] * right[k][j];
  for (int lane = 0; lane < LANES; lane++)
    for (int r = 0; r < 4; r++) d[lane][r] = sum[lane / 4 + r / 2 * 8][2 * (lane % 4) + r % 2];
}

/* ---- mma.m16n8k8 of tf32 ---- */

/* What the tensor core reads of a float32. */
static double cut(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits &= 0xffffe000u;
  memcpy(&value, &bits, sizeof value);
  return static_cast<double>(value);
}

/* The sum of n terms as the least exact tensor core known makes it (of a V100; later ones keep a bit or two more): all
 * are shifted to the largest one's exponent, and what then lies below 24 bits is cut off, of the sum, too. */
static float cut_sum(const double *term, int n) {
  double largest = 0.0, sum = 0.0;
  for (int i = 0; i < n; i++) {
    if (!std::isfinite(term[i])) largest = INFINITY;
    largest = std::max(largest, std::fabs(term[i]));
    sum += term[i];
  }
  if (largest == 0.0 || !std::isfinite(largest)) return static_cast<float>(sum);
  const double unit = std::ldexp(1.0, std::max(std::ilogb(largest) - 23, -149));
  sum = 0.0;
  for (int i = 0; i < n; i++) sum += std::trunc(term[i] / unit);
  sum *= unit;
  const float nearest = static_cast<float>(sum);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
}

void mma_tf32(float *const *d, const float *const *a, const float *const *b) {
  double left[16][8], right[8][8];
  float sum[16][8];
  for (int lane = 0; lane < LANES; lane++) {
    int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; r++) {
      left[g + r % 2 * 8][t + r / 2 * 4] = cut(a[lane][r]);
      sum[g + r / 2 * 8][2 * t + r % 2] = d[lane][r];
    }
    for (int r = 0; r < 2; r++) right[t + r * 4][g] = cut(b[lane][r]);
  }
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      double term[9] = {static_cast<double>(sum[i][j])};
      for (int k = 0; k < 8; k++) term[k + 1] = left[i][k] * right[k][j];
      sum[i][j] = cut_sum(term, 9);
    }
  for (int lane = 0; lane < LANES; lane++)
    for (int r = 0; r < 4; r++) d[lane][r] = sum[lane / 4 + r / 2 * 8][2 * (lane % 4) + r % 2];
}

/* ---- ldmatrix ---- */

void ldmatrix4(uint32_t (&r)[4], const unsigned char *row, bool turned) {
  struct operands {
    uint32_t *r;
    const unsigned char *row;
  } mine = {r, row};
  check_collective_read(row, 16, 16);
  together(turned ? "np_ldmatrix4_turned" : "np_ldmatrix4", 0, mine, [turned](operands *const *lanes) {
    np_bf16 matrix[4][8][8];
    for (int i = 0; i < LANES; i++) memcpy(matrix[i / 8][i % 8], lanes[i]->row, 16);
    for (int i = 0; i < LANES; i++)
      for (int k = 0; k < 4; k++) {
        int y = i / 4, x = 2 * (i % 4);
        uint32_t first = turned ? matrix[k][x][y] : matrix[k][y][x];
        uint32_t second = turned ? matrix[k][x + 1][y] : matrix[k][y][x + 1];
        lanes[i]->r[k] = second << 16 | first;
      }
  });
}

/* ---- cp.async ---- */

namespace {
struct copy {
  unsigned char *to;
  const void *from; /* NULL: zeros */
  size_t bytes;
  uint32_t group;
};
thread_local std::deque<copy> under_way[MOST_THREADS]; /* a thread's, oldest first */
} // namespace

void start_copies() {
  for (uint32_t t = 0; t < here.threads; t++) under_way[t].clear();
}

void copy_async(unsigned char *to, const void *from, size_t bytes, bool valid) {
  if (valid && reinterpret_cast<uintptr_t>(from) % bytes != 0)
    fail("np_copy_async: %p is not a multiple of %zu", from, bytes);
  copy_leaves(to, bytes);
  under_way[here.self->number].push_back({to, valid ? from : nullptr, bytes, here.self->groups});
}

void copy_commit() { here.self->groups++; }

void copy_wait(int left) {
  thread *self = here.self;
  std::deque<copy> &mine = under_way[self->number];
  while (!mine.empty() && mine.front().group + static_cast<uint32_t>(left) < self->groups) {
    copy_arrives(mine.front().to, mine.front().from, mine.front().bytes, stamp());
    mine.pop_front();
  }
}

} // namespace simt
