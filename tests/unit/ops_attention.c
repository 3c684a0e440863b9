/* Attention's reference against finite differences, the operator against the reference on odd shapes, and what hidden
 * keys and queries may not touch. unit/ops_attention_shapes.c has the shapes of models. */
#include "attention_bed.h"
#include "ops/attention_tiles.h"

/* ---- the reference against finite differences ---- */

typedef struct loss_of {
  const shape *s;
  const double *dout;
  double *out;
} loss_of;

static double loss(const double *qkv, void *context) {
  const loss_of *l = context;
  reference_forward(l->s, qkv, l->out, NULL, NULL);
  return dot(l->out, l->dout, l->s->batch * l->s->tokens * l->s->heads * l->s->width);
}

static void test_reference(void **state) {
  (void)state;
  harness h = {.act = NP_F32, .random = 7, .form = "reference"};
  static const shape shapes[] = {{2, 7, 2, 8, {0, 3}, true}, {1, 1, 1, 8, {0}, true}, {2, 5, 1, 8, {0}, false}};
  for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
    const shape *s = &shapes[c];
    int64_t outs = (int64_t)s->batch * s->tokens * s->heads * s->width;
    double *qkv, *dout, *dqkv = h_take_f64(&h, 3 * outs), *out = h_take_f64(&h, outs);
    h_normal_f32(&h, 3 * outs, 1.0, &qkv);
    h_normal_f32(&h, outs, 1.0, &dout);
    reference_forward(s, qkv, out, NULL, NULL);
    reference_backward(s, qkv, out, dout, dqkv, NULL);
    loss_of context = {s, dout, out};
    for (int64_t i = 0; i < 3 * outs; i++) h_near(&h, "dqkv", dqkv[i], h_slope(loss, qkv, i, &context), 1e-8);
    h_finish(&h);
  }
}

/* ---- the operator against the reference ---- */

static void shapes(harness *h) {
  static const shape cases[] = {
      {5, 7, 2, 8, {0, 1, 3, 6, 7}, true}, {1, 1, 1, 8, {0}, true},
      {2, 1, 3, 64, {1, 0}, true},         {5, 65, 2, 32, {0, 1, 64, 65, 33}, true},
      {2, 130, 2, 40, {0}, false},         {3, 70, 1, 256, {0, 5, 69}, true},
      {2, 65, 1, 72, {8, 64}, true},       {3, 130, 3, 32, {130, 64, 1}, true},
  };
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
    if (!tensor_cores(h) || cases[c].width <= 128) one_shape(h, &cases[c], true);
}

H_TEST(test_shapes, shapes)

/* ---- hidden keys are not read ---- */

/* Whether what is NaN at key j may not touch query i, nor the other way round. A tensor core takes whole tiles, so
 * there it is promised for pairs of tiles that are hidden altogether: kernels/attention.cuh. No kernel's tile is larger
 * than this. */
static bool apart(const harness *h, const shape *s, int i, int j) {
  enum { LARGEST = 128 };
  const np_attention_map map = {s->tokens, s->prefix[0], LARGEST, LARGEST};
  if (tensor_cores(h)) return np_attention_kind(&map, i / LARGEST, j / LARGEST) == NP_TILE_HIDDEN;
  return !sees(s, 0, i, j);
}

static void poison(const harness *h, const shape *s, void *qkv, int n, int from, int to) {
  for (int which = from; which < to; which++)
    for (int i = 0; i < s->heads * s->width; i++)
      h_set(h, qkv, (((int64_t)n * 3 + which) * s->heads) * s->width + i, NAN);
}

/* Key and value `bad` are NaN: queries that do not see it give the same bits as before, the others NaN. */
static void poisoned_key(harness *h, const shape *s, int bad) {
  int64_t outs = (int64_t)s->tokens * s->heads * s->width;
  double *qkv64;
  void *qkv = h_normal_act(h, 3 * outs, 1.0, &qkv64), *clean = h_take_act(h, outs), *out = h_take_act(h, outs);
  run_forward(h, s, qkv, clean, NULL);
  poison(h, s, qkv, bad, 1, 3);
  run_forward(h, s, qkv, out, NULL);
  for (int i = 0; i < s->tokens; i++)
    for (int c = 0; c < s->heads * s->width; c++) {
      int64_t at = (int64_t)i * s->heads * s->width + c;
      double value = h_get(h, out, at);
      if (sees(s, 0, i, bad) ? !isnan(value) : apart(h, s, i, bad) && value != h_get(h, clean, at))
        fail_msg("%s: N %d S %d, key %d is NaN: query %d gives %g", h->name, s->tokens, s->prefix[0], bad, i, value);
    }
  h_finish(h);
}

/* Query `bad` and its dout are NaN: gradients of keys that it does not see, and of other queries, stay the same. */
static void poisoned_query(harness *h, const shape *s, int bad) {
  int row = s->heads * s->width;
  int64_t outs = (int64_t)s->tokens * row;
  double *qkv64, *dout64;
  void *qkv = h_normal_act(h, 3 * outs, 1.0, &qkv64), *dout = h_normal_act(h, outs, 1.0, &dout64);
  void *out = h_take_act(h, outs), *clean = h_take_act(h, 3 * outs), *dqkv = h_take_act(h, 3 * outs);
  float *lse = h_take_f32(h, (int64_t)s->heads * s->tokens);
  run_forward(h, s, qkv, out, lse);
  run_backward(h, s, qkv, out, lse, dout, clean);
  poison(h, s, qkv, bad, 0, 1);
  for (int c = 0; c < row; c++) h_set(h, dout, (int64_t)bad * row + c, NAN);
  run_backward(h, s, qkv, out, lse, dout, dqkv);
  for (int n = 0; n < s->tokens; n++)
    for (int i = 0; i < 3 * row; i++) {
      bool touched = i < row ? n == bad : sees(s, 0, bad, n), kept = i < row ? n != bad : apart(h, s, bad, n);
      double value = h_get(h, dqkv, (int64_t)n * 3 * row + i);
      if (touched ? !isnan(value) : kept && value != h_get(h, clean, (int64_t)n * 3 * row + i))
        fail_msg("%s: N %d S %d, query %d is NaN: gradient %d of token %d is %g", h->name, s->tokens, s->prefix[0], bad,
                 i, n, value);
    }
  h_finish(h);
}

static void poisoned(harness *h, int tokens, int prefix, int bad) {
  const shape s = {1, tokens, 1, 24, {prefix}, true};
  poisoned_key(h, &s, bad);
  poisoned_query(h, &s, bad);
}

static void hidden(harness *h) {
  static const int prefixes[] = {0, 1, 40, 66, 99}, bads[] = {0, 1, 5, 39, 63, 64, 67, 99};
  static const int tile_prefixes[] = {0, 100, 200}, tile_bads[] = {127, 128, 270}; /* around tiles of 128 */
  if (tensor_cores(h)) {
    for (int p = 0; p < 3; p++)
      for (int b = 0; b < 3; b++) poisoned(h, 280, tile_prefixes[p], tile_bads[b]);
    return;
  }
  for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
    for (size_t b = 0; b < sizeof bads / sizeof *bads; b++) poisoned(h, 100, prefixes[p], bads[b]);
}

H_TEST(test_hidden, hidden)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference), cmocka_unit_test(test_shapes),
                                     cmocka_unit_test(test_hidden)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
