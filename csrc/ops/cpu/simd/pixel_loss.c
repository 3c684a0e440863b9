/* One row of the pixel loss. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

#include <math.h>

/* t = (t - mean)/sqrt(var + 1e-6), var unbiased; a single value has no variance (0/0), as in the reference. In float64:
 * a patch of nearly one colour divides the rounding of its mean by a tiny deviation. */
static void standardise(int n, float *t) {
  double sum = 0.0, squares = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; j++) sum += (double)t[j];
  double mean = sum / n;
#pragma omp simd reduction(+ : squares)
  for (int j = 0; j < n; j++) squares += ((double)t[j] - mean) * ((double)t[j] - mean);
  double factor = 1.0 / sqrt(squares / (n - 1) + 1e-6);
#pragma omp simd
  for (int j = 0; j < n; j++) t[j] = (float)(((double)t[j] - mean) * factor);
}

NP_INLINE double compare(bool bf16, int n, float scale, const float *t, const void *pred, void *dpred) {
  const float step = 2.0f * scale / (float)n;
  double sum = 0.0; /* the square of a finite float is no infinity here */
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; j++) {
    double d = (double)(np_act_load(bf16, pred, j) - t[j]);
    sum += d * d;
  }
  if (dpred) {
#pragma omp simd
    for (int j = 0; j < n; j++) np_act_store(bf16, dpred, j, step * (np_act_load(bf16, pred, j) - t[j]));
  }
  return sum / n;
}

double NP_SIMD(pixel_row)(bool bf16, int n, bool normalize, float scale, float *t, const void *pred, void *dpred) {
  if (normalize) standardise(n, t);
  return bf16 ? compare(true, n, scale, t, pred, dpred) : compare(false, n, scale, t, pred, dpred);
}
