/* Elements and rows. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

void NP_SIMD(store)(bool bf16, int64_t n, const float *in, void *out) {
  if (!bf16) {
    if (n > 0) memcpy(out, in, (size_t)n * sizeof *in);
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; i++) np_act_store(true, out, i, in[i]);
}

NP_INLINE void axpy(bool bf16, int64_t n, float alpha, const void *x, float *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] += alpha * np_act_load(bf16, x, i);
}

void NP_SIMD(axpy)(bool bf16, int64_t n, float alpha, const void *x, float *y) {
  if (bf16) axpy(true, n, alpha, x, y);
  else axpy(false, n, alpha, x, y);
}

NP_INLINE void add(bool bf16, int64_t n, const float *row, void *x) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) np_act_store(bf16, x, i, np_act_load(bf16, x, i) + row[i]);
}

void NP_SIMD(add)(bool bf16, int64_t n, const float *row, void *x) {
  if (bf16) add(true, n, row, x);
  else add(false, n, row, x);
}

/* Columns in strips whose sums stay in registers or the first cache, rows in blocks: a sum of block sums loses less
 * than one long chain. */
NP_INLINE void column_sum(bool bf16, int64_t rows, int64_t width, const void *x, float *out) {
  enum { STRIP = 256, BLOCK = 64 };
  for (int64_t left = 0; left < width; left += STRIP) {
    int64_t strip = width - left < STRIP ? width - left : STRIP;
    for (int64_t top = 0; top < rows; top += BLOCK) {
      int64_t block = rows - top < BLOCK ? rows - top : BLOCK;
      float sum[STRIP] = {0};
      for (int64_t r = 0; r < block; r++) {
        int64_t at = (top + r) * width + left;
#pragma omp simd
        for (int64_t j = 0; j < strip; j++) sum[j] += np_act_load(bf16, x, at + j);
      }
#pragma omp simd
      for (int64_t j = 0; j < strip; j++) out[left + j] += sum[j];
    }
  }
}

void NP_SIMD(column_sum)(bool bf16, int64_t rows, int64_t width, const void *x, float *out) {
  if (bf16) column_sum(true, rows, width, x, out);
  else column_sum(false, rows, width, x, out);
}
