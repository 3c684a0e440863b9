/* Loops of attention other than its products: tiles in and out of memory, and what happens to a row of scores. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

NP_INLINE void load(bool bf16, int rows, int width, int64_t stride, float alpha, const void *from, float *to,
                    int64_t to_row) {
  for (int r = 0; r < rows; r++) {
    float *row = to + r * to_row;
    int64_t at = r * stride;
#pragma omp simd
    for (int j = 0; j < width; j++) row[j] = alpha * np_act_load(bf16, from, at + j);
    for (int64_t j = width; j < to_row; j++) row[j] = 0.0f;
  }
}

void NP_SIMD(load)(bool bf16, int rows, int width, int64_t stride, float alpha, const void *from, float *to,
                   int64_t to_row) {
  if (bf16) load(true, rows, width, stride, alpha, from, to, to_row);
  else load(false, rows, width, stride, alpha, from, to, to_row);
}

NP_INLINE void load_turned(bool bf16, int rows, int width, int64_t stride, float alpha, const void *from, float *to,
                           int64_t to_row) {
  enum { SIDE = 16 }; /* squares, so that both sides stay in the first cache */
  for (int top = 0; top < rows; top += SIDE)
    for (int left = 0; left < width; left += SIDE) {
      int bottom = rows - top < SIDE ? rows : top + SIDE, right = width - left < SIDE ? width : left + SIDE;
      for (int r = top; r < bottom; r++)
        for (int j = left; j < right; j++) to[j * to_row + r] = alpha * np_act_load(bf16, from, r * stride + j);
    }
  for (int j = 0; j < width; j++)
    for (int64_t r = rows; r < to_row; r++) to[j * to_row + r] = 0.0f;
}

void NP_SIMD(load_turned)(bool bf16, int rows, int width, int64_t stride, float alpha, const void *from, float *to,
                          int64_t to_row) {
  if (bf16) load_turned(true, rows, width, stride, alpha, from, to, to_row);
  else load_turned(false, rows, width, stride, alpha, from, to, to_row);
}

NP_INLINE void store_rows(bool bf16, int rows, int width, int64_t from_row, const float *alpha, const float *from,
                          int64_t stride, void *to) {
  for (int r = 0; r < rows; r++) {
    const float *row = from + r * from_row, factor = alpha ? alpha[r] : 1.0f;
    int64_t at = r * stride;
#pragma omp simd
    for (int j = 0; j < width; j++) np_act_store(bf16, to, at + j, factor * row[j]);
  }
}

void NP_SIMD(store_rows)(bool bf16, int rows, int width, int64_t from_row, const float *alpha, const float *from,
                         int64_t stride, void *to) {
  if (bf16) store_rows(true, rows, width, from_row, alpha, from, stride, to);
  else store_rows(false, rows, width, from_row, alpha, from, stride, to);
}

NP_INLINE void dot_rows(bool bf16, int rows, int width, int64_t stride, const void *a, const void *b, float *out) {
  for (int r = 0; r < rows; r++) {
    float sum = 0.0f;
    int64_t at = r * stride;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < width; j++) sum += np_act_load(bf16, a, at + j) * np_act_load(bf16, b, at + j);
    out[r] = sum;
  }
}

void NP_SIMD(dot_rows)(bool bf16, int rows, int width, int64_t stride, const void *a, const void *b, float *out) {
  if (bf16) dot_rows(true, rows, width, stride, a, b, out);
  else dot_rows(false, rows, width, stride, a, b, out);
}

float NP_SIMD(softmax)(int n, float *s, float *top, float *shrink) {
  float old = *top, most = old, sum = 0.0f;
#pragma omp simd reduction(max : most)
  for (int j = 0; j < n; j++) most = s[j] > most ? s[j] : most;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; j++) {
    s[j] = np_exp(s[j] - most);
    sum += s[j];
  }
  *top = most;
  *shrink = np_exp(old - most);
  return sum;
}

void NP_SIMD(scale)(int64_t n, float alpha, float *x) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] *= alpha;
}

void NP_SIMD(probability)(int n, float lse, float delta, float *s, float *dp) {
#pragma omp simd
  for (int j = 0; j < n; j++) {
    s[j] = np_exp(s[j] - lse);
    dp[j] = s[j] * (dp[j] - delta);
  }
}
