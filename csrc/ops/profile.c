#include "ops/profile.h"

#include <stdlib.h>
#include <string.h>

enum { PENDING = 1024 }; /* operations whose marks have not been read yet */

typedef struct profile {
  np_ops ops; /* first: np_ops * is profile * */
  np_ops *inner;
  double pairs;
  np_family_sum sums[NP_FAMILIES];
  int pending;
  unsigned char family[PENDING];
} profile;

static profile *of(np_ops *ops) { return (profile *)ops; }

const char *np_family_name(np_family family) {
  static const char *const names[] = {
      "products",   "attention forward", "attention backward", "norms",           "gelu",
      "pixel loss", "elements and rows", "optimiser",          "copies and zero", "probe"};
  _Static_assert(sizeof names / sizeof *names == NP_FAMILIES, "a name for each family");
  return names[family];
}

/* ---- marks: operation i of those pending stands between marks 2i and 2i + 1 ---- */

static int mark_of(int operation, int end) { return NP_PROFILE_MARKS + 2 * operation + end; }

static np_status drain(profile *p) {
  np_status st = NP_OK;
  for (int i = 0; i < p->pending; i++) {
    double seconds;
    NP_TRY(p->inner->elapsed(p->inner, mark_of(i, 0), mark_of(i, 1), &seconds));
    p->sums[p->family[i]].seconds += seconds;
  }
  p->pending = 0;
out:
  return st;
}

static np_status begin(profile *p, np_family family, double flops) {
  np_status st = NP_OK;
  if (p->pending == PENDING) NP_TRY(drain(p));
  NP_TRY(p->inner->mark(p->inner, mark_of(p->pending, 0)));
  p->family[p->pending] = (unsigned char)family;
  p->sums[family].calls++;
  p->sums[family].flops += flops;
out:
  return st;
}

static np_status end(profile *p) { return p->inner->mark(p->inner, mark_of(p->pending++, 1)); }

/* The body of an operation: the inner one between two marks. */
#define PROFILED(family, flops, operation, ...)                                                                        \
  np_status st = NP_OK;                                                                                                \
  profile *p = of(ops);                                                                                                \
  NP_TRY(begin(p, family, flops));                                                                                     \
  NP_TRY(p->inner->operation(p->inner, __VA_ARGS__));                                                                  \
  NP_TRY(end(p));                                                                                                      \
  out:                                                                                                                 \
  return st

/* ---- memory and time ---- */

static np_status profile_alloc(np_ops *ops, size_t bytes, void **out) {
  return of(ops)->inner->alloc(of(ops)->inner, bytes, out);
}
static void profile_release(np_ops *ops, void *memory) { of(ops)->inner->release(of(ops)->inner, memory); }
static np_status profile_available(np_ops *ops, size_t *bytes) {
  return of(ops)->inner->available(of(ops)->inner, bytes);
}
static np_status profile_upload(np_ops *ops, void *device, const void *host, size_t bytes) {
  PROFILED(NP_FAMILY_COPIES, 0, upload, device, host, bytes);
}
static np_status profile_download(np_ops *ops, void *host, const void *device, size_t bytes) {
  PROFILED(NP_FAMILY_COPIES, 0, download, host, device, bytes);
}
static np_status profile_zero(np_ops *ops, void *device, size_t bytes) {
  PROFILED(NP_FAMILY_COPIES, 0, zero, device, bytes);
}
static np_status profile_fetch(np_ops *ops, int slot, const void *device, size_t bytes) {
  PROFILED(NP_FAMILY_COPIES, 0, fetch, slot, device, bytes);
}
static np_status profile_arrive(np_ops *ops, int slot, void *host, size_t bytes) { /* waits; the device does nothing */
  return of(ops)->inner->arrive(of(ops)->inner, slot, host, bytes);
}
static np_status profile_mark(np_ops *ops, int index) { return of(ops)->inner->mark(of(ops)->inner, index); }
static np_status profile_elapsed(np_ops *ops, int from, int to, double *seconds) {
  return of(ops)->inner->elapsed(of(ops)->inner, from, to, seconds);
}
static void profile_forget(np_ops *ops, np_recording *recording) { (void)ops, (void)recording; } /* there are none */

/* ---- elements, rows, products ---- */

static np_status profile_to_act(np_ops *ops, int64_t count, const float *in, void *out_) {
  PROFILED(NP_FAMILY_ROWS, 0, to_act, count, in, out_);
}
static np_status profile_axpy(np_ops *ops, int64_t count, float alpha, const void *x, float *y) {
  PROFILED(NP_FAMILY_ROWS, 0, axpy, count, alpha, x, y);
}
static np_status profile_patchify(np_ops *ops, const np_pixels *pixels, void *patches) {
  PROFILED(NP_FAMILY_ROWS, 0, patchify, pixels, patches);
}
static np_status profile_add_table(np_ops *ops, int64_t rows, int width, int tokens, const int32_t *index,
                                   const float *table, void *x) {
  PROFILED(NP_FAMILY_ROWS, 0, add_table, rows, width, tokens, index, table, x);
}
static np_status profile_gather_rows(np_ops *ops, int64_t rows, int width, const int32_t *index, const void *x,
                                     void *y) {
  PROFILED(NP_FAMILY_ROWS, 0, gather_rows, rows, width, index, x, y);
}
static np_status profile_scatter_rows(np_ops *ops, int64_t rows, int64_t total, int width, const int32_t *index,
                                      const void *dy, void *dx) {
  PROFILED(NP_FAMILY_ROWS, 0, scatter_rows, rows, total, width, index, dy, dx);
}
static np_status profile_matmul(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias,
                                void *c) {
  PROFILED(NP_FAMILY_PRODUCTS, 2.0 * (double)shape->m * (double)shape->n * (double)shape->k, matmul, shape, a, b, bias,
           c);
}
static np_status profile_column_sum(np_ops *ops, int64_t rows, int width, const void *x, float *sums, bool accumulate) {
  PROFILED(NP_FAMILY_ROWS, 0, column_sum, rows, width, x, sums, accumulate);
}

/* ---- norm, gelu, attention, loss ---- */

static np_status profile_norm_forward(np_ops *ops, int64_t rows, int width, float eps, const void *x, const void *delta,
                                      const float *gain, const float *bias, void *sum, void *y, float *mean,
                                      float *rstd) {
  PROFILED(NP_FAMILY_NORMS, 0, norm_forward, rows, width, eps, x, delta, gain, bias, sum, y, mean, rstd);
}
static np_status profile_norm_backward(np_ops *ops, int64_t rows, int width, const void *dy, const void *x,
                                       const float *mean, const float *rstd, const float *gain, const void *residual,
                                       void *dx, float *dgain, float *dbias, bool accumulate) {
  PROFILED(NP_FAMILY_NORMS, 0, norm_backward, rows, width, dy, x, mean, rstd, gain, residual, dx, dgain, dbias,
           accumulate);
}
static np_status profile_gelu_forward(np_ops *ops, int64_t count, const void *x, void *y) {
  PROFILED(NP_FAMILY_GELU, 0, gelu_forward, count, x, y);
}
static np_status profile_gelu_backward(np_ops *ops, int64_t count, const void *x, const void *dy, void *dx) {
  PROFILED(NP_FAMILY_GELU, 0, gelu_backward, count, x, dy, dx);
}

/* `products` of 2·d FLOPs for each pair: two forward, five backward. */
static double attention_flops(const profile *p, int batch, int tokens, int heads, int head_width, const int32_t *prefix,
                              int products) {
  double pairs = prefix ? p->pairs : (double)tokens * tokens;
  return 2.0 * products * head_width * pairs * batch * heads;
}
static np_status profile_attention_forward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                           const int32_t *prefix, const void *qkv, void *o, float *lse) {
  PROFILED(NP_FAMILY_ATTENTION_FORWARD, attention_flops(p, batch, tokens, heads, head_width, prefix, 2),
           attention_forward, batch, tokens, heads, head_width, prefix, qkv, o, lse);
}
static np_status profile_attention_backward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                            const int32_t *prefix, const void *qkv, const void *o, const float *lse,
                                            const void *dout, void *dqkv) {
  PROFILED(NP_FAMILY_ATTENTION_BACKWARD, attention_flops(p, batch, tokens, heads, head_width, prefix, 5),
           attention_backward, batch, tokens, heads, head_width, prefix, qkv, o, lse, dout, dqkv);
}
static np_status profile_pixel_loss(np_ops *ops, const np_pixels *pixels, int64_t rows, const int32_t *index,
                                    bool normalize, const float *scale, const void *pred, void *dpred, double *loss,
                                    bool accumulate) {
  PROFILED(NP_FAMILY_PIXEL_LOSS, 0, pixel_loss, pixels, rows, index, normalize, scale, pred, dpred, loss, accumulate);
}

/* ---- probe ---- */

static np_status profile_batch_moments(np_ops *ops, int64_t rows, int width, const float *x, const float *shift,
                                       double *sums) {
  PROFILED(NP_FAMILY_PROBE, 0, batch_moments, rows, width, x, shift, sums);
}
static np_status profile_batch_norm(np_ops *ops, int64_t rows, int width, float eps, float momentum, const double *sums,
                                    int64_t whole, const float *x, float *running_mean, float *running_var, float *y) {
  PROFILED(NP_FAMILY_PROBE, 0, batch_norm, rows, width, eps, momentum, sums, whole, x, running_mean, running_var, y);
}
static np_status profile_pool_forward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x,
                                      const float *u, float *weight, float *pooled) {
  PROFILED(NP_FAMILY_PROBE, 0, pool_forward, batch, tokens, heads, width, x, u, weight, pooled);
}
static np_status profile_pool_backward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x,
                                       const float *weight, const float *dpooled, float *du, bool accumulate) {
  PROFILED(NP_FAMILY_PROBE, 0, pool_backward, batch, tokens, heads, width, x, weight, dpooled, du, accumulate);
}
static np_status profile_cross_entropy(np_ops *ops, int batch, int classes, float scale, const float *logits,
                                       const int32_t *labels, float *dlogits, double *loss) {
  PROFILED(NP_FAMILY_PROBE, 0, cross_entropy, batch, classes, scale, logits, labels, dlogits, loss);
}

/* ---- optimiser ---- */

static np_status profile_sum_squares(np_ops *ops, int64_t count, const float *g, double *sum, bool accumulate) {
  PROFILED(NP_FAMILY_OPTIMISER, 0, sum_squares, count, g, sum, accumulate);
}
static np_status profile_adamw_prepare(np_ops *ops, const np_adamw *how, np_adamw_state *state) {
  PROFILED(NP_FAMILY_OPTIMISER, 0, adamw_prepare, how, state);
}
static np_status profile_adamw(np_ops *ops, const np_adamw *how, const np_adamw_state *state, int64_t count,
                               const float *g, float *w, float *m, float *v, void *low) {
  PROFILED(NP_FAMILY_OPTIMISER, 0, adamw, how, state, count, g, w, m, v, low);
}

/* ---- open, read, close ---- */

static void profile_destroy(np_ops *ops) { free(ops); }

static const np_ops operations = {
    .alloc = profile_alloc,
    .release = profile_release,
    .available = profile_available,
    .upload = profile_upload,
    .download = profile_download,
    .zero = profile_zero,
    .fetch = profile_fetch,
    .arrive = profile_arrive,
    .forget = profile_forget,
    .mark = profile_mark,
    .elapsed = profile_elapsed,
    .to_act = profile_to_act,
    .axpy = profile_axpy,
    .patchify = profile_patchify,
    .add_table = profile_add_table,
    .gather_rows = profile_gather_rows,
    .scatter_rows = profile_scatter_rows,
    .matmul = profile_matmul,
    .column_sum = profile_column_sum,
    .norm_forward = profile_norm_forward,
    .norm_backward = profile_norm_backward,
    .gelu_forward = profile_gelu_forward,
    .gelu_backward = profile_gelu_backward,
    .attention_forward = profile_attention_forward,
    .attention_backward = profile_attention_backward,
    .pixel_loss = profile_pixel_loss,
    .batch_moments = profile_batch_moments,
    .batch_norm = profile_batch_norm,
    .pool_forward = profile_pool_forward,
    .pool_backward = profile_pool_backward,
    .cross_entropy = profile_cross_entropy,
    .sum_squares = profile_sum_squares,
    .adamw_prepare = profile_adamw_prepare,
    .adamw = profile_adamw,
    .destroy = profile_destroy,
};

np_status np_ops_profile(np_ops *inner, double pairs, np_ops **out) {
  profile *p = calloc(1, sizeof *p);
  *out = NULL;
  if (!p) return np_error(NP_ERR_MEMORY, "out of memory for the profile");
  p->ops = operations;
  p->ops.name = inner->name;
  p->ops.act = inner->act;
  p->inner = inner;
  p->pairs = pairs;
  *out = &p->ops;
  return NP_OK;
}

np_status np_ops_profile_read(np_ops *profiled, np_family_sum sums[NP_FAMILIES]) {
  profile *p = of(profiled);
  np_status st = drain(p);
  if (st != NP_OK) return st;
  memcpy(sums, p->sums, sizeof p->sums);
  memset(p->sums, 0, sizeof p->sums);
  return NP_OK;
}
