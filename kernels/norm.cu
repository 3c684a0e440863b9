/* LayerNorm with the residual addition, forward and backward: every byte is read and written once.
 *
 * Forward: a row lies in registers between statistics and output, spread over a warp (rows up to 2048) or a block of
 * eight (up to 8192), each thread holding vectors of eight neighbours:
 *
 *     thread   0        1        2      …   T-1       0        1      …         T = 32 or 256
 *            [0…7]   [8…15]  [16…23]    …         [8T…8T+7]           …         `count` vectors a thread
 *
 * Rows that are wider, or of odd width, are read again by their threads for each of the three passes (mean, deviations,
 * output), out of a cache.
 *
 * The mean comes first, then the squares about it: Σx² - (Σx)² would cancel. The second pass also sums the deviations,
 * whose average is what rounding took from the mean, and both statistics are corrected by it (Chan, Golub and LeVeque,
 * The American Statistician 37, 1983).
 *
 * Backward: with n = (x - mean)·rstd and a = dy·gain, dx = rstd·(a - avg(a) - n·avg(a·n)), dgain = Σ dy·n, dbias = Σ
 * dy. A block takes every so many-th pair of rows; a thread always has the same columns, so that dgain
 * and dbias of the part grow in its registers. They go to scratch, and the parts are added afterwards (parts.cuh). */
#include "kernels/kernels.h"
#include "kernels/parts.cuh"
#include "kernels/vector.cuh"

enum { THREADS = 256, WIDE = 8, PAIR = 2, MOST_THREADS = 512 };

typedef struct row_stats {
  float mean, rstd;
} row_stats;

/* ---- forward ---- */

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

/* ---- backward ---- */

/* Threads that are resident on a multiprocessor at once, in one block or several: what registers are bounded for. */
template <class T> constexpr int resident() { return sizeof(T) == 2 ? 576 : 512; }

/* What a thread holds of one row. */
template <class T, int n> struct back_row {
  np_vec<T, n> dy, x, residual;
  row_stats stats;
};

/* The sums of a pair of rows over the block, in one barrier. room: [warps]; free again after the next barrier. */
NP_DEVICE float4 pair_sums(float4 sums, np_shared<float4> room) {
  sums.x = np_warp_sum(sums.x);
  sums.y = np_warp_sum(sums.y);
  sums.z = np_warp_sum(sums.z);
  sums.w = np_warp_sum(sums.w);
  if (np_lane() == 0) room[np_warp()] = sums;
  np_block_sync();
  sums = room[0];
#pragma unroll 1
  for (int w = 1; w < static_cast<int>(blockDim.x) / NP_WARP; w++) {
    const float4 more = room[w];
    sums.x += more.x;
    sums.y += more.y;
    sums.z += more.z;
    sums.w += more.w;
  }
  return sums;
}

/* sums [parts, 2, width] takes dgain and dbias of each part. A thread has 8 columns, and width is a multiple of 8, at
 * most 4096. */
template <class T>
NP_KERNEL(resident<T>())
norm_backward(int64_t rows, int width, const T *dy, const T *x, const float *mean, const float *rstd, const float *gain,
              const T *residual, T *dx, float *sums) {
  const np_shared<float4> room = np_shared_at<float4>(0); /* [2, warps]: one half and the other in turn */
  const int column = static_cast<int>(threadIdx.x) * WIDE, warps = static_cast<int>(blockDim.x) / NP_WARP;
  const int parts = static_cast<int>(gridDim.x), part = static_cast<int>(blockIdx.x);
  const bool mine = column < width;
  const float share = 1.0f / static_cast<float>(width);
  const int64_t stride = static_cast<int64_t>(parts) * PAIR; /* a part has every parts-th pair of rows */
  float dgain[WIDE] = {}, dbias[WIDE] = {}, factor[WIDE] = {};
  if (mine) np_load_all(gain + column, factor);

  int half = 0;
  for (int64_t r = static_cast<int64_t>(part) * PAIR; r < rows; r += stride, half ^= 1) {
    back_row<T, WIDE> held[PAIR] = {};
#pragma unroll
    for (int p = 0; p < PAIR; p++) {
      const int64_t at = (r + p) * width + column;
      if (r + p >= rows || !mine) continue;
      held[p].stats = {mean[r + p], rstd[r + p]};
      held[p].dy = np_vec_load<WIDE>(dy + at);
      held[p].x = np_vec_load<WIDE>(x + at);
      if (residual) held[p].residual = np_vec_load<WIDE>(residual + at);
    }
    float total[2 * PAIR] = {}; /* Σ a and Σ a·n of each row */
#pragma unroll
    for (int p = 0; p < PAIR; p++) {
      float g[WIDE], s[WIDE];
      np_vec_get(held[p].dy, g);
      np_vec_get(held[p].x, s);
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        const float n = (s[j] - held[p].stats.mean) * held[p].stats.rstd, a = g[j] * factor[j];
        total[2 * p] += a;
        total[2 * p + 1] = fmaf(a, n, total[2 * p + 1]);
        dgain[j] = fmaf(g[j], n, dgain[j]);
        dbias[j] += g[j];
      }
    }
    const float4 sum = pair_sums({total[0], total[1], total[2], total[3]}, room + half * warps);
#pragma unroll
    for (int p = 0; p < PAIR; p++) {
      if (r + p >= rows || !mine) continue;
      const float avg_a = (p ? sum.z : sum.x) * share, avg_an = (p ? sum.w : sum.y) * share;
      float g[WIDE], s[WIDE], d[WIDE];
      np_vec_get(held[p].dy, g);
      np_vec_get(held[p].x, s);
      np_vec_get(held[p].residual, d); /* zeros without one */
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        const float n = (s[j] - held[p].stats.mean) * held[p].stats.rstd;
        d[j] = fmaf(held[p].stats.rstd, g[j] * factor[j] - avg_a - n * avg_an, d[j]);
      }
      np_store_all(dx + (r + p) * width + column, d);
    }
  }
  if (!mine) return;
  np_store_all(sums + static_cast<int64_t>(part) * 2 * width + column, dgain);
  np_store_all(sums + (static_cast<int64_t>(part) * 2 + 1) * width + column, dbias);
}

/* Any width: a thread has every 512th column, and the sums of its part grow in scratch. */
template <class T>
NP_KERNEL(MOST_THREADS)
norm_backward_any(int64_t rows, int width, const T *dy, const T *x, const float *mean, const float *rstd,
                  const float *gain, const T *residual, T *dx, float *sums) {
  const np_shared<float> room = np_shared_at<float>(0); /* [2, warps] */
  const int thread = static_cast<int>(threadIdx.x), parts = static_cast<int>(gridDim.x);
  const int part = static_cast<int>(blockIdx.x);
  const int64_t end = np_part_begin(rows, parts, part + 1);
  float *dgain = sums + static_cast<int64_t>(part) * 2 * width, *dbias = dgain + width;
  for (int j = thread; j < width; j += MOST_THREADS) dgain[j] = dbias[j] = 0.0f;
  for (int64_t r = np_part_begin(rows, parts, part); r < end; r++) {
    const int64_t at = r * width;
    const row_stats stats = {mean[r], rstd[r]};
    float sum_a = 0.0f, sum_an = 0.0f;
    for (int j = thread; j < width; j += MOST_THREADS) {
      const float a = np_load(dy + at + j) * gain[j], n = (np_load(x + at + j) - stats.mean) * stats.rstd;
      sum_a += a;
      sum_an = fmaf(a, n, sum_an);
    }
    const float avg_a = np_block_sum(sum_a, MOST_THREADS, room) / static_cast<float>(width);
    const float avg_an = np_block_sum(sum_an, MOST_THREADS, room + MOST_THREADS / NP_WARP) / static_cast<float>(width);
    for (int j = thread; j < width; j += MOST_THREADS) {
      const float g = np_load(dy + at + j), n = (np_load(x + at + j) - stats.mean) * stats.rstd;
      const float more = residual ? np_load(residual + at + j) : 0.0f;
      np_store(dx + at + j, fmaf(stats.rstd, g * gain[j] - avg_a - n * avg_an, more));
      dgain[j] = fmaf(g, n, dgain[j]);
      dbias[j] += g;
    }
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

/* Threads of a block of the backward pass, and how many blocks: as many as are resident at once, so that all end
 * together and adding their sums is a small part of the work. */
static int backward_threads(int width) {
  const int threads = (width + WIDE * NP_WARP - 1) / (WIDE * NP_WARP) * NP_WARP;
  return threads < MOST_THREADS ? threads : MOST_THREADS;
}

static int backward_parts(const np_gpu *gpu, np_dtype act, int width) {
  const int blocks = (act == NP_BF16 ? resident<np_bf16>() : resident<float>()) / backward_threads(width);
  return gpu->processors * (blocks < 16 ? blocks : 16);
}

extern "C" size_t np_kernel_norm_backward_scratch(const np_gpu *gpu, int width) {
  return static_cast<size_t>(backward_parts(gpu, NP_BF16, width)) * 2 * static_cast<size_t>(width) * sizeof(float);
}

template <class T>
static np_status launch_backward(const np_gpu *gpu, int64_t rows, int width, int parts, const void *dy, const void *x,
                                 const float *mean, const float *rstd, const float *gain, const void *residual,
                                 void *dx, float *sums) {
  const bool aligned =
      np_aligned(dy, 16) && np_aligned(x, 16) && np_aligned(gain, 16) && np_aligned(residual, 16) && np_aligned(dx, 16);
  const bool fits = aligned && width % WIDE == 0 && width <= WIDE * MOST_THREADS;
  const int threads = fits ? backward_threads(width) : MOST_THREADS;
  const size_t room = static_cast<size_t>(2 * threads / NP_WARP) * sizeof(float4);
  return np_launch(gpu, "norm_backward", fits ? norm_backward<T> : norm_backward_any<T>,
                   dim3(static_cast<unsigned>(parts)), threads, room, rows, width, static_cast<const T *>(dy),
                   static_cast<const T *>(x), mean, rstd, gain, static_cast<const T *>(residual), static_cast<T *>(dx),
                   sums);
}

extern "C" np_status np_kernel_norm_backward(const np_gpu *gpu, np_dtype act, int64_t rows, int width, const void *dy,
                                             const void *x, const float *mean, const float *rstd, const float *gain,
                                             const void *residual, void *dx, float *dgain, float *dbias,
                                             bool accumulate, void *scratch) {
  float *sums = static_cast<float *>(scratch);
  const int most = backward_parts(gpu, act, width);
  const int64_t pairs = (rows + PAIR - 1) / PAIR;
  const int parts = static_cast<int>(pairs < most ? pairs : most);
  np_status st = act == NP_BF16
                     ? launch_backward<np_bf16>(gpu, rows, width, parts, dy, x, mean, rstd, gain, residual, dx, sums)
                     : launch_backward<float>(gpu, rows, width, parts, dy, x, mean, rstd, gain, residual, dx, sums);
  if (st != NP_OK) return st;
  st = np_add_parts(gpu, "norm_backward_gain", parts, width, 2 * static_cast<int64_t>(width), sums, dgain, accumulate);
  if (st != NP_OK) return st;
  return np_add_parts(gpu, "norm_backward_bias", parts, width, 2 * static_cast<int64_t>(width), sums + width, dbias,
                      accumulate);
}
