#include "bench/ops.h"

#include "bench/fill.h"
#include "ops/cuda.h"

#include <stdlib.h>
#include <string.h>

/* What a run has at hand. Each operator's body takes its arrays one after another from its turn's part of one buffer,
 * and says of each whether it is read or written; so the same lines that call the operator count its bytes, in a first
 * run without memory. */
typedef struct run {
  const np_ops_bench *bench;
  np_ops *ops;
  np_bench_body body;
  int calls;             /* of it in a timed run */
  unsigned char *buffer; /* NULL: only count */
  int sets;
  size_t need;    /* bytes of one set */
  double traffic; /* bytes read and written */
  int64_t rows;   /* as reported */
  int width;
  /* shared by all runs, device */
  int32_t *kept;         /* [loss_tokens] the loss tokens, as if every prefix were N/2 */
  float *scale;          /* [1] */
  double *loss;          /* [1] */
  np_adamw_state *state; /* [1] */
  float *vectors;        /* [4, D]: gain, bias and their gradients */
  int64_t tokens, loss_tokens;
} run;

/* A timed run moves this much at least, by calling its operator several times: a mark between two calls takes the GPU
 * some microseconds, in which one of them moves twenty megabytes. */
static const double RUN_BYTES = 1e9;
enum { MOST_CALLS = 64 };

enum { READ = 1, WRITE = 1, BOTH = 2, TWICE = 2 }; /* how often an array's bytes cross the memory bus */

typedef struct part {
  run *run;
  size_t at;
  int turn;
} part;

static void *take(part *p, double count, size_t size, int passes) {
  size_t offset = p->at, bytes = (size_t)count * size;
  p->at += (bytes + 255) / 256 * 256;
  if (!p->run->buffer) {
    p->run->need = p->at;
    p->run->traffic += (double)bytes * passes;
    return NULL;
  }
  return p->run->buffer + (size_t)(p->turn % p->run->sets) * p->run->need + offset;
}

static void *take_act(part *p, int64_t rows, int64_t width, int passes) {
  return take(p, (double)rows * (double)width, np_dtype_size(p->run->ops->act), passes);
}

static float *take_f32(part *p, int64_t count, int passes) { return take(p, (double)count, sizeof(float), passes); }

static bool counting(const part *p, int64_t rows, int width) {
  p->run->rows = rows, p->run->width = width;
  return !p->run->buffer;
}

/* ---- the operators ---- */

static np_status copy(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int64_t count = p.run->tokens * p.run->bench->model->width;
  float *x = take_f32(&p, count, READ), *y = take_f32(&p, count, WRITE);
  if (counting(&p, count, 0)) return NP_OK;
  if (!strcmp(ops->name, "cpu")) return ops->to_act(ops, count, x, y);
  return np_cuda_copy(ops, y, x, (size_t)count * sizeof *x); /* not one of ours: the driver's */
}

static np_status norm_forward(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int width = p.run->bench->model->width;
  int64_t rows = p.run->tokens;
  const void *x = take_act(&p, rows, width, READ), *delta = take_act(&p, rows, width, READ);
  void *sum = take_act(&p, rows, width, WRITE), *y = take_act(&p, rows, width, WRITE);
  float *mean = take_f32(&p, rows, WRITE), *rstd = take_f32(&p, rows, WRITE), *gain = p.run->vectors;
  if (counting(&p, rows, width)) return NP_OK;
  return ops->norm_forward(ops, rows, width, 1e-5f, x, delta, gain, gain + width, sum, y, mean, rstd);
}

static np_status norm_backward(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int width = p.run->bench->model->width;
  int64_t rows = p.run->tokens;
  const void *dy = take_act(&p, rows, width, READ), *x = take_act(&p, rows, width, READ);
  const void *residual = take_act(&p, rows, width, READ);
  void *dx = take_act(&p, rows, width, WRITE);
  const float *mean = take_f32(&p, rows, READ), *rstd = take_f32(&p, rows, READ);
  float *gain = p.run->vectors, *dgain = gain + 2 * width;
  if (counting(&p, rows, width)) return NP_OK;
  return ops->norm_backward(ops, rows, width, dy, x, mean, rstd, gain, residual, dx, dgain, dgain + width, true);
}

static np_status gelu_forward(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int hidden = p.run->bench->model->width * p.run->bench->model->mlp_ratio;
  int64_t rows = p.run->tokens;
  const void *x = take_act(&p, rows, hidden, READ);
  void *y = take_act(&p, rows, hidden, WRITE);
  return counting(&p, rows, hidden) ? NP_OK : ops->gelu_forward(ops, rows * hidden, x, y);
}

static np_status gelu_backward(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int hidden = p.run->bench->model->width * p.run->bench->model->mlp_ratio;
  int64_t rows = p.run->tokens;
  const void *x = take_act(&p, rows, hidden, READ), *dy = take_act(&p, rows, hidden, READ);
  void *dx = take_act(&p, rows, hidden, WRITE);
  return counting(&p, rows, hidden) ? NP_OK : ops->gelu_backward(ops, rows * hidden, x, dy, dx);
}

static np_pixels pixels_of(const run *r, const uint8_t *u8) {
  const np_recipe_model *m = r->bench->model;
  np_pixels pixels = {.u8 = u8, .batch = r->bench->images, .height = m->image_size[0], .width = m->image_size[1]};
  pixels.channels = m->channels, pixels.patch = m->patch_size;
  for (int c = 0; c < 3; c++) pixels.mean[c] = (float)m->pixel_mean[c], pixels.std[c] = (float)m->pixel_std[c];
  return pixels;
}

static np_status patchify(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int values = np_recipe_patch_values(p.run->bench->model);
  int64_t rows = p.run->tokens;
  np_pixels pixels = pixels_of(p.run, take(&p, (double)rows * values, 1, READ));
  void *out = take_act(&p, rows, values, WRITE);
  return counting(&p, rows, values) ? NP_OK : ops->patchify(ops, &pixels, out);
}

static np_status pixel_loss(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int values = np_recipe_patch_values(p.run->bench->model);
  int64_t rows = p.run->loss_tokens;
  const uint8_t *u8 = take(&p, (double)p.run->tokens * values, 1, READ);
  if (!p.run->buffer) p.run->traffic -= (double)(p.run->tokens - rows) * values; /* only the targets are read */
  np_pixels pixels = pixels_of(p.run, u8);
  const void *pred = take_act(&p, rows, values, READ);
  void *dpred = take_act(&p, rows, values, WRITE);
  if (counting(&p, rows, values)) return NP_OK;
  return ops->pixel_loss(ops, &pixels, rows, p.run->kept, true, p.run->scale, pred, dpred, p.run->loss, true);
}

static np_status gather_rows(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int width = p.run->bench->model->width;
  int64_t rows = p.run->loss_tokens;
  const void *x = take_act(&p, p.run->tokens, width, READ);
  if (!p.run->buffer) p.run->traffic -= (double)(p.run->tokens - rows) * width * (double)np_dtype_size(ops->act);
  void *y = take_act(&p, rows, width, WRITE);
  return counting(&p, rows, width) ? NP_OK : ops->gather_rows(ops, rows, width, p.run->kept, x, y);
}

static np_status scatter_rows(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int width = p.run->bench->model->width;
  int64_t rows = p.run->loss_tokens, total = p.run->tokens;
  const void *dy = take_act(&p, rows, width, READ);
  void *dx = take_act(&p, total, width, WRITE);
  return counting(&p, rows, width) ? NP_OK : ops->scatter_rows(ops, rows, total, width, p.run->kept, dy, dx);
}

static np_status add_table(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int width = p.run->bench->model->width, tokens = np_recipe_tokens(p.run->bench->model);
  int64_t rows = p.run->tokens;
  const float *table = take_f32(&p, (int64_t)tokens * width, READ);
  void *x = take_act(&p, rows, width, BOTH);
  return counting(&p, rows, width) ? NP_OK : ops->add_table(ops, rows, width, tokens, NULL, table, x);
}

static np_status column_sum(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int width = p.run->bench->model->width;
  int64_t rows = p.run->tokens;
  const void *x = take_act(&p, rows, width, READ);
  return counting(&p, rows, width) ? NP_OK : ops->column_sum(ops, rows, width, x, p.run->vectors + 2 * width, false);
}

static np_status to_act(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int64_t count = p.run->bench->parameters;
  const float *in = take_f32(&p, count, READ);
  void *out = take_act(&p, count, 1, WRITE);
  return counting(&p, count, 0) ? NP_OK : ops->to_act(ops, count, in, out);
}

static np_status axpy(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int64_t count = p.run->bench->parameters;
  const void *x = take_act(&p, count, 1, READ);
  float *y = take_f32(&p, count, BOTH);
  return counting(&p, count, 0) ? NP_OK : ops->axpy(ops, count, 0.5f, x, y);
}

static np_status sum_squares(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int64_t count = p.run->bench->parameters;
  const float *g = take_f32(&p, count, READ);
  return counting(&p, count, 0) ? NP_OK : ops->sum_squares(ops, count, g, p.run->loss, false);
}

static np_status adamw(void *context, int turn) {
  static const np_adamw how = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8f, .weight_decay = 0.05f, .clip = 1};
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int64_t count = p.run->bench->parameters;
  const float *g = take_f32(&p, count, READ);
  float *w = take_f32(&p, count, BOTH), *m = take_f32(&p, count, BOTH), *v = take_f32(&p, count, BOTH);
  void *low = ops->act == NP_F32 ? NULL : take_act(&p, count, 1, WRITE);
  return counting(&p, count, 0) ? NP_OK : ops->adamw(ops, &how, p.run->state, count, g, w, m, v, low);
}

/* ---- of the probe: float32, and twice through what it reads: statistics, or a softmax over tokens, stand between ----
 */

static np_status batch_norm(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  int width = p.run->bench->model->width;
  int64_t rows = p.run->tokens;
  const float *x = take_f32(&p, rows * width, TWICE);
  float *y = take_f32(&p, rows * width, WRITE), *running = p.run->vectors;
  double *sums = take(&p, 2.0 * width, sizeof(double), BOTH);
  if (counting(&p, rows, width)) return NP_OK;
  np_status st = ops->batch_moments(ops, rows, width, x, running, sums);
  return st == NP_OK ? ops->batch_norm(ops, rows, width, 1e-5f, 0.1f, sums, rows, x, running, running + width, y) : st;
}

static np_status pool_forward(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  const np_recipe_model *m = p.run->bench->model;
  int images = p.run->bench->images, tokens = np_recipe_tokens(m), heads = m->heads, width = m->width;
  const float *x = take_f32(&p, p.run->tokens * width, TWICE), *u = take_f32(&p, (int64_t)heads * width, READ);
  float *weight = take_f32(&p, p.run->tokens * heads, WRITE);
  float *pooled = take_f32(&p, (int64_t)images * heads * width, WRITE);
  if (counting(&p, p.run->tokens, width)) return NP_OK;
  return ops->pool_forward(ops, images, tokens, heads, width, x, u, weight, pooled);
}

static np_status pool_backward(void *context, int turn) {
  part p = {context, 0, turn};
  np_ops *ops = p.run->ops;
  const np_recipe_model *m = p.run->bench->model;
  int images = p.run->bench->images, tokens = np_recipe_tokens(m), heads = m->heads, width = m->width;
  const float *x = take_f32(&p, p.run->tokens * width, TWICE), *weight = take_f32(&p, p.run->tokens * heads, READ);
  const float *dpooled = take_f32(&p, (int64_t)images * heads * width, READ);
  float *du = take_f32(&p, (int64_t)heads * width, WRITE);
  if (counting(&p, p.run->tokens, width)) return NP_OK;
  return ops->pool_backward(ops, images, tokens, heads, width, x, weight, dpooled, du, false);
}

static const struct {
  const char *name;
  np_bench_body body;
} operators[] = {
    {"norm_forward", norm_forward},
    {"norm_backward", norm_backward},
    {"gelu_forward", gelu_forward},
    {"gelu_backward", gelu_backward},
    {"patchify", patchify},
    {"pixel_loss", pixel_loss},
    {"gather_rows", gather_rows},
    {"scatter_rows", scatter_rows},
    {"add_table", add_table},
    {"column_sum", column_sum},
    {"to_act", to_act},
    {"axpy", axpy},
    {"sum_squares", sum_squares},
    {"adamw", adamw},
    {"batch_norm", batch_norm},
    {"pool_forward", pool_forward},
    {"pool_backward", pool_backward},
};

/* ---- measuring ---- */

static np_status call_again(void *context, int turn) {
  run *r = context;
  np_status st = NP_OK;
  for (int i = 0; i < r->calls && st == NP_OK; i++) st = r->body(r, turn * r->calls + i);
  return st;
}

static np_status one(run *r, const char *name, np_bench_body body, double *seconds, np_ops_row *row) {
  np_status st = NP_OK;
  const np_ops_bench *bench = r->bench;
  void *buffer = NULL;
  r->buffer = NULL, r->traffic = 0;
  NP_TRY(body(r, 0));
  r->body = body;
  r->calls = bench->calls;
  if (!r->calls) r->calls = MOST_CALLS * r->traffic < RUN_BYTES ? MOST_CALLS : 1 + (int)(RUN_BYTES / r->traffic);
  r->sets = np_bench_sets(bench->rotation, (double)r->need);
  NP_TRY(r->ops->alloc(r->ops, r->need * (size_t)r->sets, &buffer));
  if (body == adamw)
    NP_TRY(r->ops->zero(r->ops, buffer, r->need * (size_t)r->sets)); /* v is a square: never negative */
  else NP_TRY(np_bench_fill(r->ops, bench->seed, r->need * (size_t)r->sets, buffer));
  r->buffer = buffer;
  NP_TRY(np_bench_time(r->ops, call_again, r, bench->warmup, bench->runs, seconds));
  for (int i = 0; i < bench->runs; i++) seconds[i] /= r->calls;
  *row = (np_ops_row){.name = name, .rows = r->rows, .width = r->width, .bytes = r->traffic, .calls = r->calls};
  row->time = np_timing_of(seconds, bench->runs);
out:
  r->ops->release(r->ops, buffer);
  return st == NP_OK ? st : np_error_context(st, "bench of %s", name);
}

static np_status upload_new(np_ops *ops, const void *host, size_t bytes, void **out) {
  np_status st = ops->alloc(ops, bytes, out);
  return st == NP_OK ? ops->upload(ops, *out, host, bytes) : st;
}

static np_status open_shared(run *r) {
  np_status st = NP_OK;
  const np_recipe_model *m = r->bench->model;
  const np_adamw_state state = {.lr = 1e-3f, .grad_scale = 1, .bias_correction1 = 1, .bias_correction2 = 1, .apply = 1};
  const float scale = 1e-6f;
  void *kept = NULL, *one_scale = NULL, *loss = NULL, *adam = NULL, *vectors = NULL;
  int N = np_recipe_tokens(m), first = N / 2 - 1, each = N - N / 2, images = r->bench->images;
  if (N < 2) return np_error(NP_ERR_ARGUMENT, "model.image_size: an image of one patch has no patch to predict");
  r->tokens = (int64_t)images * N, r->loss_tokens = (int64_t)images * each;
  int32_t *host = malloc((size_t)r->loss_tokens * sizeof *host);
  if (!host) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  for (int b = 0; b < images; b++) /* k = N/2 - 1 … N - 2: those whose following patch counts */
    for (int i = 0; i < each; i++) host[b * each + i] = (int32_t)(b * N + first + i);
  st = upload_new(r->ops, host, (size_t)r->loss_tokens * sizeof *host, &kept);
  r->kept = kept;
  free(host);
  NP_TRY(st);
  st = upload_new(r->ops, &scale, sizeof scale, &one_scale), r->scale = one_scale;
  NP_TRY(st);
  st = upload_new(r->ops, &state, sizeof state, &adam), r->state = adam;
  NP_TRY(st);
  st = r->ops->alloc(r->ops, sizeof(double), &loss), r->loss = loss;
  NP_TRY(st);
  NP_TRY(r->ops->zero(r->ops, loss, sizeof(double)));
  st = r->ops->alloc(r->ops, 4 * (size_t)m->width * sizeof(float), &vectors), r->vectors = vectors;
  NP_TRY(st);
  NP_TRY(r->ops->zero(r->ops, vectors, 4 * (size_t)m->width * sizeof(float)));
out:
  return st;
}

static void close_shared(run *r) {
  void *all[] = {r->kept, r->scale, r->loss, r->state, r->vectors};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) r->ops->release(r->ops, all[i]);
}

np_status np_bench_ops(const np_ops_bench *bench, void (*row)(const np_ops_row *row, void *context), void *context) {
  np_status st = NP_OK;
  np_ops_row one_row;
  run r = {.bench = bench, .ops = bench->ops};
  double *seconds = malloc((size_t)bench->runs * sizeof *seconds);
  if (!seconds) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  NP_TRY(open_shared(&r));
  r.ops = bench->copy;
  st = one(&r, "copy", copy, seconds, &one_row);
  r.ops = bench->ops;
  NP_TRY(st);
  double copy_rate = one_row.bytes / one_row.time.median;
  one_row.share = 1;
  row(&one_row, context);
  for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
    NP_TRY(one(&r, operators[i].name, operators[i].body, seconds, &one_row));
    one_row.share = one_row.bytes / one_row.time.median / copy_rate;
    row(&one_row, context);
  }
out:
  close_shared(&r);
  free(seconds);
  return st;
}
