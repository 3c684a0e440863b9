/* Loops of the probe: column statistics, standardisation, cross-entropy. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

#include <math.h>

void NP_SIMD(column_moment)(int64_t rows, int64_t stride, int width, int power, const float *x, const float *shift,
                            double *out) {
  for (int64_t r = 0; r < rows; r++) {
    const float *row = x + r * stride;
    if (power == 1) {
#pragma omp simd
      for (int j = 0; j < width; j++) out[j] += (double)(row[j] - shift[j]);
    } else {
#pragma omp simd
      for (int j = 0; j < width; j++) {
        float d = row[j] - shift[j];
        out[j] += (double)d * (double)d;
      }
    }
  }
}

void NP_SIMD(standardise)(int width, const float *x, const float *mean, const float *factor, float *y) {
#pragma omp simd
  for (int j = 0; j < width; j++) y[j] = (x[j] - mean[j]) * factor[j];
}

double NP_SIMD(cross_entropy)(int classes, float scale, const float *logits, int label, float *dlogits) {
  float top = logits[0], sum = 0.0f;
#pragma omp simd reduction(max : top)
  for (int j = 0; j < classes; j++) top = logits[j] > top ? logits[j] : top;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < classes; j++) sum += np_exp(logits[j] - top);
  double loss = log((double)sum) - ((double)logits[label] - (double)top);
  if (dlogits) {
    float factor = scale / sum;
#pragma omp simd
    for (int j = 0; j < classes; j++) dlogits[j] = factor * np_exp(logits[j] - top);
    dlogits[label] -= scale;
  }
  return loss;
}
