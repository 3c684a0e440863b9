/* Attention under test: a float64 reference that builds the mask the operator must never build, and the operator run
 * beside it. */
#ifndef NP_TESTS_ATTENTION_BED_H
#define NP_TESTS_ATTENTION_BED_H

#include "ops_harness.h"

/* Whether the GPU is the emulated one, where a large case takes minutes. */
static inline bool emulated(void) {
#ifdef NP_TEST_CUDA
  return strcmp(NP_TEST_CUDA, "simt") == 0;
#else
  return false;
#endif
}

/* ---- the reference ---- */

enum { BED_IMAGES = 7 };

typedef struct shape {
  int batch, tokens, heads, width;
  int32_t prefix[BED_IMAGES]; /* one an image */
  bool prefixed;
} shape;

static inline bool sees(const shape *s, int b, int i, int j) { return !s->prefixed || j <= i || j < s->prefix[b]; }

static inline const double *token(const shape *s, const double *qkv, int b, int n, int which, int head) {
  return qkv + ((((int64_t)b * s->tokens + n) * 3 + which) * s->heads + head) * s->width;
}

static inline double dot(const double *a, const double *b, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/* Probabilities of query i; returns its log-sum-exp. Hidden keys are not looked at. */
static inline double probabilities(const shape *s, const double *qkv, int b, int head, int i, double *p) {
  double top = -INFINITY, sum = 0.0;
  for (int j = 0; j < s->tokens; j++) {
    if (!sees(s, b, i, j)) continue;
    p[j] = dot(token(s, qkv, b, i, 0, head), token(s, qkv, b, j, 1, head), s->width) / sqrt(s->width);
    top = fmax(top, p[j]);
  }
  for (int j = 0; j < s->tokens; j++) sum += p[j] = sees(s, b, i, j) ? exp(p[j] - top) : 0.0;
  for (int j = 0; j < s->tokens; j++) p[j] /= sum;
  return top + log(sum);
}

/* spread (NULL: not wanted): see h_close_products; the rounded factors are p here, p and ds below. */
static inline void reference_forward(const shape *s, const double *qkv, double *out, double *lse, double *spread) {
  double *p = malloc((size_t)s->tokens * sizeof *p);
  for (int b = 0; b < s->batch; b++)
    for (int head = 0; head < s->heads; head++)
      for (int i = 0; i < s->tokens; i++) {
        double *o = out + (((int64_t)b * s->tokens + i) * s->heads + head) * s->width;
        double l = probabilities(s, qkv, b, head, i, p);
        if (lse) lse[((int64_t)b * s->heads + head) * s->tokens + i] = l;
        double *square = spread ? spread + (o - out) : NULL;
        memset(o, 0, (size_t)s->width * sizeof *o);
        if (square) memset(square, 0, (size_t)s->width * sizeof *square);
        for (int j = 0; j < s->tokens; j++) {
          const double *v = token(s, qkv, b, j, 2, head);
          if (p[j] == 0.0) continue;
          for (int c = 0; c < s->width; c++) o[c] += p[j] * v[c];
          for (int c = 0; c < s->width && square; c++) square[c] += p[j] * v[c] * p[j] * v[c];
        }
        for (int c = 0; c < s->width && square; c++) square[c] = sqrt(square[c]);
      }
  free(p);
}

/* The gradient in closed form, checked itself against finite differences in unit/ops_attention.c. As in the operator,
 * Σ_j p·dp is taken as Σ dout·out from the stored out: its rounding to bfloat16 belongs to the inputs, not to the
 * bound. */
static inline void reference_backward(const shape *s, const double *qkv, const double *out, const double *dout,
                                      double *dqkv, double *spread) {
  const int64_t all = (int64_t)s->batch * s->tokens * 3 * s->heads * s->width;
  double *p = malloc((size_t)s->tokens * sizeof *p), *dp = malloc((size_t)s->tokens * sizeof *dp);
  memset(dqkv, 0, (size_t)all * sizeof *dqkv);
  if (spread) memset(spread, 0, (size_t)all * sizeof *spread);
  for (int b = 0; b < s->batch; b++)
    for (int head = 0; head < s->heads; head++)
      for (int i = 0; i < s->tokens; i++) {
        const double *d = dout + (((int64_t)b * s->tokens + i) * s->heads + head) * s->width;
        const double *q = token(s, qkv, b, i, 0, head);
        double *dq = dqkv + (q - qkv), mean = dot(d, out + (d - dout), s->width);
        probabilities(s, qkv, b, head, i, p);
        for (int j = 0; j < s->tokens; j++) dp[j] = p[j] != 0.0 ? dot(d, token(s, qkv, b, j, 2, head), s->width) : 0.0;
        for (int j = 0; j < s->tokens; j++) {
          if (p[j] == 0.0) continue;
          const double *k = token(s, qkv, b, j, 1, head);
          double *dk = dqkv + (k - qkv), *dv = dqkv + (token(s, qkv, b, j, 2, head) - qkv);
          double ds = p[j] * (dp[j] - mean) / sqrt(s->width);
          for (int c = 0; c < s->width; c++) {
            dq[c] += ds * k[c];
            dk[c] += ds * q[c];
            dv[c] += p[j] * d[c];
            if (!spread) continue;
            spread[dq - dqkv + c] += ds * k[c] * ds * k[c];
            spread[dk - dqkv + c] += ds * q[c] * ds * q[c];
            spread[dv - dqkv + c] += p[j] * d[c] * p[j] * d[c];
          }
        }
      }
  for (int64_t i = 0; i < all && spread; i++) spread[i] = sqrt(spread[i]);
  free(p);
  free(dp);
}

/* ---- the operator against the reference ---- */

/* Whether this form multiplies on tensor cores: bfloat16 factors, whole tiles. */
static inline bool tensor_cores(const harness *h) { return strcmp(h->ops->name, "cuda") == 0 && h->act == NP_BF16; }

/* The prefixes where the operator reads them. */
static inline const int32_t *prefix_of(harness *h, const shape *s) {
  if (!s->prefixed) return NULL;
  return memcpy(h_take(h, (size_t)s->batch * sizeof(int32_t)), s->prefix, (size_t)s->batch * sizeof(int32_t));
}

static inline void run_backward(harness *h, const shape *s, const void *qkv, const void *out, const float *lse,
                                const void *dout, void *dqkv) {
  H_OK(h->ops->attention_backward(h->ops, s->batch, s->tokens, s->heads, s->width, prefix_of(h, s), qkv, out, lse, dout,
                                  dqkv));
}

static inline void run_forward(harness *h, const shape *s, const void *qkv, void *out, float *lse) {
  H_OK(h->ops->attention_forward(h->ops, s->batch, s->tokens, s->heads, s->width, prefix_of(h, s), qkv, out, lse));
}

/* Both passes against the reference; twice: and once more, for the same bits, lse not kept. */
static inline void one_shape(harness *h, const shape *s, bool twice) {
  int64_t outs = (int64_t)s->batch * s->tokens * s->heads * s->width, rows = (int64_t)s->batch * s->tokens * s->heads;
  double *qkv64, *dout64, *out64 = h_take_f64(h, outs), *lse64 = h_take_f64(h, rows), *dqkv64 = h_take_f64(h, 3 * outs);
  void *qkv = h_normal_act(h, 3 * outs, 1.5, &qkv64), *dout = h_normal_act(h, outs, 1.0, &dout64);
  void *out = h_take_act(h, outs), *out2 = h_take_act(h, outs);
  void *dqkv = h_take_act(h, 3 * outs), *dqkv2 = h_take_act(h, 3 * outs);
  float *lse = h_take_f32(h, rows);
  double *spread = tensor_cores(h) ? h_take_f64(h, 3 * outs) : NULL;
  h_case(h, "B%d N%d h%d d%d S%d", s->batch, s->tokens, s->heads, s->width, s->prefixed ? s->prefix[0] : -1);

  reference_forward(s, qkv64, out64, lse64, spread);
  run_forward(h, s, qkv, out, lse);
  h_close_products(h, "out", outs, out, out64, 3e-6, spread);
  h_close_f32(h, "lse", rows, lse, lse64, 1e-6);
  if (twice) run_forward(h, s, qkv, out2, NULL);
  if (twice) assert_memory_equal(out, out2, (size_t)outs * h_size(h));

  for (int64_t i = 0; i < outs; i++) out64[i] = h_get(h, out, i);
  reference_backward(s, qkv64, out64, dout64, dqkv64, spread);
  run_backward(h, s, qkv, out, lse, dout, dqkv);
  h_close_products(h, "dqkv", 3 * outs, dqkv, dqkv64, 5e-6, spread);
  if (twice) run_backward(h, s, qkv, out, lse, dout, dqkv2);
  if (twice) assert_memory_equal(dqkv, dqkv2, (size_t)(3 * outs) * h_size(h));
  h_finish(h);
}

#endif
