/* The gradient norm and AdamW. */
#include "ops/cpu/cpu.h"

#include <math.h>

enum { LEAST_ELEMENTS = 1 << 14, GRAIN = 1024, BLOCK = 1 << 16 };

/* Sums of fixed blocks, added in order: the same bits whatever the thread count. */
np_status np_cpu_sum_squares(np_ops *ops, int64_t count, const float *g, double *out, bool accumulate) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  int64_t blocks = (count + BLOCK - 1) / BLOCK;
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, (size_t)blocks * sizeof(double), &scratch));
  double *sums = scratch;
#pragma omp parallel for num_threads(cpu->threads) schedule(static) if (blocks > 1)
  for (int64_t block = 0; block < blocks; block++) {
    int64_t begin = block * BLOCK, left = count - begin;
    sums[block] = cpu->simd->sum_squares(left < BLOCK ? left : BLOCK, g + begin);
  }
  double sum = 0.0;
  for (int64_t block = 0; block < blocks; block++) sum += sums[block];
  out[0] = accumulate ? out[0] + sum : sum;
out:
  return st;
}

np_status np_cpu_adamw_prepare(np_ops *ops, const np_adamw *how, np_adamw_state *state) {
  (void)ops;
  double norm = sqrt(state->norm_squared);
  state->apply = isfinite(norm);
  if (!state->apply) return NP_OK;
  state->steps++;
  /* 1e-6 as in clip_grad_norm_ */
  state->grad_scale = how->clip > 0 ? (float)fmin(1.0, (double)how->clip / (norm + 1e-6)) : 1.0f;
  state->bias_correction1 = (float)(1.0 - pow(how->beta1, (double)state->steps));
  state->bias_correction2 = (float)(1.0 - pow(how->beta2, (double)state->steps));
  return NP_OK;
}

np_status np_cpu_adamw(np_ops *ops, const np_adamw *how, const np_adamw_state *state, int64_t count, const float *g,
                       float *w, float *m, float *v, void *low) {
  np_cpu *cpu = np_cpu_of(ops);
  if (!state->apply) return NP_OK;
  size_t size = np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, count, LEAST_ELEMENTS);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t begin = np_cpu_border(count, GRAIN, parts, part), end = np_cpu_border(count, GRAIN, parts, part + 1);
    cpu->simd->adamw(cpu->bf16, how, state, end - begin, g + begin, w + begin, m + begin, v + begin,
                     low ? (char *)low + (size_t)begin * size : NULL);
  }
  return NP_OK;
}
