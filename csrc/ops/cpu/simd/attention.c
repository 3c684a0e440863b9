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

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

/* Four rows [4, from_row] turned into four columns, four by four in registers. */
static void turn_quads(int width, const float *from, int64_t from_row, float *to, int64_t to_row) {
  int j = 0;
  for (; j + 4 <= width; j += 4) {
    quad a = *(const quad *)(from + j), b = *(const quad *)(from + from_row + j);
    quad c = *(const quad *)(from + 2 * from_row + j), d = *(const quad *)(from + 3 * from_row + j);
    quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    quad ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(quad *)(to + (j + 0) * to_row) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    *(quad *)(to + (j + 1) * to_row) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *(quad *)(to + (j + 2) * to_row) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
    *(quad *)(to + (j + 3) * to_row) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
  }
  for (; j < width; j++)
    for (int r = 0; r < 4; r++) to[j * to_row + r] = from[r * from_row + j];
}

/* Four rows at a time through a float32 copy in the first cache, WIDTH columns of them. */
NP_INLINE void load_turned(bool bf16, int rows, int width, int64_t stride, float alpha, const void *from, float *to,
                           int64_t to_row) {
  enum { WIDTH = 256 };
  float copy[4 * WIDTH];
  for (int left = 0; left < width; left += WIDTH) {
    int columns = width - left < WIDTH ? width - left : WIDTH;
    for (int top = 0; top < rows; top += 4) {
      for (int r = 0; r < 4; r++) {
        int64_t at = (top + r) * stride + left;
        float *row = copy + r * WIDTH;
        if (top + r >= rows) {
          memset(row, 0, sizeof *row * WIDTH);
          continue;
        }
#pragma omp simd
        for (int j = 0; j < columns; j++) row[j] = alpha * np_act_load(bf16, from, at + j);
      }
      turn_quads(columns, copy, WIDTH, to + left * to_row + top, to_row);
    }
  }
  for (int j = 0; j < width; j++)
    for (int64_t r = (rows + 3) / 4 * 4; r < to_row; r++) to[j * to_row + r] = 0.0f;
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

void NP_SIMD(softmax)(int rows, const int *n, int64_t row, float *s, float *top, float *sum, float *shrink) {
  for (int r = 0; r < rows; r++) {
    const float *score = s + r * row;
    float most = top[r];
#pragma omp simd reduction(max : most)
    for (int j = 0; j < n[r]; j++) most = score[j] > most ? score[j] : most;
    shrink[r] = top[r] - most;
    top[r] = most;
  }
#pragma omp simd
  for (int r = 0; r < rows; r++) {
    shrink[r] = np_exp(shrink[r]);
    sum[r] *= shrink[r];
  }
  for (int r = 0; r < rows; r++) {
    float *score = s + r * row, most = top[r], added = 0.0f;
#pragma omp simd reduction(+ : added)
    for (int j = 0; j < n[r]; j++) {
      score[j] = np_exp(score[j] - most);
      added += score[j];
    }
    sum[r] += added;
  }
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
