/* LayerNorm with the residual addition, backward: every byte is read and written once.
 *
 * With n = (x - mean)·rstd and a = dy·gain, dx = rstd·(a - avg(a) - n·avg(a·n)), dgain = Σ dy·n, dbias = Σ dy. A block
 * takes every so many-th pair of rows; a thread always has the same columns, so that dgain and dbias of the part grow
 * in its registers. They go to scratch, and the parts are added afterwards (parts.cuh). */
#include "kernels/kernels.h"
#include "kernels/parts.cuh"
#include "kernels/vector.cuh"

enum { WIDE = 8, PAIR = 2, MOST_THREADS = 512 };

/* ---- kernels ---- */

/* Threads that are resident on a multiprocessor at once, in one block or several: what registers are bounded for. */
template <class T> constexpr int resident() { return sizeof(T) == 2 ? 576 : 512; }

/* What a thread holds of one row. */
template <class T, int n> struct back_row {
  np_vec<T, n> dy, x, residual;
  float mean, rstd;
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
      held[p].mean = mean[r + p], held[p].rstd = rstd[r + p];
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
        const float n = (s[j] - held[p].mean) * held[p].rstd, a = g[j] * factor[j];
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
        const float n = (s[j] - held[p].mean) * held[p].rstd;
        d[j] = fmaf(held[p].rstd, g[j] * factor[j] - avg_a - n * avg_an, d[j]);
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
    const float m = mean[r], factor = rstd[r];
    float sum_a = 0.0f, sum_an = 0.0f;
    for (int j = thread; j < width; j += MOST_THREADS) {
      const float a = np_load(dy + at + j) * gain[j], n = (np_load(x + at + j) - m) * factor;
      sum_a += a;
      sum_an = fmaf(a, n, sum_an);
    }
    const float avg_a = np_block_sum(sum_a, MOST_THREADS, room) / static_cast<float>(width);
    const float avg_an = np_block_sum(sum_an, MOST_THREADS, room + MOST_THREADS / NP_WARP) / static_cast<float>(width);
    for (int j = thread; j < width; j += MOST_THREADS) {
      const float g = np_load(dy + at + j), n = (np_load(x + at + j) - m) * factor;
      const float more = residual ? np_load(residual + at + j) : 0.0f;
      np_store(dx + at + j, fmaf(factor, g * gain[j] - avg_a - n * avg_an, more));
      dgain[j] = fmaf(g, n, dgain[j]);
      dbias[j] += g;
    }
  }
}

/* ---- launchers ---- */

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
