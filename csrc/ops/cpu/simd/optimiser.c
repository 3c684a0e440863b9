/* AdamW and the gradient norm: one pass over memory each. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

#include <math.h>

double NP_SIMD(sum_squares)(int64_t n, const float *g) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += (double)g[i] * (double)g[i];
  return sum;
}

/* torch.optim.AdamW's own order of operations: w·(1 - lr·decay), then the moments, then
 * w - (lr/c1)·m / (√v/√c2 + eps). */
NP_INLINE void adamw(bool bf16, const np_adamw *how, const np_adamw_state *state, int64_t n, const float *g, float *w,
                     float *m, float *v, void *low) {
  const float keep = 1.0f - state->lr * how->weight_decay, step = state->lr / state->bias_correction1;
  const float rest1 = (float)(1.0 - how->beta1), beta2 = (float)how->beta2, rest2 = (float)(1.0 - how->beta2);
  const float root2 = 1.0f / sqrtf(state->bias_correction2), grad_scale = state->grad_scale, eps = how->eps;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float gradient = g[i] * grad_scale;
    m[i] = m[i] + rest1 * (gradient - m[i]);
    v[i] = v[i] * beta2 + rest2 * gradient * gradient;
    w[i] = w[i] * keep - step * m[i] / (sqrtf(v[i]) * root2 + eps);
    if (low) np_act_store(bf16, low, i, w[i]);
  }
}

void NP_SIMD(adamw)(bool bf16, const np_adamw *how, const np_adamw_state *state, int64_t n, const float *g, float *w,
                    float *m, float *v, void *low) {
  if (!low) adamw(false, how, state, n, g, w, m, v, NULL);
  else if (bf16) adamw(true, how, state, n, g, w, m, v, low);
  else adamw(false, how, state, n, g, w, m, v, low);
}
