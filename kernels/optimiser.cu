/* The gradient norm and AdamW: one pass over memory each. */
#include "kernels/kernels.h"
#include "kernels/total.cuh"
#include "kernels/vector.cuh"

enum { THREADS = 256, BLOCKS = 8, ROUND = 4 };

/* ---- kernels ---- */

NP_DEVICE double squares(const float (&value)[4]) {
  double sum = 0.0;
#pragma unroll
  for (int j = 0; j < 4; j++) sum += static_cast<double>(value[j]) * static_cast<double>(value[j]);
  return sum;
}

/* sums[block] = Σ g² of the block's share: tiles of THREADS·ROUND vectors, every gridDim.x-th. aligned: g is, to 16
 * bytes. */
NP_KERNEL(THREADS) sum_squares(int64_t count, bool aligned, const float *g, double *sums) {
  const int64_t tile = THREADS * ROUND, vectors = aligned ? count / 4 : 0;
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0.0;
  for (int64_t first = blockIdx.x * tile + thread; first < vectors; first += gridDim.x * tile) {
    float value[ROUND][4] = {};
#pragma unroll
    for (int u = 0; u < ROUND; u++)
      if (first + u * THREADS < vectors) np_load_all(g + (first + u * THREADS) * 4, value[u]);
    sum += (squares(value[0]) + squares(value[1])) + (squares(value[2]) + squares(value[3]));
  }
  for (int64_t i = vectors * 4 + blockIdx.x * THREADS + thread; i < count; i += gridDim.x * THREADS)
    sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  sum = np_block_sum(sum, THREADS, np_shared_at<double>(0));
  if (thread == 0) sums[blockIdx.x] = sum;
}

/* One thread. The comparison is false for NaN too. */
NP_KERNEL(NP_WARP) adamw_prepare(np_adamw how, np_adamw_state *state) {
  if (threadIdx.x != 0) return;
  const double norm = sqrt(state->norm_squared);
  const bool finite = norm <= 1.7976931348623157e308;
  state->apply = finite ? 1 : 0;
  if (!finite) return;
  const double clip = static_cast<double>(how.clip), steps = static_cast<double>(++state->steps);
  const double factor = how.clip > 0.0f ? clip / (norm + 1e-6) : 1.0;
  state->grad_scale = static_cast<float>(factor < 1.0 ? factor : 1.0);
  state->bias_correction1 = static_cast<float>(1.0 - pow(how.beta1, steps));
  state->bias_correction2 = static_cast<float>(1.0 - pow(how.beta2, steps));
}

/* torch.optim.AdamW's own order of operations: w·(1 - lr·decay), then the moments, then w - (lr/c1)·m / (√v/√c2 + eps).
 */
template <class T> struct adamw {
  enum { wide = 4 };
  template <int n> struct held { np_vec<float, n> g, w, m, v; };
  float rest1, beta2, rest2, eps, weight_decay;
  const np_adamw_state *state;
  const float *g;
  float *w, *m, *v;
  T *low;

  template <int n> NP_DEVICE held<n> load(const adamw &op, int64_t i) {
    return {np_vec_load<n>(op.g + i), np_vec_load<n>(op.w + i), np_vec_load<n>(op.m + i), np_vec_load<n>(op.v + i)};
  }
  template <int n> NP_DEVICE void finish(const adamw &op, int64_t i, const held<n> &in) {
    if (!op.state->apply) return;
    const float lr = op.state->lr, keep = 1.0f - lr * op.weight_decay, step = lr / op.state->bias_correction1;
    const float root2 = 1.0f / sqrtf(op.state->bias_correction2), grad_scale = op.state->grad_scale;
    float g[n], w[n], m[n], v[n];
    np_vec_get(in.g, g);
    np_vec_get(in.w, w);
    np_vec_get(in.m, m);
    np_vec_get(in.v, v);
#pragma unroll
    for (int j = 0; j < n; j++) {
      const float gradient = g[j] * grad_scale;
      m[j] += op.rest1 * (gradient - m[j]);
      v[j] = v[j] * op.beta2 + op.rest2 * gradient * gradient;
      w[j] = w[j] * keep - step * m[j] / (sqrtf(v[j]) * root2 + op.eps);
    }
    np_store_all(op.w + i, w);
    np_store_all(op.m + i, m);
    np_store_all(op.v + i, v);
    if (op.low) np_store_all(op.low + i, w);
  }
};

/* ---- launchers ---- */

extern "C" size_t np_kernel_sum_squares_scratch(const np_gpu *gpu) {
  return static_cast<size_t>(gpu->processors) * BLOCKS * sizeof(double);
}

extern "C" np_status np_kernel_sum_squares(const np_gpu *gpu, int64_t count, const float *g, double *out,
                                           bool accumulate, void *scratch) {
  double *sums = static_cast<double *>(scratch);
  const int64_t tile = THREADS * ROUND * 4, tiles = (count + tile - 1) / tile, most = gpu->processors * BLOCKS;
  const int64_t blocks = tiles < most ? tiles : most;
  const np_status st = np_launch(gpu, "sum_squares", sum_squares, dim3(static_cast<unsigned>(blocks)), THREADS,
                                 THREADS / NP_WARP * sizeof(double), count, np_aligned(g, 16), g, sums);
  return st == NP_OK ? np_total(gpu, "sum_squares_total", blocks, sums, out, accumulate) : st;
}

extern "C" np_status np_kernel_adamw_prepare(const np_gpu *gpu, const np_adamw *how, np_adamw_state *state) {
  return np_launch(gpu, "adamw_prepare", adamw_prepare, dim3(1), NP_WARP, 0, *how, state);
}

template <class T>
static np_status launch_adamw(const np_gpu *gpu, const np_adamw *how, const np_adamw_state *state, int64_t count,
                              const float *g, float *w, float *m, float *v, void *low) {
  const adamw<T> op = {static_cast<float>(1.0 - how->beta1),
                       static_cast<float>(how->beta2),
                       static_cast<float>(1.0 - how->beta2),
                       how->eps,
                       how->weight_decay,
                       state,
                       g,
                       w,
                       m,
                       v,
                       static_cast<T *>(low)};
  const bool aligned =
      np_aligned(g, 16) && np_aligned(w, 16) && np_aligned(m, 16) && np_aligned(v, 16) && np_aligned(low, 16);
  return np_flat(gpu, "adamw", count, op, aligned);
}

extern "C" np_status np_kernel_adamw(const np_gpu *gpu, np_dtype act, const np_adamw *how, const np_adamw_state *state,
                                     int64_t count, const float *g, float *w, float *m, float *v, void *low) {
  return act == NP_BF16 ? launch_adamw<np_bf16>(gpu, how, state, count, g, w, m, v, low)
                        : launch_adamw<float>(gpu, how, state, count, g, w, m, v, low);
}
