/* The pixel loss against a float64 reference written from the images, its gradient against finite differences. */
#include "ops_harness.h"

typedef struct image_case {
  int batch, height, width, channels, patch;
  bool normalize, bytes;
} image_case;

/* Value (y, x, c) of the image as the contract normalises it: a float32, for a patch of nearly one colour is
 * standardised by a tiny deviation and would show any other rounding. */
static double pixel(const np_pixels *p, int64_t b, int y, int x, int c) {
  if (!p->u8) return (double)p->f32[((b * p->channels + c) * p->height + y) * p->width + x];
  double level = p->u8[((b * p->height + y) * p->width + x) * p->channels + c] / 255.0;
  return (double)(float)((level - (double)p->mean[c]) / (double)p->std[c]);
}

/* The target of row r in (row, column, channel) order. */
static void target(const np_pixels *p, int index, bool normalize, double *t) {
  int across = p->width / p->patch, tokens = across * (p->height / p->patch), next = index % tokens + 1;
  int n = p->patch * p->patch * p->channels, at = 0;
  for (int y = 0; y < p->patch; y++)
    for (int x = 0; x < p->patch; x++)
      for (int c = 0; c < p->channels; c++)
        t[at++] = pixel(p, index / tokens, next / across * p->patch + y, next % across * p->patch + x, c);
  if (!normalize) return;
  double mean = 0.0, var = 0.0;
  for (int j = 0; j < n; j++) mean += t[j] / n;
  for (int j = 0; j < n; j++) var += (t[j] - mean) * (t[j] - mean) / (n - 1);
  for (int j = 0; j < n; j++) t[j] = (t[j] - mean) / sqrt(var + 1e-6);
}

typedef struct row {
  int n;
  const double *t;
} row;

static double row_loss(const double *pred, void *context) {
  const row *r = context;
  double sum = 0.0;
  for (int j = 0; j < r->n; j++) sum += (pred[j] - r->t[j]) * (pred[j] - r->t[j]);
  return sum / r->n;
}

static np_pixels make_pixels(harness *h, const image_case *c) {
  np_pixels p = {.batch = c->batch, .height = c->height, .width = c->width, .channels = c->channels, .patch = c->patch};
  int64_t all = (int64_t)c->batch * c->height * c->width * c->channels;
  for (int k = 0; k < 3; k++) {
    p.mean[k] = 0.45f + 0.01f * (float)k;
    p.std[k] = 0.22f + 0.01f * (float)k;
  }
  if (c->bytes) {
    uint8_t *u8 = h_take(h, (size_t)all);
    for (int64_t i = 0; i < all; i++) u8[i] = (uint8_t)(256.0 * h_uniform(h));
    memset(u8, 77, (size_t)all / 4); /* flat patches: variance 0 */
    p.u8 = u8;
  } else {
    double *unused;
    float *f32 = h_normal_f32(h, all, 1.0, &unused);
    for (int64_t i = 0; i < all / 4; i++) f32[i] = -2.1f;
    p.f32 = f32;
  }
  return p;
}

static void one_case(harness *h, const image_case *c) {
  const np_pixels p = make_pixels(h, c);
  int tokens = c->height / c->patch * (c->width / c->patch), n = c->patch * c->patch * c->channels;
  int32_t *index = h_take(h, sizeof *index * (size_t)(c->batch * tokens));
  int64_t rows = 0;
  for (int i = 0; i < c->batch * tokens; i++) /* no target behind the last token; image 0 with all, others with some */
    if (i % tokens != tokens - 1 && (i < tokens || i % 3)) index[rows++] = i;
  const int64_t targets = rows; /* behind them padding */
  while (rows < c->batch * tokens) index[rows++] = -1;
  double *pred64, *t = h_take_f64(h, n), *want = h_take_f64(h, rows * n), sum = 0.0;
  double *loss = h_take_f64(h, 1), first;
  float *scale = h_take_f32(h, 1);
  *scale = 0.37f;
  void *pred = h_normal_act(h, rows * n, 1.0, &pred64), *dpred = h_take_act(h, rows * n);
  memset(want, 0, (size_t)(rows * n) * sizeof *want);
  for (int64_t r = 0; r < targets; r++) {
    target(&p, index[r], c->normalize, t);
    row context = {n, t};
    sum += row_loss(pred64 + r * n, &context);
    for (int j = 0; j < n; j++) want[r * n + j] = (double)*scale * h_slope(row_loss, pred64 + r * n, j, &context);
  }
  H_OK(h->ops->pixel_loss(h->ops, &p, rows, index, c->normalize, scale, pred, dpred, loss, false));
  h_near(h, "loss", *loss, sum, 1e-6 * sum);
  h_close_act(h, "dpred", rows * n, dpred, want, 1e-6);
  for (int64_t i = targets * n; i < rows * n; i++) assert_true(h_get(h, dpred, i) == 0.0);
  first = *loss;
  H_OK(h->ops->pixel_loss(h->ops, &p, rows, index, c->normalize, NULL, pred, NULL, loss, true));
  h_near(h, "accumulated loss", *loss, 2.0 * sum, 2e-6 * sum);
  H_OK(h->ops->pixel_loss(h->ops, &p, rows, index, c->normalize, scale, pred, pred, loss, false)); /* in place */
  assert_true(*loss == first);
  assert_memory_equal(pred, dpred, (size_t)(rows * n) * h_size(h));
  char *odd = (char *)h_take_act(h, rows * n + 1) + h_size(h); /* not aligned for more than a value */
  for (int64_t i = 0; i < rows * n; i++) h_set(h, odd, i, pred64[i]);
  H_OK(h->ops->pixel_loss(h->ops, &p, rows, index, c->normalize, scale, odd, odd, loss, false));
  h_near(h, "loss of unaligned rows", *loss, sum, 1e-6 * sum);
  h_close_act(h, "dpred of unaligned rows", rows * n, odd, want, 1e-6);
  h_finish(h);
}

static void cases(harness *h) {
  static const image_case all[] = {
      {2, 8, 12, 3, 4, true, true},     {2, 8, 12, 3, 4, false, true},    {1, 28, 14, 1, 14, true, true},
      {3, 6, 6, 3, 2, true, false},     {2, 28, 70, 3, 14, true, true},   {1, 28, 14, 1, 14, false, false},
      {4, 32, 32, 3, 4, true, true},    {1, 30, 45, 3, 15, true, true},   {1, 28, 42, 2, 14, true, true},
      {1, 32, 48, 3, 16, true, true},   {1, 32, 64, 3, 32, true, true},   {1, 16, 32, 1, 16, false, true},
      {1, 224, 384, 3, 14, true, true}, {1, 128, 128, 3, 2, false, true}, /* many rows to a warp */
      {1, 28, 112, 1, 14, true, true},  {1, 20, 160, 3, 10, true, true},  {1, 28, 112, 3, 14, false, true},
      {4, 28, 28, 1, 14, true, false},  {4, 28, 28, 1, 14, true, true}, /* image 0 is of one colour: a rounded mean over
                                                                           sqrt(1e-6) would show */
  };
  for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
    h_case(h, "case %zu", k);
    one_case(h, &all[k]);
  }
}

static void nothing(harness *h) {
  const image_case c = {1, 4, 4, 3, 2, true, true};
  const np_pixels p = make_pixels(h, &c);
  double *loss = h_take_f64(h, 1);
  *loss = 3.0;
  H_OK(h->ops->pixel_loss(h->ops, &p, 0, NULL, true, NULL, NULL, NULL, loss, false));
  assert_true(*loss == 0.0);
}

/* A prediction whose square is beyond float32: a finite gradient has a finite loss. A prediction that is not finite
 * shows in both. */
static void far_off(harness *h) {
  static const float values[] = {1e25f, NAN, INFINITY};
  enum { VALUES = 2 * 2 * 3 };
  for (int both = 0; both < 6; both++) {
    const int k = both / 2;
    const image_case c = {1, 4, 16, 3, 2, true, both % 2 == 1}; /* rows of bytes that a GPU can copy in parts of 16 */
    const np_pixels p = make_pixels(h, &c);
    double *pred64, *loss = h_take_f64(h, 1);
    void *pred = h_normal_act(h, VALUES, 1.0, &pred64), *dpred = h_take_act(h, VALUES);
    int32_t *index = h_take(h, sizeof *index);
    float *scale = h_take_f32(h, 1);
    *index = 1, *scale = 0.01f;
    h_set(h, pred, 5, (double)values[k]);
    h_case(h, "a prediction of %g", (double)values[k]);
    H_OK(h->ops->pixel_loss(h->ops, &p, 1, index, true, scale, pred, dpred, loss, false));
    assert_int_equal(isfinite(*loss), k == 0);
    assert_int_equal(isfinite(h_get(h, dpred, 5)), k == 0);
    if (k == 0) h_near(h, "loss", *loss, pow(h_get(h, pred, 5), 2) / VALUES, 1e-6 * *loss);
  }
}

/* Patches of one colour but for one pixel, or for little: their small deviation multiplies every error of the mean. The
 * reference is exact; a target from float32 levels may be off by 4e-6 of its largest. */
static void nearly_flat(harness *h) {
  static const image_case all[] = {{1, 14, 28, 1, 14, true, true}, {1, 14, 28, 3, 14, true, true},
                                   {1, 15, 30, 1, 15, true, true}, {1, 16, 32, 1, 16, true, true},
                                   {1, 16, 32, 3, 16, true, true}, {1, 8, 16, 3, 8, true, true}};
  for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
    const image_case *c = &all[k];
    np_pixels p = make_pixels(h, c);
    const int n = c->patch * c->patch * c->channels, count = c->height * c->width * c->channels;
    double *pred64, *want = h_take_f64(h, n), *loss = h_take_f64(h, 1), mean = 0.0, var = 0.0;
    void *pred = h_normal_act(h, n, 1.0, &pred64), *dpred = h_take_act(h, n);
    int32_t *index = h_take(h, sizeof *index);
    float *scale = h_take_f32(h, 1);
    uint8_t *u8 = h_take(h, (size_t)count);
    memset(u8, 200, (size_t)count);
    u8[count - 4] = 201;
    for (int i = 0; i < 3; i++) p.mean[i] = 0.45f, p.std[i] = 0.22f;
    p.u8 = u8, *index = 0, *scale = 0.37f;
    h_case(h, "nearly flat %zu", k);
    for (int j = 0; j < n; j++) { /* right half of the image: rows of the patch */
      const int run = c->patch * c->channels;
      want[j] = (u8[(j / run * 2 + 1) * run + j % run] / 255.0 - (double)p.mean[0]) / (double)p.std[0];
      mean += want[j] / n;
    }
    for (int j = 0; j < n; j++) var += (want[j] - mean) * (want[j] - mean) / (n - 1);
    for (int j = 0; j < n; j++) want[j] = (double)*scale * 2.0 * (pred64[j] - (want[j] - mean) / sqrt(var + 1e-6)) / n;
    H_OK(h->ops->pixel_loss(h->ops, &p, 1, index, true, scale, pred, dpred, loss, false));
    h_close_act(h, "dpred", n, dpred, want, 6e-6);
    h_finish(h);
  }
}

H_TEST(test_cases, cases)
H_TEST(test_no_rows, nothing)
H_TEST(test_far_off, far_off)
H_TEST(test_nearly_flat, nearly_flat)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases), cmocka_unit_test(test_no_rows),
                                     cmocka_unit_test(test_far_off), cmocka_unit_test(test_nearly_flat)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
