/* LayerNorm with the residual addition, forward: every byte is read and written once. A row lies in registers between
 * statistics and output, spread over a warp (rows up to 2048) or a block of eight (up to 8192), each thread holding
 * vectors of eight neighbours:
 *
 *     thread   0        1        2      …   T-1       0        1      …         T = 32 or 256
 *            [0…7]   [8…15]  [16…23]    …         [8T…8T+7]           …         `count` vectors a thread
 *
 * Rows that are wider, or of odd width, are read again by their threads for each of the three passes (mean, deviations,
 * output), out of a cache.
 *
 * The mean comes first, then the squares about it: Σx² - (Σx)² would cancel. The second pass also sums the deviations,
 * whose average is what rounding took from the mean, and both statistics are corrected by it (Chan, Golub and LeVeque,
 * The American Statistician 37, 1983). */
#include "kernels/kernels.h"
#include "kernels/vector.cuh"

enum { THREADS = 256, WIDE = 8 };

typedef struct row_stats {
  float mean, rstd;
} row_stats;

/* ---- kernels ---- */

/* Sums over the threads that share a row, one warp or the whole block. room: THREADS / 32 values. */
template <int threads> NP_DEVICE float row_sum(float value, np_shared<float> room) {
  if constexpr (threads == NP_WARP) return np_warp_sum(value);
  else return np_block_sum(value, threads, room);
}

/* A value as it is stored. */
NP_DEVICE float rounded(const float *, float value) { return value; }
NP_DEVICE float rounded(const np_bf16 *, float value) { return np_widen(np_narrow(value)); }

/* s = act(x + delta) of this thread's columns, stored to `sum`. It stays as memory has it: rounded, so that the
 * backward pass sees the same s, and in bf16 half the registers of floats. */
template <class T, int threads, int count>
NP_DEVICE void load_sum(int width, int thread, const T *x, const T *delta, T *sum, np_vec<T, WIDE> (&s)[count]) {
  np_vec<T, WIDE> more[count];
#pragma unroll
  for (int k = 0; k < count; k++) {
    const int column = (k * threads + thread) * WIDE;
    if (column >= width) continue;
    s[k] = np_vec_load<WIDE>(x + column);
    if (delta) more[k] = np_vec_load<WIDE>(delta + column);
  }
#pragma unroll
  for (int k = 0; k < count; k++) {
    const int column = (k * threads + thread) * WIDE;
    if (column >= width) continue;
    if (delta) {
      float value[WIDE], add[WIDE];
      np_vec_get(s[k], value);
      np_vec_get(more[k], add);
#pragma unroll
      for (int j = 0; j < WIDE; j++) value[j] += add[j];
      np_vec_set(s[k], value);
    }
    if (sum) np_vec_store(sum + column, s[k]);
  }
}

/* Statistics of a row in registers. room: three rooms of row_sum. */
template <class T, int threads, int count>
NP_DEVICE row_stats statistics(int width, float eps, int thread, const np_vec<T, WIDE> (&s)[count],
                               np_shared<float> room) {
  float total = 0.0f, missed = 0.0f, squares = 0.0f, v[WIDE];
#pragma unroll
  for (int k = 0; k < count; k++) {
    if ((k * threads + thread) * WIDE >= width) continue;
    np_vec_get(s[k], v);
    total += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
  const float n = static_cast<float>(width), mean = row_sum<threads>(total, room) / n;
#pragma unroll
  for (int k = 0; k < count; k++) {
    if ((k * threads + thread) * WIDE >= width) continue;
    np_vec_get(s[k], v);
#pragma unroll
    for (int j = 0; j < WIDE; j++) {
      const float d = v[j] - mean;
      missed += d;
      squares = fmaf(d, d, squares);
    }
  }
  missed = row_sum<threads>(missed, room + THREADS / NP_WARP) / n;
  squares = row_sum<threads>(squares, room + 2 * (THREADS / NP_WARP)) / n;
  return {mean + missed, 1.0f / sqrtf(squares - missed * missed + eps)};
}

/* THREADS / threads rows a block at a time; width is a multiple of 8, at most 8·threads·count. */
template <class T, int threads, int count>
NP_KERNEL(THREADS)
norm_forward(int64_t rows, int width, float eps, const T *x, const T *delta, const float *gain, const float *bias,
             T *sum, T *y, float *mean, float *rstd) {
  const np_shared<float> room = np_shared_at<float>(0); /* [3, THREADS / 32] */
  constexpr int together = THREADS / threads;
  const int group = static_cast<int>(threadIdx.x) / threads, thread = static_cast<int>(threadIdx.x) % threads;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * together;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * together + group; r < rows; r += stride) {
    const int64_t at = r * width;
    np_vec<T, WIDE> s[count];
    load_sum<T, threads, count>(width, thread, x + at, delta ? delta + at : nullptr, sum ? sum + at : nullptr, s);
    const row_stats stats = statistics<T, threads, count>(width, eps, thread, s, room);
#pragma unroll
    for (int k = 0; k < count; k++) {
      const int column = (k * threads + thread) * WIDE;
      if (column >= width) continue;
      float value[WIDE], g[WIDE], b[WIDE];
      np_vec_get(s[k], value);
      np_load_all(gain + column, g);
      np_load_all(bias + column, b);
#pragma unroll
      for (int j = 0; j < WIDE; j++) value[j] = fmaf((value[j] - stats.mean) * stats.rstd, g[j], b[j]);
      np_store_all(y + at + column, value);
    }
    if (thread == 0 && mean) mean[r] = stats.mean;
    if (thread == 0 && rstd) rstd[r] = stats.rstd;
  }
}

/* Any width, a block a row: a thread reads again what it read, or stored, itself. */
template <class T>
NP_KERNEL(THREADS)
norm_forward_any(int64_t rows, int width, float eps, const T *x, const T *delta, const float *gain, const float *bias,
                 T *sum, T *y, float *mean, float *rstd) {
  const np_shared<float> room = np_shared_at<float>(0); /* [3, THREADS / 32] */
  const int thread = static_cast<int>(threadIdx.x);
  const float n = static_cast<float>(width);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int64_t at = r * width;
    const T *s = sum ? sum + at : x + at, *more = sum || !delta ? nullptr : delta + at;
    float total = 0.0f, missed = 0.0f, squares = 0.0f;
    for (int j = thread; j < width; j += THREADS) {
      float value = np_load(x + at + j);
      if (delta) value = rounded(x, value + np_load(delta + at + j));
      if (sum) np_store(sum + at + j, value);
      total += value;
    }
    float m = np_block_sum(total, THREADS, room) / n;
    for (int j = thread; j < width; j += THREADS) {
      const float d = (more ? rounded(x, np_load(s + j) + np_load(more + j)) : np_load(s + j)) - m;
      missed += d;
      squares = fmaf(d, d, squares);
    }
    missed = np_block_sum(missed, THREADS, room + THREADS / NP_WARP) / n;
    squares = np_block_sum(squares, THREADS, room + 2 * (THREADS / NP_WARP)) / n;
    m += missed;
    const float factor = 1.0f / sqrtf(squares - missed * missed + eps);
    for (int j = thread; j < width; j += THREADS) {
      const float value = more ? rounded(x, np_load(s + j) + np_load(more + j)) : np_load(s + j);
      np_store(y + at + j, fmaf((value - m) * factor, gain[j], bias[j]));
    }
    if (thread == 0 && mean) mean[r] = m;
    if (thread == 0 && rstd) rstd[r] = factor;
  }
}

/* ---- launchers ---- */

typedef struct forward_call { /* the operands of a forward pass, as the operator names them */
  int64_t rows;
  int width;
  float eps;
  const void *x, *delta;
  const float *gain, *bias;
  void *sum, *y;
  float *mean, *rstd;
} forward_call;

template <class T, int threads, int count>
static np_status launch_forward(const np_gpu *gpu, const forward_call *call) {
  constexpr int together = THREADS / threads;
  return np_launch(gpu, "norm_forward", norm_forward<T, threads, count>,
                   dim3(np_grid(gpu, (call->rows + together - 1) / together)), THREADS,
                   3 * (THREADS / NP_WARP) * sizeof(float), call->rows, call->width, call->eps,
                   static_cast<const T *>(call->x), static_cast<const T *>(call->delta), call->gain, call->bias,
                   static_cast<T *>(call->sum), static_cast<T *>(call->y), call->mean, call->rstd);
}

/* The kernel whose threads hold the row with the fewest registers. */
template <class T> static np_status forward_by_width(const np_gpu *gpu, const forward_call *call) {
  const bool aligned = np_aligned(call->x, 16) && np_aligned(call->delta, 16) && np_aligned(call->gain, 16) &&
                       np_aligned(call->bias, 16) && np_aligned(call->sum, 16) && np_aligned(call->y, 16);
  if (!aligned || call->width % WIDE != 0 || call->width > 8192)
    return np_launch(gpu, "norm_forward", norm_forward_any<T>, dim3(np_grid(gpu, call->rows)), THREADS,
                     3 * (THREADS / NP_WARP) * sizeof(float), call->rows, call->width, call->eps,
                     static_cast<const T *>(call->x), static_cast<const T *>(call->delta), call->gain, call->bias,
                     static_cast<T *>(call->sum), static_cast<T *>(call->y), call->mean, call->rstd);
  if (call->width <= 256) return launch_forward<T, 32, 1>(gpu, call);
  if (call->width <= 512) return launch_forward<T, 32, 2>(gpu, call);
  if (call->width <= 1024) return launch_forward<T, 32, 4>(gpu, call);
  if (call->width <= 1536) return launch_forward<T, 32, 6>(gpu, call);
  if (call->width <= 2048) return launch_forward<T, 32, 8>(gpu, call);
  if (call->width <= 4096) return launch_forward<T, 256, 2>(gpu, call);
  return launch_forward<T, 256, 4>(gpu, call);
}

extern "C" np_status np_kernel_norm_forward(const np_gpu *gpu, np_dtype act, int64_t rows, int width, float eps,
                                            const void *x, const void *delta, const float *gain, const float *bias,
                                            void *sum, void *y, float *mean, float *rstd) {
  const forward_call call = {rows, width, eps, x, delta, gain, bias, sum, y, mean, rstd};
  return act == NP_BF16 ? forward_by_width<np_bf16>(gpu, &call) : forward_by_width<float>(gpu, &call);
}
