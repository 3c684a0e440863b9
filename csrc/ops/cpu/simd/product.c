/* Small matrix products for attention and pooling: c (+)= a·b in float32 with the sums of a block of c held in
 * registers. A step of k loads VECTORS vectors of b and one broadcast value of a for each row: with ROWS × VECTORS
 * independent sums both multiply-add units stay busy. The sum of an element runs over k in order, one chain, whatever
 * block it falls into. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, ROWS = 8, VECTORS = 2 };
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, ROWS = 4, VECTORS = 2 };
#else
enum { VECTOR_BYTES = 16, ROWS = 4, VECTORS = 2 };
#endif
enum { LANES = VECTOR_BYTES / 4 };

typedef float vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef float sums __attribute__((vector_size(VECTOR_BYTES)));

/* A block of `rows` × `vectors`·LANES; both counts are constants where it is inlined, so that `sum` lives in registers.
 */
NP_INLINE void block(int rows, int vectors, const np_tile_product *s, const float *a, const float *b, float *c) {
  sums sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) sum[i][j] = (sums){0};
  const int64_t a_row = s->a_row, a_col = s->a_col, b_row = s->b_row;
  for (int k = s->k; k > 0; k--) {
    sums right[VECTORS];
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) right[j] = *(const vector *)(b + j * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
      float left = a[i * a_row];
#pragma GCC unroll 2
      for (int j = 0; j < vectors; j++) sum[i][j] += left * right[j];
    }
    a += a_col;
    b += b_row;
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) {
      vector *to = (vector *)(c + i * s->c_row + j * LANES);
      if (s->accumulate) sum[i][j] += *to;
      *to = sum[i][j];
    }
}

/* All rows of a panel `vectors` wide. */
NP_INLINE void panel(int vectors, const np_tile_product *s, const float *a, const float *b, float *c) {
  int i = 0;
  for (; i + ROWS <= s->m; i += ROWS) block(ROWS, vectors, s, a + i * s->a_row, b, c + i * s->c_row);
  if (ROWS > 4 && i + 4 <= s->m) {
    block(4, vectors, s, a + i * s->a_row, b, c + i * s->c_row);
    i += 4;
  }
  if (i + 2 <= s->m) {
    block(2, vectors, s, a + i * s->a_row, b, c + i * s->c_row);
    i += 2;
  }
  if (i < s->m) block(1, vectors, s, a + i * s->a_row, b, c + i * s->c_row);
}

/* The columns that do not fill a vector. */
static void narrow(const np_tile_product *s, int left, const float *a, const float *b, float *c) {
  for (int i = 0; i < s->m; i++) {
    float sum[LANES] = {0};
    for (int k = 0; k < s->k; k++)
      for (int j = left; j < s->n; j++) sum[j - left] += a[i * s->a_row + k * s->a_col] * b[k * s->b_row + j];
    for (int j = left; j < s->n; j++) {
      float *to = c + i * s->c_row + j;
      *to = s->accumulate ? *to + sum[j - left] : sum[j - left];
    }
  }
}

void NP_SIMD(product)(const np_tile_product *s, const float *a, const float *b, float *c) {
  int j = 0;
  for (; j + VECTORS * LANES <= s->n; j += VECTORS * LANES) panel(VECTORS, s, a, b + j, c + j);
  for (; j + LANES <= s->n; j += LANES) panel(1, s, a, b + j, c + j);
  if (j < s->n) narrow(s, j, a, b, c);
}
