/* The inner loops of the CPU backend: sequential functions on a row, a block or a tile. simd/NAME.c is compiled once
 * for each instruction set with NP_ISA as the suffix of its symbols; a table of pointers holds one set of them.
 *
 * `bf16` says how activations ("act", void pointers) lie in memory: bfloat16 when true, else float32. All arithmetic is
 * float32 or wider; a store rounds to nearest even. Pointers need no alignment. */
#ifndef NP_OPS_CPU_SIMD_H
#define NP_OPS_CPU_SIMD_H

#include "ops/ops.h"

/* One product of small matrices, everything float32: c[i, j] (+)= Σ_k a[i·a_row + k·a_col] · b[k·b_row + j], i < m, j <
 * n. */
typedef struct np_tile_product {
  int m, n, k;
  int64_t a_row, a_col, b_row, c_row; /* strides in elements */
  bool accumulate;
} np_tile_product;

/* clang-format off */
/* X(result, name, parameters) for each function:
 *
 * store          out[i] = act(in[i])
 * axpy           y[i] += alpha · x[i], x act
 * add            x[i] += row[i], x act
 * column_sum     out[j] += Σ_r x[r, j], x [rows, width] act
 *
 * norm_forward   one row of the operator; work [width] is overwritten
 * norm_backward  one row; dgain and dbias [width] are added to
 * gelu_forward, gelu_backward  as the operators
 *
 * load           to[r, j] = alpha · from[r·stride + j], j < width, from act; to has row stride to_row; the rest of a row is 0
 * load_turned    to[j·to_row + r] = alpha · from[r·stride + j]; columns rows … to_row are 0; to_row is a multiple of 4
 * store_rows     to[r·stride + j] = act(alpha[r]·from[r·from_row + j]); alpha NULL: 1
 * dot_rows       out[r] = Σ_j a[r·stride + j]·b[r·stride + j], both act
 * product        np_tile_product
 * softmax        one step of an online softmax for each row of scores s [rows, row]: over its first n[r] scores top[r] becomes
 *                the larger maximum, s[j] = exp(s[j] - top), shrink[r] = exp(old top - new top), sum[r] = sum[r]·shrink + Σ s
 * scale          x[i] *= alpha
 * probability    s[j] = exp(s[j] - lse), dp[j] = s[j]·(dp[j] - delta)
 *
 * pixel_row      t [n] is standardised in place when `normalize`; returns mean_j (pred[j] - t[j])²; dpred (or NULL) =
 *                scale·2·(pred - t)/n
 * column_moment  out[j] += Σ_r (x[r·stride + j] - shift[j])^power, power 1 or 2, float64
 * standardise    y[j] = (x[j] - mean[j])·factor[j]
 * cross_entropy  one row of the operator; returns its loss
 *
 * sum_squares    Σ g² in float64
 * adamw          the operator on a slice, where the step is applied */
/* clang-format on */
#define NP_SIMD_FUNCTIONS(X)                                                                                           \
  X(void, store, (bool bf16, int64_t n, const float *in, void *out))                                                   \
  X(void, axpy, (bool bf16, int64_t n, float alpha, const void *x, float *y))                                          \
  X(void, add, (bool bf16, int64_t n, const float *row, void *x))                                                      \
  X(void, column_sum, (bool bf16, int64_t rows, int64_t width, const void *x, float *out))                             \
  X(void, norm_forward,                                                                                                \
    (bool bf16, int width, float eps, const void *x, const void *delta, const float *gain, const float *bias,          \
     void *sum, void *y, float *mean, float *rstd, float *work))                                                       \
  X(void, norm_backward,                                                                                               \
    (bool bf16, int width, const void *dy, const void *x, float mean, float rstd, const float *gain,                   \
     const void *residual, void *dx, float *dgain, float *dbias))                                                      \
  X(void, gelu_forward, (bool bf16, int64_t n, const void *x, void *y))                                                \
  X(void, gelu_backward, (bool bf16, int64_t n, const void *x, const void *dy, void *dx))                              \
  X(void, load,                                                                                                        \
    (bool bf16, int rows, int width, int64_t stride, float alpha, const void *from, float *to, int64_t to_row))        \
  X(void, load_turned,                                                                                                 \
    (bool bf16, int rows, int width, int64_t stride, float alpha, const void *from, float *to, int64_t to_row))        \
  X(void, store_rows,                                                                                                  \
    (bool bf16, int rows, int width, int64_t from_row, const float *alpha, const float *from, int64_t stride,          \
     void *to))                                                                                                        \
  X(void, dot_rows, (bool bf16, int rows, int width, int64_t stride, const void *a, const void *b, float *out))        \
  X(void, product, (const np_tile_product *shape, const float *a, const float *b, float *c))                           \
  X(void, softmax, (int rows, const int *n, int64_t row, float *s, float *top, float *sum, float *shrink))             \
  X(void, scale, (int64_t n, float alpha, float *x))                                                                   \
  X(void, probability, (int n, float lse, float delta, float *s, float *dp))                                           \
  X(double, pixel_row, (bool bf16, int n, bool normalize, float scale, float *t, const void *pred, void *dpred))       \
  X(void, column_moment,                                                                                               \
    (int64_t rows, int64_t stride, int width, int power, const float *x, const float *shift, double *out))             \
  X(void, standardise, (int width, const float *x, const float *mean, const float *factor, float *y))                  \
  X(double, cross_entropy, (int classes, float scale, const float *logits, int label, float *dlogits))                 \
  X(double, sum_squares, (int64_t n, const float *g))                                                                  \
  X(void, adamw,                                                                                                       \
    (bool bf16, const np_adamw *how, const np_adamw_state *state, int64_t n, const float *g, float *w, float *m,       \
     float *v, void *low))

#define NP_SIMD_JOIN_(name, isa) np_simd_##name##_##isa
#define NP_SIMD_JOIN(name, isa)  NP_SIMD_JOIN_(name, isa)
/* The symbol of `name` in the instruction set being compiled. */
#define NP_SIMD(name) NP_SIMD_JOIN(name, NP_ISA)

#define NP_SIMD_POINTER(result, name, parameters) result(*name) parameters;
typedef struct np_simd {
  const char *isa;
  NP_SIMD_FUNCTIONS(NP_SIMD_POINTER)
} np_simd;

#define NP_SIMD_PROTOTYPES(result, name, parameters)                                                                   \
  result np_simd_##name##_generic parameters;                                                                          \
  result np_simd_##name##_avx2 parameters;                                                                             \
  result np_simd_##name##_avx512 parameters;
NP_SIMD_FUNCTIONS(NP_SIMD_PROTOTYPES)

#endif
