/* Attention against a float64 reference that builds the mask it must never build, its gradient against finite
 * differences. */
#include "ops/attention_tiles.h"
#include "ops_harness.h"

typedef struct shape {
  int batch, tokens, heads, width;
  int32_t prefix[5]; /* one an image */
  bool prefixed;
} shape;

static bool sees(const shape *s, int b, int i, int j) { return !s->prefixed || j <= i || j < s->prefix[b]; }

static const double *token(const shape *s, const double *qkv, int b, int n, int which, int head) {
  return qkv + ((((int64_t)b * s->tokens + n) * 3 + which) * s->heads + head) * s->width;
}

static double dot(const double *a, const double *b, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/* Probabilities of query i; returns its log-sum-exp. Hidden keys are not looked at. */
static double probabilities(const shape *s, const double *qkv, int b, int head, int i, double *p) {
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
static void forward(const shape *s, const double *qkv, double *out, double *lse, double *spread) {
  double *p = malloc((size_t)s->tokens * sizeof *p);
  for (int b = 0; b < s->batch; b++)
    for (int head = 0; head < s->heads; head++)
      for (int i = 0; i < s->tokens; i++) {
        double *o = out + (((int64_t)b * s->tokens + i) * s->heads + head) * s->width;
        double l = probabilities(s, qkv, b, head, i, p);
        if (lse) lse[((int64_t)b * s->heads + head) * s->tokens + i] = l;
        for (int c = 0; c < s->width; c++) {
          double square = o[c] = 0.0;
          for (int j = 0; j < s->tokens; j++) {
            if (p[j] == 0.0) continue;
            double product = p[j] * token(s, qkv, b, j, 2, head)[c];
            o[c] += product;
            square += product * product;
          }
          if (spread) spread[o - out + c] = sqrt(square);
        }
      }
  free(p);
}

/* The gradient in closed form, checked itself against finite differences below. As in the operator, Σ_j p·dp is taken
 * as Σ dout·out from the stored out: its rounding to bfloat16 belongs to the inputs, not to the bound. */
static void backward(const shape *s, const double *qkv, const double *out, const double *dout, double *dqkv,
                     double *spread) {
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

/* ---- the reference against finite differences ---- */

typedef struct loss_of {
  const shape *s;
  const double *dout;
  double *out;
} loss_of;

static double loss(const double *qkv, void *context) {
  const loss_of *l = context;
  forward(l->s, qkv, l->out, NULL, NULL);
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
    forward(s, qkv, out, NULL, NULL);
    backward(s, qkv, out, dout, dqkv, NULL);
    loss_of context = {s, dout, out};
    for (int64_t i = 0; i < 3 * outs; i++) h_near(&h, "dqkv", dqkv[i], h_slope(loss, qkv, i, &context), 1e-8);
    h_finish(&h);
  }
}

/* ---- the operator against the reference ---- */

/* Whether this form multiplies on tensor cores: bfloat16 factors, whole tiles. */
static bool tensor_cores(const harness *h) { return strcmp(h->ops->name, "cuda") == 0 && h->act == NP_BF16; }

/* The prefixes where the operator reads them. */
static const int32_t *prefix_of(harness *h, const shape *s) {
  if (!s->prefixed) return NULL;
  return memcpy(h_take(h, (size_t)s->batch * sizeof(int32_t)), s->prefix, (size_t)s->batch * sizeof(int32_t));
}

static void run_backward(harness *h, const shape *s, const void *qkv, const void *out, const float *lse,
                         const void *dout, void *dqkv) {
  H_OK(h->ops->attention_backward(h->ops, s->batch, s->tokens, s->heads, s->width, prefix_of(h, s), qkv, out, lse, dout,
                                  dqkv));
}

static void run_forward(harness *h, const shape *s, const void *qkv, void *out, float *lse) {
  H_OK(h->ops->attention_forward(h->ops, s->batch, s->tokens, s->heads, s->width, prefix_of(h, s), qkv, out, lse));
}

static void one_shape(harness *h, const shape *s) {
  int64_t outs = (int64_t)s->batch * s->tokens * s->heads * s->width, rows = (int64_t)s->batch * s->tokens * s->heads;
  double *qkv64, *dout64, *out64 = h_take_f64(h, outs), *lse64 = h_take_f64(h, rows), *dqkv64 = h_take_f64(h, 3 * outs);
  void *qkv = h_normal_act(h, 3 * outs, 1.5, &qkv64), *dout = h_normal_act(h, outs, 1.0, &dout64);
  void *out = h_take_act(h, outs), *out2 = h_take_act(h, outs);
  void *dqkv = h_take_act(h, 3 * outs), *dqkv2 = h_take_act(h, 3 * outs);
  float *lse = h_take_f32(h, rows);
  double *spread = tensor_cores(h) ? h_take_f64(h, 3 * outs) : NULL;
  h_case(h, "B%d N%d h%d d%d S%d", s->batch, s->tokens, s->heads, s->width, s->prefixed ? s->prefix[0] : -1);

  forward(s, qkv64, out64, lse64, spread);
  run_forward(h, s, qkv, out, lse);
  h_close_products(h, "out", outs, out, out64, 3e-6, spread);
  h_close_f32(h, "lse", rows, lse, lse64, 1e-6);
  run_forward(h, s, qkv, out2, NULL);
  assert_memory_equal(out, out2, (size_t)outs * h_size(h));

  for (int64_t i = 0; i < outs; i++) out64[i] = h_get(h, out, i);
  backward(s, qkv64, out64, dout64, dqkv64, spread);
  run_backward(h, s, qkv, out, lse, dout, dqkv);
  h_close_products(h, "dqkv", 3 * outs, dqkv, dqkv64, 5e-6, spread);
  run_backward(h, s, qkv, out, lse, dout, dqkv2);
  assert_memory_equal(dqkv, dqkv2, (size_t)(3 * outs) * h_size(h));
  h_finish(h);
}

static void shapes(harness *h) {
  static const shape cases[] = {
      {5, 7, 2, 8, {0, 1, 3, 6, 7}, true},
      {1, 1, 1, 8, {0}, true},
      {2, 1, 3, 64, {1, 0}, true},
      {5, 64, 1, 64, {0, 1, 63, 64, 20}, true},
      {5, 65, 2, 32, {0, 1, 64, 65, 33}, true},
      {2, 196, 1, 96, {0, 77}, true},
      {2, 256, 1, 128, {255, 100}, true},
      {4, 300, 1, 64, {0, 299, 300, 150}, true},
      {2, 130, 2, 40, {0}, false},
      {3, 70, 1, 256, {0, 5, 69}, true},
      {2, 65, 1, 72, {8, 64}, true},
  };
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
    if (!tensor_cores(h) || cases[c].width <= 128) one_shape(h, &cases[c]);
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
