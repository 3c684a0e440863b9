/* One row of the pixel loss. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

#include <math.h>

/* t = (t - mean)/sqrt(var + 1e-6), var unbiased; a single value has no variance (0/0), as in the reference. */
static void standardise(int n, float *t) {
  float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; j++) sum += t[j];
  float mean = sum / (float)n;
#pragma omp simd reduction(+ : squares)
  for (int j = 0; j < n; j++) squares += (t[j] - mean) * (t[j] - mean);
  float factor = 1.0f / sqrtf(squares / (float)(n - 1) + 1e-6f);
#pragma omp simd
  for (int j = 0; j < n; j++) t[j] = (t[j] - mean) * factor;
}

NP_INLINE double compare(bool bf16, int n, float scale, const float *t, const void *pred, void *dpred) {
  float sum = 0.0f, step = 2.0f * scale / (float)n;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; j++) {
    float d = np_act_load(bf16, pred, j) - t[j];
    sum += d * d;
  }
  if (dpred) {
#pragma omp simd
    for (int j = 0; j < n; j++) np_act_store(bf16, dpred, j, step * (np_act_load(bf16, pred, j) - t[j]));
  }
  return (double)sum / n;
}

double NP_SIMD(pixel_row)(bool bf16, int n, bool normalize, float scale, float *t, const void *pred, void *dpred) {
  if (normalize) standardise(n, t);
  return bf16 ? compare(true, n, scale, t, pred, dpred) : compare(false, n, scale, t, pred, dpred);
}
