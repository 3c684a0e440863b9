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

enum { THREADS = 256, WARPS = THREADS / NP_WARP, BLOCKS = 2 };

/* Heads that one read of x serves, in registers: of as many as a model has, most often. */
static int heads_at_once(int heads) { return heads % 12 == 0 ? 12 : heads % 16 == 0 ? 16 : heads % 8 == 0 ? 8 : 4; }

NP_HOST_DEVICE constexpr int tokens_at_once(int heads_at_once) { return heads_at_once > 8 ? 3 : 4; }

/* ---- kernels ---- */

NP_DEVICE int least(int a, int b) { return a < b ? a : b; }

/* Head i of those at hand, the first of `left`: there are as many, but where H is 4. */
template <int H> NP_DEVICE int nth_head(int i, int left) { return H > 4 ? i : least(i, left - 1); }

/* A warp takes T tokens of an image and H heads at a time, so that a value from memory enters H products and a query's
 * T; while it computes, the next columns of its tokens are under way. A block takes neighbouring tokens,
 * whose queries stay in its cache. u of image b begins at u + b·u_image. n divides width. Tokens and heads beyond the
 * last are the last again, and go nowhere. */
template <int n, int H>
NP_KERNEL_BLOCKS(THREADS, BLOCKS)
scores(int batch, int tokens, int heads, int width, int64_t u_image, const float *x, const float *u, float *out) {
  enum { T = tokens_at_once(H), ALL = T * H, KEPT = (ALL + NP_WARP - 1) / NP_WARP };
  const int groups = (tokens + T - 1) / T, blocks = static_cast<int>(gridDim.x);
  const int64_t all = static_cast<int64_t>(batch) * groups,
                end = np_part_begin(all, blocks, static_cast<int>(blockIdx.x) + 1);
  for (int64_t at = np_part_begin(all, blocks, static_cast<int>(blockIdx.x)) + np_warp(); at < end; at += WARPS) {
    const int64_t b = at / groups;
    const int token = static_cast<int>(at % groups) * T;
    const float *row = x + (b * tokens + token) * width;
    for (int head = 0; head < heads; head += H) {
      const float *query = u + b * u_image + static_cast<int64_t>(head) * width;
      float sum[T][H] = {};
      np_vec<float, n> held[T], next[T];
#pragma unroll
      for (int t = 0; t < T; t++)
        if (np_lane() * n < width)
          next[t] = np_vec_load_once<n>(row + least(t, tokens - 1 - token) * width + np_lane() * n);
      for (int column = np_lane() * n; column < width; column += NP_WARP * n) {
        const int further = column + NP_WARP * n;
#pragma unroll
        for (int t = 0; t < T; t++) {
          held[t] = next[t];
          if (further < width) next[t] = np_vec_load_once<n>(row + least(t, tokens - 1 - token) * width + further);
        }
#pragma unroll
        for (int i = 0; i < H; i++) {
          float q[n];
          np_load_all(query + nth_head<H>(i, heads - head) * width + column, q);
#pragma unroll
          for (int t = 0; t < T; t++)
#pragma unroll
            for (int j = 0; j < n; j++) sum[t][i] = fmaf(held[t].value[j], q[j], sum[t][i]);
        }
      }
      float mine[KEPT] = {}; /* lane k keeps sum k, and k + 32, of token k / H and head k mod H */
#pragma unroll
      for (int k = 0; k < ALL; k++) {
        const float total = np_warp_sum(sum[k / H][k % H]);
        if (np_lane() == k % NP_WARP) mine[k / NP_WARP] = total;
      }
#pragma unroll
      for (int kept = 0; kept < KEPT; kept++) {
        const int k = kept * NP_WARP + np_lane(), t = k / H, i = k % H;
        if (k < ALL && token + t < tokens && head + i < heads)
          out[(b * heads + head + i) * tokens + token + t] = mine[kept];
      }
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

/* out[b, i, :] = Σ_t weight[b, i, t]·x[b, t, :]. A block takes 32·n columns of an image and H heads at a time; a warp
 * takes every eighth token, and the warps' sums meet in shared memory. n divides width. */
template <int n, int H>
NP_KERNEL_BLOCKS(THREADS, BLOCKS)
gather(int tokens, int heads, int width, int strips, const float *x, const float *weight, float *out) {
  const np_shared<float> room = np_shared_at<float>(0); /* [WARPS, H, n, 32] */
  const int64_t b = blockIdx.x / static_cast<unsigned>(strips);
  const int left = static_cast<int>(blockIdx.x % static_cast<unsigned>(strips)) * NP_WARP * n;
  const int column = left + np_lane() * n, there = column < width ? column : 0;
  for (int head = 0; head < heads; head += H) {
    const float *share = weight + (b * heads + head) * tokens;
    float sum[H][n] = {};
#pragma unroll 4
    for (int t = np_warp(); t < tokens; t += WARPS) {
      const np_vec<float, n> value = np_vec_load_once<n>(x + (b * tokens + t) * width + there);
#pragma unroll
      for (int i = 0; i < H; i++) {
        const float w = share[nth_head<H>(i, heads - head) * tokens + t];
#pragma unroll
        for (int j = 0; j < n; j++) sum[i][j] = fmaf(w, value.value[j], sum[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < H; i++)
#pragma unroll
      for (int j = 0; j < n; j++) room[((np_warp() * H + i) * n + j) * NP_WARP + np_lane()] = sum[i][j];
    np_block_sync();
    for (int at = static_cast<int>(threadIdx.x); at < H * NP_WARP * n; at += THREADS) {
      const int i = at / (NP_WARP * n), c = at % (NP_WARP * n);
      if (head + i >= heads || left + c >= width) continue;
      float total = 0.0f;
      for (int w = 0; w < WARPS; w++) total += room[((w * H + i) * n + c % n) * NP_WARP + c / n];
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
  const int at_once = by_four(width, x, u) ? heads_at_once(heads) : 4, together = tokens_at_once(at_once);
  const int64_t groups = static_cast<int64_t>(batch) * ((tokens + together - 1) / together),
                wanted = (groups + WARPS - 1) / WARPS, most = static_cast<int64_t>(gpu->processors) * BLOCKS;
  void (*kernel)(int, int, int, int, int64_t, const float *, const float *, float *) = scores<1, 4>;
  if (by_four(width, x, u))
    kernel = at_once == 16 ? scores<4, 16> : at_once == 12 ? scores<4, 12> : at_once == 8 ? scores<4, 8> : scores<4, 4>;
  return np_launch(gpu, name, kernel, dim3(static_cast<unsigned>(wanted < most ? wanted : most)), THREADS, 0, batch,
                   tokens, heads, width, u_image, x, u, out);
}

static np_status launch_gather(const np_gpu *gpu, const char *name, int batch, int tokens, int heads, int width,
                               const float *x, const float *weight, float *out) {
  const bool four = by_four(width, x, out);
  const int n = four ? 4 : 1, at_once = four ? heads_at_once(heads) : 4,
            strips = (width + NP_WARP * n - 1) / (NP_WARP * n);
  void (*kernel)(int, int, int, int, const float *, const float *, float *) = gather<1, 4>;
  if (four)
    kernel = at_once == 16 ? gather<4, 16> : at_once == 12 ? gather<4, 12> : at_once == 8 ? gather<4, 8> : gather<4, 4>;
  return np_launch(gpu, name, kernel, dim3(static_cast<unsigned>(batch) * static_cast<unsigned>(strips)), THREADS,
                   static_cast<size_t>(THREADS * at_once * n) * sizeof(float), tokens, heads, width, strips, x, weight,
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
