/* The pixel loss in one pass: a warp a row. Bytes of the target patch become floats in shared memory, are standardised
 * there by their own mean and variance, and meet the row of predictions, whose gradient goes out as the predictions
 * come in:
 *
 *     bytes ─ levels ─→ target [P·P·C], shared ─ mean, deviations ─→ t ┐
 *     pred [P·P·C] ────────────────────────────────────────────────────┴→ (pred - t)² → loss of the block → sum of all
 *                                                                      └→ scale·2·(pred - t)/(P·P·C) → dpred
 *
 * Standardised in float32: deviations from a rounded mean are exact for a patch of nearly one colour, and their
 * average, which is what rounding took from the mean, is taken off them again (as in norm.cu). A patch of one colour so
 * gives 0. */
#include "kernels/kernels.h"
#include "kernels/patches.cuh"
#include "kernels/total.cuh"
#include "kernels/vector.cuh"

enum { MOST_THREADS = 256, BLOCKS = 4 };

/* ---- kernels ---- */

/* t = (t - mean)/sqrt(var + 1e-6), var unbiased; a single value has no variance (0/0), as in the reference. sum: of the
 * values this lane put there; a lane treats its own values alone. Done in place. */
NP_DEVICE void standardise(int values, float sum, np_shared<float> t) {
  const float n = static_cast<float>(values), mean = np_warp_sum(sum) / n;
  float missed = 0.0f, squares = 0.0f;
  for (int j = np_lane(); j < values; j += NP_WARP) {
    const float d = t[j] - mean;
    missed += d;
    squares = fmaf(d, d, squares);
  }
  missed = np_warp_sum(missed) / n;
  const float var = (np_warp_sum(squares) - missed * missed * n) / (n - 1.0f), factor = 1.0f / sqrtf(var + 1e-6f);
  for (int j = np_lane(); j < values; j += NP_WARP) t[j] = (t[j] - mean - missed) * factor;
}

/* One row against its target; returns this lane's share of Σ (pred - t)², squared in float64, where no square of a
 * finite difference is infinite. n divides values; pred may be dpred. */
template <class T, int n>
NP_DEVICE double compare(int values, float step, np_shared<const float> t, const T *pred, T *dpred) {
  enum { ROUND = 2 };
  double sum = 0.0;
  for (int first = np_lane() * n; first < values; first += ROUND * NP_WARP * n) {
    np_vec<T, n> held[ROUND];
#pragma unroll
    for (int u = 0; u < ROUND; u++)
      if (first + u * NP_WARP * n < values) held[u] = np_vec_load<n>(pred + first + u * NP_WARP * n);
#pragma unroll
    for (int u = 0; u < ROUND; u++) {
      const int at = first + u * NP_WARP * n;
      if (at >= values) continue;
      float d[n], target[n];
      np_vec_get(held[u], d);
      np_shared_all<n>(t + at, target);
#pragma unroll
      for (int j = 0; j < n; j++) {
        d[j] -= target[j];
        sum += static_cast<double>(d[j]) * static_cast<double>(d[j]);
        d[j] *= step;
      }
      if (dpred) np_store_all(dpred + at, d);
    }
  }
  return sum;
}

/* losses[block] is the sum over the block's rows. n divides the values of a patch. room: floats a patch takes. */
template <class T, int n>
NP_KERNEL(MOST_THREADS)
pixel_loss(np_pixels pixels, int64_t rows, int room, bool normalize, const int32_t *index, const float *scale,
           const T *pred, T *dpred, double *losses) {
  const np_shared<double> warp_losses = np_shared_at<double>(0); /* [8] */
  const np_shared<float> level = np_shared_at<float>(8 * sizeof(double));
  const np_shared<float> t = level + (NP_LEVELS + np_warp() * room);
  const int across = pixels.width / pixels.patch, tokens = across * (pixels.height / pixels.patch);
  const int values = pixels.patch * pixels.patch * pixels.channels, warps = static_cast<int>(blockDim.x) / NP_WARP;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * warps;
  const float step = dpred ? 2.0f * *scale / static_cast<float>(values) : 0.0f;
  double loss = 0.0;
  np_fill_levels(pixels, level);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * warps + np_warp(); r < rows; r += stride) {
    const int token = index[r];
    T *gradient = dpred ? dpred + r * values : nullptr;
    if (token < 0) {
      const float zeros[n] = {};
      for (int j = np_lane() * n; gradient && j < values; j += NP_WARP * n) np_store_all(gradient + j, zeros);
      continue;
    }
    const float sum = np_read_patch(pixels, token / tokens, token % tokens + 1, false, level, t);
    if (normalize) standardise(values, sum, t);
    np_warp_sync();
    const double squares = compare<T, n>(values, step, t, pred + r * values, gradient);
    loss += np_warp_sum(squares) / values;
    np_warp_sync();
  }
  if (np_lane() == 0) warp_losses[np_warp()] = loss;
  np_block_sync();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < warps; w++) loss += warp_losses[w];
  losses[blockIdx.x] = loss;
}

/* ---- launchers ---- */

extern "C" size_t np_kernel_pixel_loss_scratch(const np_gpu *gpu) {
  return static_cast<size_t>(gpu->processors) * BLOCKS * sizeof(double);
}

typedef struct loss_call { /* the operands of the operator */
  const np_pixels *pixels;
  int64_t rows;
  const int32_t *index;
  bool normalize;
  const float *scale;
  const void *pred;
  void *dpred;
} loss_call;

template <class T, int n>
static np_status launch(const np_gpu *gpu, const loss_call *call, int warps, int64_t blocks, double *losses) {
  const int room = np_patch_room(call->pixels);
  const size_t bytes = 8 * sizeof(double) + (NP_LEVELS + static_cast<size_t>(warps * room)) * sizeof(float);
  return np_launch(gpu, "pixel_loss", pixel_loss<T, n>, dim3(static_cast<unsigned>(blocks)), warps * NP_WARP, bytes,
                   *call->pixels, call->rows, room, call->normalize, call->index, call->scale,
                   static_cast<const T *>(call->pred), static_cast<T *>(call->dpred), losses);
}

extern "C" np_status np_kernel_pixel_loss(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, int64_t rows,
                                          const int32_t *index, bool normalize, const float *scale, const void *pred,
                                          void *dpred, double *loss, bool accumulate, void *scratch) {
  np_status st = np_patch_check(gpu, pixels);
  if (st != NP_OK) return st;
  const loss_call call = {pixels, rows, index, normalize, scale, pred, dpred};
  double *losses = static_cast<double *>(scratch);
  const int warps = np_patch_warps(gpu, pixels);
  const int64_t wanted = (rows + warps - 1) / warps, most = static_cast<int64_t>(gpu->processors) * BLOCKS;
  const int64_t blocks = wanted < most ? wanted : most;
  const bool four =
      pixels->patch * pixels->patch * pixels->channels % 4 == 0 && np_aligned(pred, 16) && np_aligned(dpred, 16);
  if (act == NP_BF16) {
    st = four ? launch<np_bf16, 4>(gpu, &call, warps, blocks, losses)
              : launch<np_bf16, 1>(gpu, &call, warps, blocks, losses);
  } else {
    st = four ? launch<float, 4>(gpu, &call, warps, blocks, losses)
              : launch<float, 1>(gpu, &call, warps, blocks, losses);
  }
  return st == NP_OK ? np_total(gpu, "pixel_loss_total", blocks, losses, loss, accumulate) : st;
}
