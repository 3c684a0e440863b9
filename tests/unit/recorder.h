/* A double of a backend that records: an operator table around another one. While it records, calls are noted and not
 * run; a replay makes them. It checks what a device would ask for: between begin and end nothing but operations on
 * device memory. */
#ifndef NP_TESTS_RECORDER_H
#define NP_TESTS_RECORDER_H

#include "ops/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef np_status (*call_run)(np_ops *ops, const void *arguments);

typedef struct call {
  call_run run;
  union { /* room for any operation's arguments */
    max_align_t align;
    unsigned char bytes[192];
  } arguments;
} call;

struct np_recording {
  int count, room;
  call *calls;
};

typedef struct recorder {
  np_ops table; /* first */
  np_ops *inner;
  np_recording *recording;                /* NULL: calls are run */
  int begun, replayed, forgotten, direct; /* what happened; direct: operations run as they came */
  int allocated;
  int fail_at, failures; /* the operation that fails while recording, and in how many recordings it does */
} recorder;

static inline recorder *recorder_of(np_ops *ops) { return (recorder *)ops; }

static inline np_status recorder_note(np_ops *ops, call_run run, const void *arguments, size_t size) {
  recorder *r = recorder_of(ops);
  if (!r->recording) {
    r->direct++;
    return run(r->inner, arguments);
  }
  np_recording *all = r->recording;
  if (r->failures && all->count + 1 == r->fail_at)
    return r->failures--, np_error(NP_ERR_LIBRARY, "the double fails as asked");
  assert_true(size <= sizeof((call *)0)->arguments);
  if (all->count == all->room) {
    all->room = 2 * all->room + 64;
    all->calls = realloc(all->calls, (size_t)all->room * sizeof *all->calls);
    assert_non_null(all->calls);
  }
  call *c = &all->calls[all->count++];
  c->run = run;
  memcpy(c->arguments.bytes, arguments, size);
  return NP_OK;
}

/* OP(name, fields, parameters, initialisers, arguments of the inner call): `a` is the noted struct. */
#define OP(name, fields, parameters, values, passed)                                                                   \
  struct name##_call fields;                                                                                           \
  static np_status name##_run(np_ops *ops, const void *arguments) {                                                    \
    const struct name##_call *a = arguments;                                                                           \
    return ops->name passed;                                                                                           \
  }                                                                                                                    \
  static np_status recorder_##name parameters {                                                                        \
    const struct name##_call a = values;                                                                               \
    return recorder_note(ops, name##_run, &a, sizeof a);                                                               \
  }
#define P(...)                                                                                                         \
  { __VA_ARGS__ }

// clang-format off
OP(zero, P(void *x; size_t bytes;), (np_ops *ops, void *x, size_t bytes), P(x, bytes), (ops, a->x, a->bytes))
OP(patchify, P(np_pixels pixels; void *out;), (np_ops *ops, const np_pixels *pixels, void *out), P(*pixels, out),
   (ops, &a->pixels, a->out))
OP(add_table, P(int64_t rows; int width, tokens; const int32_t *index; const float *table; void *x;),
   (np_ops *ops, int64_t rows, int width, int tokens, const int32_t *index, const float *table, void *x),
   P(rows, width, tokens, index, table, x), (ops, a->rows, a->width, a->tokens, a->index, a->table, a->x))
OP(gather_rows, P(int64_t rows; int width; const int32_t *index; const void *x; void *y;),
   (np_ops *ops, int64_t rows, int width, const int32_t *index, const void *x, void *y), P(rows, width, index, x, y),
   (ops, a->rows, a->width, a->index, a->x, a->y))
OP(scatter_rows, P(int64_t rows, total; int width; const int32_t *index; const void *dy; void *dx;),
   (np_ops *ops, int64_t rows, int64_t total, int width, const int32_t *index, const void *dy, void *dx),
   P(rows, total, width, index, dy, dx), (ops, a->rows, a->total, a->width, a->index, a->dy, a->dx))
OP(matmul, P(np_matmul shape; const void *a, *b; const float *bias; void *c;),
   (np_ops *ops, const np_matmul *shape, const void *x, const void *b, const float *bias, void *c),
   P(*shape, x, b, bias, c), (ops, &a->shape, a->a, a->b, a->bias, a->c))
OP(column_sum, P(int64_t rows; int width; const void *x; float *out; bool accumulate;),
   (np_ops *ops, int64_t rows, int width, const void *x, float *out, bool accumulate), P(rows, width, x, out, accumulate),
   (ops, a->rows, a->width, a->x, a->out, a->accumulate))
OP(norm_forward,
   P(int64_t rows; int width; float eps; const void *x, *delta; const float *gain, *bias; void *sum, *y; float *mean, *rstd;),
   (np_ops *ops, int64_t rows, int width, float eps, const void *x, const void *delta, const float *gain, const float *bias,
    void *sum, void *y, float *mean, float *rstd),
   P(rows, width, eps, x, delta, gain, bias, sum, y, mean, rstd),
   (ops, a->rows, a->width, a->eps, a->x, a->delta, a->gain, a->bias, a->sum, a->y, a->mean, a->rstd))
OP(norm_backward,
   P(int64_t rows; int width; const void *dy, *x; const float *mean, *rstd, *gain; const void *residual; void *dx;
     float *dgain, *dbias; bool accumulate;),
   (np_ops *ops, int64_t rows, int width, const void *dy, const void *x, const float *mean, const float *rstd,
    const float *gain, const void *residual, void *dx, float *dgain, float *dbias, bool accumulate),
   P(rows, width, dy, x, mean, rstd, gain, residual, dx, dgain, dbias, accumulate),
   (ops, a->rows, a->width, a->dy, a->x, a->mean, a->rstd, a->gain, a->residual, a->dx, a->dgain, a->dbias, a->accumulate))
OP(gelu_forward, P(int64_t count; const void *x; void *y;), (np_ops *ops, int64_t count, const void *x, void *y),
   P(count, x, y), (ops, a->count, a->x, a->y))
OP(gelu_backward, P(int64_t count; const void *x, *dy; void *dx;),
   (np_ops *ops, int64_t count, const void *x, const void *dy, void *dx), P(count, x, dy, dx),
   (ops, a->count, a->x, a->dy, a->dx))
OP(attention_forward, P(int batch, tokens, heads, width; const int32_t *prefix; const void *qkv; void *out; float *lse;),
   (np_ops *ops, int batch, int tokens, int heads, int width, const int32_t *prefix, const void *qkv, void *out, float *lse),
   P(batch, tokens, heads, width, prefix, qkv, out, lse),
   (ops, a->batch, a->tokens, a->heads, a->width, a->prefix, a->qkv, a->out, a->lse))
OP(attention_backward,
   P(int batch, tokens, heads, width; const int32_t *prefix; const void *qkv, *out; const float *lse; const void *dout;
     void *dqkv;),
   (np_ops *ops, int batch, int tokens, int heads, int width, const int32_t *prefix, const void *qkv, const void *out,
    const float *lse, const void *dout, void *dqkv),
   P(batch, tokens, heads, width, prefix, qkv, out, lse, dout, dqkv),
   (ops, a->batch, a->tokens, a->heads, a->width, a->prefix, a->qkv, a->out, a->lse, a->dout, a->dqkv))
OP(pixel_loss,
   P(np_pixels pixels; int64_t rows; const int32_t *index; bool normalize; const float *scale; const void *pred; void *dpred;
     double *loss; bool accumulate;),
   (np_ops *ops, const np_pixels *pixels, int64_t rows, const int32_t *index, bool normalize, const float *scale,
    const void *pred, void *dpred, double *loss, bool accumulate),
   P(*pixels, rows, index, normalize, scale, pred, dpred, loss, accumulate),
   (ops, &a->pixels, a->rows, a->index, a->normalize, a->scale, a->pred, a->dpred, a->loss, a->accumulate))
OP(sum_squares, P(int64_t count; const float *g; double *out; bool accumulate;),
   (np_ops *ops, int64_t count, const float *g, double *out, bool accumulate), P(count, g, out, accumulate),
   (ops, a->count, a->g, a->out, a->accumulate))
OP(adamw_prepare, P(np_adamw how; np_adamw_state *state;), (np_ops *ops, const np_adamw *how, np_adamw_state *state),
   P(*how, state), (ops, &a->how, a->state))
OP(adamw, P(np_adamw how; const np_adamw_state *state; int64_t count; const float *g; float *w, *m, *v; void *low;),
   (np_ops *ops, const np_adamw *how, const np_adamw_state *state, int64_t count, const float *g, float *w, float *m, float *v,
    void *low),
   P(*how, state, count, g, w, m, v, low), (ops, &a->how, a->state, a->count, a->g, a->w, a->m, a->v, a->low))
// clang-format on
#undef P
#undef OP

static np_status recorder_alloc(np_ops *ops, size_t bytes, void **out) {
  assert_null(recorder_of(ops)->recording);
  recorder_of(ops)->allocated++;
  return recorder_of(ops)->inner->alloc(recorder_of(ops)->inner, bytes, out);
}

static void recorder_release(np_ops *ops, void *memory) {
  assert_null(recorder_of(ops)->recording);
  recorder_of(ops)->inner->release(recorder_of(ops)->inner, memory);
}

static np_status recorder_upload(np_ops *ops, void *device, const void *host, size_t bytes) {
  assert_null(recorder_of(ops)->recording);
  return recorder_of(ops)->inner->upload(recorder_of(ops)->inner, device, host, bytes);
}

static np_status recorder_download(np_ops *ops, void *host, const void *device, size_t bytes) {
  assert_null(recorder_of(ops)->recording);
  return recorder_of(ops)->inner->download(recorder_of(ops)->inner, host, device, bytes);
}

static np_status recorder_to_act(np_ops *ops, int64_t count, const float *in, void *out) {
  assert_null(recorder_of(ops)->recording);
  return recorder_of(ops)->inner->to_act(recorder_of(ops)->inner, count, in, out);
}

static np_status recorder_begin(np_ops *ops) {
  recorder *r = recorder_of(ops);
  assert_null(r->recording);
  r->recording = calloc(1, sizeof *r->recording);
  assert_non_null(r->recording);
  r->begun++;
  return NP_OK;
}

static np_status recorder_end(np_ops *ops, np_recording **out) {
  recorder *r = recorder_of(ops);
  assert_non_null(r->recording);
  *out = r->recording;
  r->recording = NULL;
  return NP_OK;
}

static np_status recorder_replay(np_ops *ops, np_recording *recording) {
  recorder *r = recorder_of(ops);
  np_status st = NP_OK;
  assert_true(r->recording == NULL && recording->count > 0);
  for (int i = 0; i < recording->count; i++)
    NP_TRY(recording->calls[i].run(r->inner, recording->calls[i].arguments.bytes));
  r->replayed++;
out:
  return st;
}

static void recorder_forget(np_ops *ops, np_recording *recording) {
  if (!recording) return;
  recorder_of(ops)->forgotten++;
  free(recording->calls);
  free(recording);
}

static void recorder_destroy(np_ops *ops) {
  recorder *r = recorder_of(ops);
  assert_null(r->recording);
  r->inner->destroy(r->inner);
  free(r);
}

/* Takes `inner` over. What a training pass and an optimiser do not use is left out. */
static inline recorder *recorder_make(np_ops *inner) {
  recorder *r = calloc(1, sizeof *r);
  assert_non_null(r);
  r->inner = inner;
  r->table = (np_ops){
      .name = "recorder",
      .act = inner->act,
      .alloc = recorder_alloc,
      .release = recorder_release,
      .upload = recorder_upload,
      .download = recorder_download,
      .to_act = recorder_to_act,
      .record_begin = recorder_begin,
      .record_end = recorder_end,
      .replay = recorder_replay,
      .forget = recorder_forget,
      .zero = recorder_zero,
      .patchify = recorder_patchify,
      .add_table = recorder_add_table,
      .gather_rows = recorder_gather_rows,
      .scatter_rows = recorder_scatter_rows,
      .matmul = recorder_matmul,
      .column_sum = recorder_column_sum,
      .norm_forward = recorder_norm_forward,
      .norm_backward = recorder_norm_backward,
      .gelu_forward = recorder_gelu_forward,
      .gelu_backward = recorder_gelu_backward,
      .attention_forward = recorder_attention_forward,
      .attention_backward = recorder_attention_backward,
      .pixel_loss = recorder_pixel_loss,
      .sum_squares = recorder_sum_squares,
      .adamw_prepare = recorder_adamw_prepare,
      .adamw = recorder_adamw,
      .destroy = recorder_destroy,
  };
  return r;
}

#endif
