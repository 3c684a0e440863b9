/* Attentive pooling by one query, forward and backward, as four steps that read x [B, N, D] once or twice:
 *
 *     scores   s[b, i, n] = x[b, n, :]·u[i, :]               backward: the slopes x[b, n, :]·dpooled[b, i, :]
 *     softmax  weight = softmax over n, in place             backward: ds = weight·(slope - Σ_n weight·slope), in place
 *     gather   pooled[b, i, :] = Σ_n weight[b, i, n]·x[b, n, :]        du of image b from ds
 *     parts                                                  backward alone: du = Σ_b
 *
 * Scores and gather run on tensor cores (pool_scores.cuh, pool_gather.cuh; pool.cuh says how float32 does). What does
 * not lie as they want it, rows of no multiple of four floats most of all, takes a plain kernel, here.
 *
 * Scratch of the backward pass: ds [B, h, N], then du of each image [B, h, D]. */
#include "kernels/kernels.h"
#include "kernels/parts.cuh"
#include "kernels/pool_gather.cuh"
#include "kernels/pool_scores.cuh"

enum { THREADS = 256, WARPS = THREADS / NP_WARP, HEADS = 4 };

/* ---- kernels ---- */

/* Each row of s [rows, tokens] becomes its softmax; a warp takes a row, a lane the same values each time. */
NP_KERNEL(THREADS) softmax(int64_t rows, int tokens, float *s) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp(); r < rows; r += stride) {
    float *row = s + r * tokens, top = -3.402823466e38f, sum = 0.0f;
    for (int j = np_lane(); j < tokens; j += NP_WARP) top = fmaxf(top, row[j]);
    top = np_warp_max(top);
    for (int j = np_lane(); j < tokens; j += NP_WARP) {
      row[j] = expf(row[j] - top);
      sum += row[j];
    }
    const float factor = 1.0f / np_warp_sum(sum);
    for (int j = np_lane(); j < tokens; j += NP_WARP) row[j] *= factor;
  }
}

/* ds, which holds slopes, becomes weight·(slope - Σ weight·slope); both [rows, tokens]. */
NP_KERNEL(THREADS) softmax_backward(int64_t rows, int tokens, const float *weight, float *ds) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp(); r < rows; r += stride) {
    const float *w = weight + r * tokens;
    float *row = ds + r * tokens, mean = 0.0f;
    for (int j = np_lane(); j < tokens; j += NP_WARP) mean = fmaf(w[j], row[j], mean);
    mean = np_warp_sum(mean);
    for (int j = np_lane(); j < tokens; j += NP_WARP) row[j] = w[j] * (row[j] - mean);
  }
}

/* Either product of anything, a thread a token (scores) or a column (gather) and HEADS heads at a time:
 * out[b, i, j] = Σ_k right[i, k]·x[b][j·by_j + k·by_k], j < columns, k < terms; right of image b is at right + b·image.
 * The grid: `blocks` for the j's of each image. */
NP_KERNEL(THREADS)
any_product(int blocks, int heads, int columns, int terms, int64_t by_j, int64_t by_k, int64_t image, const float *x,
            const float *right, float *out) {
  const int64_t b = blockIdx.x / static_cast<unsigned>(blocks), all = static_cast<int64_t>(columns) * terms;
  const int j = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks)) * THREADS + static_cast<int>(threadIdx.x);
  if (j >= columns) return;
  x += b * all + j * by_j;
  right += b * image;
  out += b * heads * columns + j;
  for (int head = 0; head < heads; head += HEADS) {
    float sum[HEADS] = {};
    for (int k = 0; k < terms; k++) {
      const float value = x[k * by_k];
#pragma unroll
      for (int i = 0; i < HEADS; i++) /* the last one again for those that are not there */
        sum[i] = fmaf(right[static_cast<int64_t>(head + i < heads ? head + i : heads - 1) * terms + k], value, sum[i]);
    }
#pragma unroll
    for (int i = 0; i < HEADS; i++)
      if (head + i < heads) out[static_cast<int64_t>(head + i) * columns] = sum[i];
  }
}

/* ---- launchers ---- */

/* Whether 16 bytes at a time are whole numbers of all three. */
static bool by_four(int width, const void *x, const void *other) {
  return width % 4 == 0 && np_aligned(x, 16) && np_aligned(other, 16);
}

static np_status any(const np_gpu *gpu, const char *name, int batch, int heads, int columns, int terms, int64_t by_j,
                     int64_t by_k, int64_t image, const float *x, const float *right, float *out) {
  const int blocks = (columns + THREADS - 1) / THREADS;
  return np_launch(gpu, name, any_product, dim3(static_cast<unsigned>(batch) * static_cast<unsigned>(blocks)), THREADS,
                   0, blocks, heads, columns, terms, by_j, by_k, image, x, right, out);
}

/* s [B, h, N] = x·u, u [h, D] or of_image [B, h, D]. */
static np_status scores(const np_gpu *gpu, const char *name, int batch, int tokens, int heads, int width, bool of_image,
                        const float *x, const float *u, float *s) {
  np_status st = NP_OK;
  if (!by_four(width, x, u))
    return any(gpu, name, batch, heads, tokens, width, width, 1, of_image ? static_cast<int64_t>(heads) * width : 0, x,
               u, s);
  for (int head = 0; head < heads && st == NP_OK; head += NP_POOL_HEADS) {
    const int left = heads - head < NP_POOL_HEADS ? heads - head : NP_POOL_HEADS;
    const int64_t by_width = static_cast<int64_t>(head) * width, by_token = static_cast<int64_t>(head) * tokens;
    const np_pool_call call = {batch, tokens, width, left, heads, x, u + by_width, s + by_token};
    st = np_pool_scores(gpu, name, call, of_image);
  }
  return st;
}

/* out [B, h, D] = weight [B, h, N]·x. */
static np_status gather(const np_gpu *gpu, const char *name, int batch, int tokens, int heads, int width,
                        const float *x, const float *weight, float *out) {
  np_status st = NP_OK;
  if (!by_four(width, x, out))
    return any(gpu, name, batch, heads, width, tokens, 1, width, static_cast<int64_t>(heads) * tokens, x, weight, out);
  for (int head = 0; head < heads && st == NP_OK; head += NP_POOL_HEADS) {
    const int left = heads - head < NP_POOL_HEADS ? heads - head : NP_POOL_HEADS;
    const int64_t by_width = static_cast<int64_t>(head) * width, by_token = static_cast<int64_t>(head) * tokens;
    const np_pool_call call = {batch, tokens, width, left, heads, x, weight + by_token, out + by_width};
    st = np_pool_gather(gpu, name, call);
  }
  return st;
}

static unsigned row_blocks(const np_gpu *gpu, int64_t rows) { return np_grid(gpu, (rows + WARPS - 1) / WARPS); }

extern "C" np_status np_kernel_pool_forward(const np_gpu *gpu, int batch, int tokens, int heads, int width,
                                            const float *x, const float *u, float *weight, float *pooled) {
  const int64_t rows = static_cast<int64_t>(batch) * heads;
  np_status st = scores(gpu, "pool_scores", batch, tokens, heads, width, false, x, u, weight);
  if (st != NP_OK) return st;
  st = np_launch(gpu, "pool_softmax", softmax, dim3(row_blocks(gpu, rows)), THREADS, 0, rows, tokens, weight);
  if (st != NP_OK) return st;
  return gather(gpu, "pool_gather", batch, tokens, heads, width, x, weight, pooled);
}

/* Floats of ds: whole vectors. */
static size_t slopes_room(int batch, int tokens, int heads) {
  return (static_cast<size_t>(batch) * static_cast<size_t>(heads) * static_cast<size_t>(tokens) + 3) / 4 * 4;
}

extern "C" size_t np_kernel_pool_backward_scratch(const np_gpu *gpu, int batch, int tokens, int heads, int width) {
  (void)gpu;
  const size_t sums = static_cast<size_t>(batch) * static_cast<size_t>(heads) * static_cast<size_t>(width);
  return (slopes_room(batch, tokens, heads) + sums) * sizeof(float);
}

extern "C" np_status np_kernel_pool_backward(const np_gpu *gpu, int batch, int tokens, int heads, int width,
                                             const float *x, const float *weight, const float *dpooled, float *du,
                                             bool accumulate, void *scratch) {
  const int64_t rows = static_cast<int64_t>(batch) * heads, all = static_cast<int64_t>(heads) * width;
  float *ds = static_cast<float *>(scratch), *sums = ds + slopes_room(batch, tokens, heads);
  np_status st = scores(gpu, "pool_slopes", batch, tokens, heads, width, true, x, dpooled, ds);
  if (st != NP_OK) return st;
  st = np_launch(gpu, "pool_softmax_backward", softmax_backward, dim3(row_blocks(gpu, rows)), THREADS, 0, rows, tokens,
                 weight, ds);
  if (st != NP_OK) return st;
  st = gather(gpu, "pool_gather_backward", batch, tokens, heads, width, x, ds, sums);
  if (st != NP_OK) return st;
  return np_add_parts(gpu, "pool_parts", batch, all, all, sums, du, accumulate);
}
