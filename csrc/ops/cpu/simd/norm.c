/* LayerNorm of one row. The mean first, then the squares about it: Σx² - (Σx)² would cancel. The second pass also sums
 * the deviations, whose average is what rounding took from the mean: both statistics are corrected by it (Chan, Golub
 * and LeVeque, The American Statistician 37, 1983). */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

#include <math.h>

/* work = s = act(x + delta), rounded as it is stored, so that the backward pass sees the same s; returns its mean. */
NP_INLINE float add_delta(bool bf16, int width, const void *x, const void *delta, void *sum, float *work) {
  float total = 0.0f;
  if (!delta) {
#pragma omp simd
    for (int j = 0; j < width; j++) work[j] = np_act_load(bf16, x, j);
  } else {
#pragma omp simd
    for (int j = 0; j < width; j++) {
      float s = np_act_load(bf16, x, j) + np_act_load(bf16, delta, j);
      work[j] = bf16 ? np_bf16_to_f32(np_act_round(s)) : s;
    }
  }
#pragma omp simd reduction(+ : total)
  for (int j = 0; j < width; j++) total += work[j]; /* one loop for both: one order of addition */
  if (sum) {
#pragma omp simd
    for (int j = 0; j < width; j++) np_act_store(bf16, sum, j, work[j]);
  }
  return total / (float)width;
}

NP_INLINE void forward(bool bf16, int width, float eps, const void *x, const void *delta, const float *gain,
                       const float *bias, void *sum, void *y, float *mean, float *rstd, float *work) {
  float m = add_delta(bf16, width, x, delta, sum, work), missed = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : missed, squares)
  for (int j = 0; j < width; j++) {
    float d = work[j] - m;
    missed += d;
    squares += d * d;
  }
  missed /= (float)width;
  m += missed;
  float r = 1.0f / sqrtf(squares / (float)width - missed * missed + eps);
#pragma omp simd
  for (int j = 0; j < width; j++) np_act_store(bf16, y, j, (work[j] - m) * r * gain[j] + bias[j]);
  if (mean) *mean = m;
  if (rstd) *rstd = r;
}

void NP_SIMD(norm_forward)(bool bf16, int width, float eps, const void *x, const void *delta, const float *gain,
                           const float *bias, void *sum, void *y, float *mean, float *rstd, float *work) {
  if (bf16) forward(true, width, eps, x, delta, gain, bias, sum, y, mean, rstd, work);
  else forward(false, width, eps, x, delta, gain, bias, sum, y, mean, rstd, work);
}

/* With n = (x - mean)·rstd and a = dy·gain: dx = rstd·(a - avg(a) - n·avg(a·n)), dgain += dy·n, dbias += dy. */
NP_INLINE void backward(bool bf16, int width, const void *dy, const void *x, float mean, float rstd, const float *gain,
                        const void *residual, void *dx, float *dgain, float *dbias) {
  float sum_a = 0.0f, sum_an = 0.0f;
#pragma omp simd reduction(+ : sum_a, sum_an)
  for (int j = 0; j < width; j++) {
    float g = np_act_load(bf16, dy, j), n = (np_act_load(bf16, x, j) - mean) * rstd, a = g * gain[j];
    sum_a += a;
    sum_an += a * n;
    dgain[j] += g * n;
    dbias[j] += g;
  }
  float avg_a = sum_a / (float)width, avg_an = sum_an / (float)width;
#pragma omp simd
  for (int j = 0; j < width; j++) {
    float a = np_act_load(bf16, dy, j) * gain[j], n = (np_act_load(bf16, x, j) - mean) * rstd;
    float d = rstd * (a - avg_a - n * avg_an);
    if (residual) d += np_act_load(bf16, residual, j);
    np_act_store(bf16, dx, j, d);
  }
}

void NP_SIMD(norm_backward)(bool bf16, int width, const void *dy, const void *x, float mean, float rstd,
                            const float *gain, const void *residual, void *dx, float *dgain, float *dbias) {
  if (bf16 && residual) backward(true, width, dy, x, mean, rstd, gain, residual, dx, dgain, dbias);
  else if (bf16) backward(true, width, dy, x, mean, rstd, gain, NULL, dx, dgain, dbias);
  else if (residual) backward(false, width, dy, x, mean, rstd, gain, residual, dx, dgain, dbias);
  else backward(false, width, dy, x, mean, rstd, gain, NULL, dx, dgain, dbias);
}
