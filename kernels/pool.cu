/* Attentive pooling by one query, forward and backward, as four steps that read x [B, N, D] once or twice:
 *
 *     scores   s[b, i, n] = x[b, n, :]·u[i, :]               backward: the slopes x[b, n, :]·dpooled[b, i, :]
 *     softmax  weight = softmax over n, in place             backward: ds = weight·(slope - Σ_n weight·slope), in place
 *     gather   pooled[b, i, :] = Σ_n weight[b, i, n]·x[b, n, :]        du of image b from ds
 *     parts                                                  backward alone: du = Σ_b
 *
 * Scratch of the backward pass: ds [B, h, N], then du of each image [B, h, D]. */
#include "kernels/kernels.h"
#include "kernels/parts.cuh"
#include "kernels/vector.cuh"

enum { THREADS = 256, WARPS = THREADS / NP_WARP, TOKENS = 4, HEADS = 4, GATHERED = 8 };

/* ---- kernels ---- */

/* A warp takes TOKENS tokens of an image and HEADS heads at a time, so that a value from memory enters four products. u
 * of image b begins at u + b·u_image. n divides width. */
template <int n>
NP_KERNEL(THREADS)
scores(int batch, int tokens, int heads, int width, int64_t u_image, const float *x, const float *u, float *out) {
  const int groups = (tokens + TOKENS - 1) / TOKENS;
  const int64_t all = static_cast<int64_t>(batch) * groups, stride = static_cast<int64_t>(gridDim.x) * WARPS;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp(); at < all; at += stride) {
    const int64_t b = at / groups;
    const int token = static_cast<int>(at % groups) * TOKENS;
    for (int head = 0; head < heads; head += HEADS) {
      float sum[TOKENS][HEADS] = {};
      for (int column = np_lane() * n; column < width; column += NP_WARP * n) {
        float row[TOKENS][n] = {}, query[HEADS][n] = {};
#pragma unroll
        for (int t = 0; t < TOKENS; t++)
          if (token + t < tokens) np_load_all(x + (b * tokens + token + t) * width + column, row[t]);
#pragma unroll
        for (int i = 0; i < HEADS; i++)
          if (head + i < heads)
            np_load_all(u + b * u_image + static_cast<int64_t>(head + i) * width + column, query[i]);
#pragma unroll
        for (int t = 0; t < TOKENS; t++)
#pragma unroll
          for (int i = 0; i < HEADS; i++)
#pragma unroll
            for (int j = 0; j < n; j++) sum[t][i] = fmaf(row[t][j], query[i][j], sum[t][i]);
      }
      float mine = 0.0f; /* lane t·HEADS + i keeps token t, head i */
#pragma unroll
      for (int t = 0; t < TOKENS; t++)
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
          const float total = np_warp_sum(sum[t][i]);
          if (np_lane() == t * HEADS + i) mine = total;
        }
      const int t = np_lane() / HEADS, i = np_lane() % HEADS;
      if (t < TOKENS && token + t < tokens && head + i < heads) out[(b * heads + head + i) * tokens + token + t] = mine;
    }
  }
}

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

/* out[b, i, :] = Σ_t weight[b, i, t]·x[b, t, :]. A block takes 32·n columns of an image and GATHERED heads at a time; a
 * warp takes every eighth token, and the warps' sums meet in shared memory. n divides width. */
template <int n>
NP_KERNEL(THREADS)
gather(int tokens, int heads, int width, int strips, const float *x, const float *weight, float *out) {
  const np_shared<float> room = np_shared_at<float>(0); /* [WARPS, GATHERED, n, 32] */
  const int64_t b = blockIdx.x / static_cast<unsigned>(strips);
  const int left = static_cast<int>(blockIdx.x % static_cast<unsigned>(strips)) * NP_WARP * n;
  const int column = left + np_lane() * n;
  for (int head = 0; head < heads; head += GATHERED) {
    float sum[GATHERED][n] = {};
    for (int t = np_warp(); t < tokens; t += WARPS) {
      float value[n] = {};
      if (column < width) np_load_all(x + (b * tokens + t) * width + column, value);
#pragma unroll
      for (int i = 0; i < GATHERED; i++) {
        const float w = head + i < heads ? weight[(b * heads + head + i) * tokens + t] : 0.0f;
#pragma unroll
        for (int j = 0; j < n; j++) sum[i][j] = fmaf(w, value[j], sum[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < GATHERED; i++)
#pragma unroll
      for (int j = 0; j < n; j++) room[((np_warp() * GATHERED + i) * n + j) * NP_WARP + np_lane()] = sum[i][j];
    np_block_sync();
    for (int at = static_cast<int>(threadIdx.x); at < GATHERED * NP_WARP * n; at += THREADS) {
      const int i = at / (NP_WARP * n), c = at % (NP_WARP * n);
      if (head + i >= heads || left + c >= width) continue;
      float total = 0.0f;
      for (int w = 0; w < WARPS; w++) total += room[((w * GATHERED + i) * n + c % n) * NP_WARP + c / n];
      out[(b * heads + head + i) * width + left + c] = total;
    }
    np_block_sync();
  }
}

/* ---- launchers ---- */

static bool by_four(int width, const void *x, const void *u) {
  return width % 4 == 0 && np_aligned(x, 16) && np_aligned(u, 16);
}

static np_status launch_scores(const np_gpu *gpu, const char *name, int batch, int tokens, int heads, int width,
                               int64_t u_image, const float *x, const float *u, float *out) {
  const int64_t groups = static_cast<int64_t>(batch) * ((tokens + TOKENS - 1) / TOKENS);
  return np_launch(gpu, name, by_four(width, x, u) ? scores<4> : scores<1>,
                   dim3(np_grid(gpu, (groups + WARPS - 1) / WARPS)), THREADS, 0, batch, tokens, heads, width, u_image,
                   x, u, out);
}

static np_status launch_gather(const np_gpu *gpu, const char *name, int batch, int tokens, int heads, int width,
                               const float *x, const float *weight, float *out) {
  const bool four = by_four(width, x, out);
  const int n = four ? 4 : 1, strips = (width + NP_WARP * n - 1) / (NP_WARP * n);
  return np_launch(gpu, name, four ? gather<4> : gather<1>,
                   dim3(static_cast<unsigned>(batch) * static_cast<unsigned>(strips)), THREADS,
                   static_cast<size_t>(THREADS * GATHERED * n) * sizeof(float), tokens, heads, width, strips, x, weight,
                   out);
}

static unsigned row_blocks(const np_gpu *gpu, int64_t rows) { return np_grid(gpu, (rows + WARPS - 1) / WARPS); }

extern "C" np_status np_kernel_pool_forward(const np_gpu *gpu, int batch, int tokens, int heads, int width,
                                            const float *x, const float *u, float *weight, float *pooled) {
  const int64_t rows = static_cast<int64_t>(batch) * heads;
  np_status st = launch_scores(gpu, "pool_scores", batch, tokens, heads, width, 0, x, u, weight);
  if (st != NP_OK) return st;
  st = np_launch(gpu, "pool_softmax", softmax, dim3(row_blocks(gpu, rows)), THREADS, 0, rows, tokens, weight);
  if (st != NP_OK) return st;
  return launch_gather(gpu, "pool_gather", batch, tokens, heads, width, x, weight, pooled);
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
  np_status st = launch_scores(gpu, "pool_slopes", batch, tokens, heads, width, all, x, dpooled, ds);
  if (st != NP_OK) return st;
  st = np_launch(gpu, "pool_softmax_backward", softmax_backward, dim3(row_blocks(gpu, rows)), THREADS, 0, rows, tokens,
                 weight, ds);
  if (st != NP_OK) return st;
  st = launch_gather(gpu, "pool_gather_backward", batch, tokens, heads, width, x, ds, sums);
  if (st != NP_OK) return st;
  return np_add_parts(gpu, "pool_parts", batch, all, all, sums, du, accumulate);
}
