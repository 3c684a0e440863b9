/* Attention by one query, without keys and values.
 *
 * As published, a head computes for every token n the key k_n = W_k x_n and the value v_n = W_v x_n — two D×D products
 * over all B·N tokens, forward, and two more for the gradients — and then lets ONE learnt query q look at them. Per
 * attention head i, with q_i, W_k,i, W_v,i the d rows that belong to it:
 *
 *   score   s_n = q_i · (W_k,i x_n) / sqrt(d)  =  (W_k,iᵀ q_i / sqrt(d)) · x_n      =  u_i · x_n
 *   output  o_i = Σ_n a_n (W_v,i x_n)          =  W_v,i (Σ_n a_n x_n)               =  W_v,i p_i        a = softmax(s)
 *
 * Both brackets move because the products are linear and q does not depend on the image. So the head needs h dot
 * products and h weighted sums of width D a token, 4·h·D operations instead of 4·D² + 4·D: D/h times fewer, and no
 * [B·N, D] array of keys or values. The gradients fold alike:
 *
 *   dp_i = W_v,iᵀ do_i            dW_v,i = Σ_b do_i ⊗ p_i
 *   du_i = Σ_b Σ_n a_n (dp_i·x_n - dp_i·p_i) x_n            (softmax, then the dot product; np_ops.pool_backward)
 *   dW_k,i = q_i ⊗ du_i / sqrt(d)     dq_i = W_k,i du_i / sqrt(d)
 *
 *   shapes   x [B, N, D] → weight [B, h, N] → pooled [B, h, D] → (turn) [h, B, D] → W_v → [h, B, d] → (turn) [B, D] →
 * logits
 *
 * The two turns put the rows of one attention head side by side, so that its product is a dense matrix product. */
#include "model/attentive_head.h"
#include "util/arena.h"

#include <math.h>
#include <stdlib.h>

struct np_heads {
  np_ops *ops;
  np_heads_shape shape;
  np_params table, trained; /* trained: the first slices of table, not owned */
  int64_t learnt;
  int64_t query, key, value, linear; /* offsets of one head's slices */
  void *memory;                      /* what all the following lie in */
  int turned;                        /* images the two index arrays are made for */
  int32_t *to_heads, *to_images;     /* [B·h] rows: [B, h] → [h, B], and back */
  int32_t *labels;                   /* [B] */
  double *loss;                      /* [1] */
  double *moments;                   /* [2, D] */
  float *weights;                    /* [G, learnt] */
  float *gradients;                  /* [learnt] */
  float *running;                    /* [2, D]: mean, variance */
  float *folded, *scaled;            /* u before and after 1/sqrt(d) [h, D]; in the backward pass du */
  float *attention;                  /* [B, h, N] */
  float *pooled, *turned_pooled; /* [B, h, D], [h, B, D]; in the backward pass their gradients, the other way round */
  float *turned_out, *out;       /* [h, B, d], [B, D]; then their gradients */
  float *logits;                 /* [B, classes]; then their gradient */
};

/* One linear layer or gradient, all float32. */
static np_status product(np_heads *s, int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b,
                         const float *a, const float *b, float *c) {
  const np_matmul shape = {.m = m,
                           .n = n,
                           .k = k,
                           .transpose_a = transpose_a,
                           .transpose_b = transpose_b,
                           .a_type = NP_F32,
                           .b_type = NP_F32,
                           .c_type = NP_F32};
  return s->ops->matmul(s->ops, &shape, a, b, NULL, c);
}

/* All buffers out of one block; run twice, first to count (util/arena.h). */
static void carve(np_heads *s, bool train, np_arena *arena) {
  const size_t f = sizeof(float), width = (size_t)s->shape.width, heads = (size_t)s->shape.heads;
  const size_t images = (size_t)s->shape.batch, rows = images * heads;
  s->to_heads = np_arena_take(arena, rows * sizeof(int32_t));
  s->to_images = np_arena_take(arena, rows * sizeof(int32_t));
  s->labels = np_arena_take(arena, images * sizeof(int32_t));
  s->loss = np_arena_take(arena, sizeof(double));
  s->moments = train ? np_arena_take(arena, 2 * width * sizeof(double)) : NULL;
  s->weights = np_arena_take(arena, (size_t)s->learnt * (size_t)s->shape.count * f);
  s->gradients = train ? np_arena_take(arena, (size_t)s->learnt * f) : NULL;
  s->running = np_arena_take(arena, 2 * width * f);
  s->folded = np_arena_take(arena, heads * width * f);
  s->scaled = np_arena_take(arena, heads * width * f);
  s->attention = np_arena_take(arena, rows * (size_t)s->shape.tokens * f);
  s->pooled = np_arena_take(arena, rows * width * f);
  s->turned_pooled = np_arena_take(arena, rows * width * f);
  s->turned_out = np_arena_take(arena, images * width * f);
  s->out = np_arena_take(arena, images * width * f);
  s->logits = np_arena_take(arena, images * (size_t)s->shape.classes * f);
}

np_status np_heads_create(np_ops *ops, const np_heads_shape *shape, bool train, np_heads **out) {
  np_status st = NP_OK;
  *out = NULL;
  if (ops->act != NP_F32) return np_error(NP_ERR_ARGUMENT, "attentive head: its operator table must be float32");
  if (shape->width % shape->heads)
    return np_error(NP_ERR_ARGUMENT, "attentive head: width %d is not divisible by its %d heads", shape->width,
                    shape->heads);
  np_heads *s = calloc(1, sizeof *s);
  if (!s) return np_error(NP_ERR_MEMORY, "attentive head: out of memory");
  s->ops = ops;
  s->shape = *shape;
  if (s->shape.bn_eps == 0) s->shape.bn_eps = 1e-6;
  if (s->shape.bn_momentum == 0) s->shape.bn_momentum = 0.1;
  NP_TRY(np_heads_layout(shape->width, shape->classes, &s->table, &s->learnt));
  s->trained = s->table;
  while (s->trained.items[s->trained.count - 1].offset >= s->learnt)
    s->trained.elements -= s->trained.items[--s->trained.count].count;
  s->trained.total = s->learnt;
  s->query = np_params_find(&s->table, "head.cls_token")->offset;
  s->key = np_params_find(&s->table, "head.k.weight")->offset;
  s->value = np_params_find(&s->table, "head.v.weight")->offset;
  s->linear = np_params_find(&s->table, "head.linear.weight")->offset;
  np_arena arena = {0};
  carve(s, train, &arena);
  NP_TRY(ops->alloc(ops, arena.used, &s->memory));
  arena = (np_arena){.base = s->memory};
  carve(s, train, &arena);
  if (train) NP_TRY(ops->zero(ops, s->gradients, (size_t)s->learnt * sizeof(float)));
  *out = s;
  return NP_OK;
out:
  np_heads_destroy(s);
  return st;
}

void np_heads_destroy(np_heads *s) {
  if (!s) return;
  s->ops->release(s->ops, s->memory);
  np_params_free(&s->table);
  free(s);
}

const np_params *np_heads_params(const np_heads *s) { return &s->table; }
const np_params *np_heads_learnt(const np_heads *s) { return &s->trained; }
float *np_heads_weights(np_heads *s, int g) { return s->weights + s->learnt * g; }
float *np_heads_gradients(np_heads *s) { return s->gradients; }

np_status np_heads_set(np_heads *s, int g, const float *host) {
  np_status st;
  const size_t width = (size_t)s->shape.width;
  const np_param *mean = np_params_find(&s->table, "head.bn.running_mean");
  const np_param *var = np_params_find(&s->table, "head.bn.running_var");
  NP_TRY(s->ops->upload(s->ops, np_heads_weights(s, g), host, (size_t)s->learnt * sizeof(float)));
  NP_TRY(s->ops->upload(s->ops, s->running, host + mean->offset, width * sizeof(float)));
  NP_TRY(s->ops->upload(s->ops, s->running + width, host + var->offset, width * sizeof(float)));
out:
  return st;
}

np_status np_heads_get(np_heads *s, int g, float *host) {
  np_status st;
  const size_t width = (size_t)s->shape.width;
  const np_param *mean = np_params_find(&s->table, "head.bn.running_mean");
  const np_param *var = np_params_find(&s->table, "head.bn.running_var");
  for (int64_t i = s->learnt; i < s->table.total; i++) host[i] = 0;
  NP_TRY(s->ops->download(s->ops, host, np_heads_weights(s, g), (size_t)s->learnt * sizeof(float)));
  NP_TRY(s->ops->download(s->ops, host + mean->offset, s->running, width * sizeof(float)));
  NP_TRY(s->ops->download(s->ops, host + var->offset, s->running + width, width * sizeof(float)));
out:
  return st;
}

/* The two row orders for `count` images; made anew only when the count changes (the last batch of an evaluation). */
static np_status turn(np_heads *s, int count) {
  np_status st = NP_OK;
  const int heads = s->shape.heads;
  const size_t bytes = (size_t)count * (size_t)heads * sizeof(int32_t);
  int32_t *rows = NULL;
  if (s->turned == count) return NP_OK;
  if (!(rows = malloc(bytes))) return np_error(NP_ERR_MEMORY, "attentive head: out of memory");
  for (int i = 0; i < heads; i++)
    for (int b = 0; b < count; b++) rows[i * count + b] = b * heads + i;
  NP_TRY(s->ops->upload(s->ops, s->to_heads, rows, bytes));
  for (int b = 0; b < count; b++)
    for (int i = 0; i < heads; i++) rows[b * heads + i] = i * count + b;
  NP_TRY(s->ops->upload(s->ops, s->to_images, rows, bytes));
  s->turned = count;
out:
  free(rows);
  return st;
}

np_status np_heads_moments(np_heads *s, int count, const float *x, double **moments, int64_t *size) {
  *moments = s->moments;
  *size = 2 * (int64_t)s->shape.width;
  return s->ops->batch_moments(s->ops, (int64_t)count * s->shape.tokens, s->shape.width, x, s->running, s->moments);
}

np_status np_heads_normalise(np_heads *s, int count, int whole, float *x) {
  const int64_t tokens = s->shape.tokens;
  return s->ops->batch_norm(s->ops, count * tokens, s->shape.width, (float)s->shape.bn_eps, (float)s->shape.bn_momentum,
                            whole ? s->moments : NULL, whole * tokens, x, s->running, s->running + s->shape.width, x);
}

/* y = x / sqrt(d), both [h, D]. */
static np_status scale(np_heads *s, const float *x, float *y) {
  np_status st;
  const int64_t count = (int64_t)s->shape.heads * s->shape.width;
  NP_TRY(s->ops->zero(s->ops, y, (size_t)count * sizeof(float)));
  NP_TRY(s->ops->axpy(s->ops, count, (float)(1 / sqrt((double)s->shape.width / s->shape.heads)), x, y));
out:
  return st;
}

np_status np_heads_forward(np_heads *s, int g, int count, const float *x, float *logits) {
  np_status st;
  np_ops *ops = s->ops;
  const int width = s->shape.width, heads = s->shape.heads, d = width / heads;
  const int64_t block = (int64_t)d * width; /* the rows of W_k and W_v that belong to one attention head */
  const float *w = np_heads_weights(s, g);
  NP_TRY(turn(s, count));
  for (int i = 0; i < heads; i++)
    NP_TRY(product(s, 1, width, d, false, false, w + s->query + i * d, w + s->key + i * block,
                   s->folded + (int64_t)i * width));
  NP_TRY(scale(s, s->folded, s->scaled));
  NP_TRY(ops->pool_forward(ops, count, s->shape.tokens, heads, width, x, s->scaled, s->attention, s->pooled));
  NP_TRY(ops->gather_rows(ops, (int64_t)count * heads, width, s->to_heads, s->pooled, s->turned_pooled));
  for (int i = 0; i < heads; i++)
    NP_TRY(product(s, count, d, width, false, true, s->turned_pooled + (int64_t)i * count * width,
                   w + s->value + i * block, s->turned_out + (int64_t)i * count * d));
  NP_TRY(ops->gather_rows(ops, (int64_t)count * heads, d, s->to_images, s->turned_out, s->out));
  NP_TRY(product(s, count, s->shape.classes, width, false, true, s->out, w + s->linear, s->logits));
  if (logits) NP_TRY(ops->download(ops, logits, s->logits, (size_t)count * (size_t)s->shape.classes * sizeof(float)));
out:
  return st;
}

np_status np_heads_backward(np_heads *s, int g, int count, int whole, const float *x, const int32_t *labels,
                            double *loss) {
  np_status st;
  np_ops *ops = s->ops;
  const int width = s->shape.width, heads = s->shape.heads, d = width / heads, classes = s->shape.classes;
  const int64_t block = (int64_t)d * width, rows = (int64_t)count * heads;
  const float *w = np_heads_weights(s, g);
  float *dw = s->gradients;
  for (int b = 0; b < count; b++)
    if (labels[b] < 0 || labels[b] >= classes)
      return np_error(NP_ERR_ARGUMENT, "attentive head: label %d, expected 0..%d", (int)labels[b], classes - 1);
  NP_TRY(ops->upload(ops, s->labels, labels, (size_t)count * sizeof(int32_t)));
  NP_TRY(ops->cross_entropy(ops, count, classes, 1.0f / (float)whole, s->logits, s->labels, s->logits, s->loss));
  /* linear: its gradient, then dout in place of out */
  NP_TRY(product(s, classes, width, count, true, false, s->logits, s->out, dw + s->linear));
  NP_TRY(product(s, count, width, classes, false, false, s->logits, w + s->linear, s->out));
  /* W_v: dpooled takes the place of pooled, one attention head after the other */
  NP_TRY(ops->gather_rows(ops, rows, d, s->to_heads, s->out, s->turned_out));
  for (int i = 0; i < heads; i++) {
    float *pooled = s->turned_pooled + (int64_t)i * count * width;
    const float *dout = s->turned_out + (int64_t)i * count * d;
    NP_TRY(product(s, d, width, count, true, false, dout, pooled, dw + s->value + i * block));
    NP_TRY(product(s, count, width, d, false, false, dout, w + s->value + i * block, pooled));
  }
  NP_TRY(ops->gather_rows(ops, rows, width, s->to_images, s->turned_pooled, s->pooled));
  /* u, and through it W_k and the query */
  NP_TRY(ops->pool_backward(ops, count, s->shape.tokens, heads, width, x, s->attention, s->pooled, s->folded, false));
  NP_TRY(scale(s, s->folded, s->scaled));
  for (int i = 0; i < heads; i++) {
    const float *du = s->scaled + (int64_t)i * width;
    NP_TRY(product(s, d, width, 1, false, false, w + s->query + i * d, du, dw + s->key + i * block));
    NP_TRY(product(s, 1, d, width, false, true, du, w + s->key + i * block, dw + s->query + i * d));
  }
  NP_TRY(ops->download(ops, loss, s->loss, sizeof *loss));
  *loss /= whole;
out:
  return st;
}
