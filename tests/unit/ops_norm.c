/* LayerNorm with its residual addition against float64, its gradient against finite differences. */
#include "ops_harness.h"

static const double EPS = 1e-5;

/* One row: s (already rounded as it is stored) → y; mean and rstd besides. */
static void norm_row(const double *s, int width, const double *gain, const double *bias, double *y, double *mean,
                     double *rstd) {
  double sum = 0.0, squares = 0.0;
  for (int j = 0; j < width; j++) sum += s[j];
  *mean = sum / width;
  for (int j = 0; j < width; j++) squares += (s[j] - *mean) * (s[j] - *mean);
  *rstd = 1.0 / sqrt(squares / width + EPS);
  for (int j = 0; j < width; j++) y[j] = (s[j] - *mean) * *rstd * gain[j] + bias[j];
}

typedef struct row_loss {
  int width;
  const double *gain, *bias, *dy;
  double *y;
} row_loss;

static double loss(const double *s, void *context) {
  const row_loss *l = context;
  double mean, rstd, sum = 0.0;
  norm_row(s, l->width, l->gain, l->bias, l->y, &mean, &rstd);
  for (int j = 0; j < l->width; j++) sum += l->y[j] * l->dy[j];
  return sum;
}

typedef struct case_data {
  int rows, width;
  int64_t all;
  double *gain64, *bias64, *s64, *y64, *mean64, *rstd64;
  float *gain, *bias, *mean, *rstd;
  void *s, *y;
} case_data;

static void forward(harness *h, case_data *c, bool with_delta) {
  double *x64, *delta64;
  void *x = h_normal_act(h, c->all, 2.0, &x64), *delta = h_normal_act(h, c->all, 0.5, &delta64);
  void *twice = h_take_act(h, c->all);
  c->gain = h_normal_f32(h, c->width, 1.0, &c->gain64);
  c->bias = h_normal_f32(h, c->width, 1.0, &c->bias64);
  c->s64 = h_take_f64(h, c->all);
  c->y64 = h_take_f64(h, c->all);
  c->mean64 = h_take_f64(h, c->rows);
  c->rstd64 = h_take_f64(h, c->rows);
  c->mean = h_take_f32(h, c->rows);
  c->rstd = h_take_f32(h, c->rows);
  c->s = h_take_act(h, c->all);
  c->y = h_take_act(h, c->all);
  for (int64_t i = 0; i < c->all; i++) { /* an offset, so that a one-pass variance would cancel */
    h_set(h, x, i, x64[i] + 30.0);
    x64[i] = h_get(h, x, i);
    c->s64[i] = with_delta ? h_round(h, x64[i] + delta64[i]) : x64[i];
  }
  for (int r = 0; r < c->rows; r++)
    norm_row(c->s64 + (int64_t)r * c->width, c->width, c->gain64, c->bias64, c->y64 + (int64_t)r * c->width,
             c->mean64 + r, c->rstd64 + r);

  const void *d = with_delta ? delta : NULL;
  H_OK(h->ops->norm_forward(h->ops, c->rows, c->width, (float)EPS, x, d, c->gain, c->bias, c->s, c->y, c->mean,
                            c->rstd));
  for (int64_t i = 0; i < c->all; i++)
    if (!(h_get(h, c->s, i) == c->s64[i])) fail_msg("%s: sum[%lld] differs", h->name, (long long)i);
  h_close_act(h, "y", c->all, c->y, c->y64, 1e-5);
  h_close_f32(h, "mean", c->rows, c->mean, c->mean64, 6.5e-8); /* rounded once: 2^-24 is 6e-8 */
  h_close_f32(h, "rstd", c->rows, c->rstd, c->rstd64, 1e-5);
  H_OK(h->ops->norm_forward(h->ops, c->rows, c->width, (float)EPS, x, d, c->gain, c->bias, NULL, twice, NULL, NULL));
  assert_memory_equal(c->y, twice, (size_t)c->all * h_size(h));
  H_OK(h->ops->norm_forward(h->ops, c->rows, c->width, (float)EPS, x, d, c->gain, c->bias, x, twice, NULL, NULL));
  assert_memory_equal(c->s, x, (size_t)c->all * h_size(h)); /* sum in place of x */
  float *mean = h_take_f32(h, c->rows), *rstd = h_take_f32(h, c->rows);
  void *again = h_take_act(h, c->all); /* from the stored sum: the same bits */
  H_OK(h->ops->norm_forward(h->ops, c->rows, c->width, (float)EPS, c->s, NULL, c->gain, c->bias, NULL, again, mean,
                            rstd));
  assert_memory_equal(c->y, again, (size_t)c->all * h_size(h));
  assert_memory_equal(c->mean, mean, (size_t)c->rows * sizeof *mean);
  assert_memory_equal(c->rstd, rstd, (size_t)c->rows * sizeof *rstd);
}

/* The gradient by s as the mathematics has it: for rows too wide for finite differences, which show that it is right.
 */
static void slopes(const double *s, const double *dy, const double *gain, double mean, double rstd, int width,
                   double *ds) {
  double sum_a = 0.0, sum_an = 0.0;
  for (int j = 0; j < width; j++) {
    sum_a += dy[j] * gain[j];
    sum_an += dy[j] * gain[j] * (s[j] - mean) * rstd;
  }
  for (int j = 0; j < width; j++)
    ds[j] = rstd * (dy[j] * gain[j] - sum_a / width - (s[j] - mean) * rstd * sum_an / width);
}

enum { DIFFERENCES = 200 }; /* the widest row whose slopes are taken by differences */

static void backward(harness *h, const case_data *c, bool with_residual) {
  double *dy64, *residual64, *want = h_take_f64(h, c->all), *dgain64 = h_take_f64(h, c->width);
  double *dbias64 = h_take_f64(h, c->width), *y = h_take_f64(h, c->width);
  void *dy = h_normal_act(h, c->all, 1.0, &dy64), *residual = h_normal_act(h, c->all, 1.0, &residual64);
  void *dx = h_take_act(h, c->all);
  float *dgain = h_take_f32(h, 2 * c->width), *dbias = dgain + c->width, *twice = h_take_f32(h, 2 * c->width);
  memset(dgain64, 0, (size_t)c->width * sizeof *dgain64);
  memset(dbias64, 0, (size_t)c->width * sizeof *dbias64);
  for (int r = 0; r < c->rows; r++) {
    int64_t at = (int64_t)r * c->width;
    row_loss context = {c->width, c->gain64, c->bias64, dy64 + at, y};
    slopes(c->s64 + at, dy64 + at, c->gain64, c->mean64[r], c->rstd64[r], c->width, want + at);
    for (int j = 0; j < c->width; j++) {
      if (c->width <= DIFFERENCES) want[at + j] = h_slope(loss, c->s64 + at, j, &context);
      if (with_residual) want[at + j] += residual64[at + j];
      dgain64[j] += dy64[at + j] * (c->s64[at + j] - c->mean64[r]) * c->rstd64[r];
      dbias64[j] += dy64[at + j];
    }
  }
  const void *res = with_residual ? residual : NULL;
  H_OK(h->ops->norm_backward(h->ops, c->rows, c->width, dy, c->s, c->mean, c->rstd, c->gain, res, dx, dgain, dbias,
                             false));
  h_close_act(h, "dx", c->all, dx, want, 1e-5);
  h_close_f32(h, "dgain", c->width, dgain, dgain64, 2e-5);
  h_close_f32(h, "dbias", c->width, dbias, dbias64, 2e-6);
  memcpy(twice, dgain, 2 * (size_t)c->width * sizeof *dgain);
  /* Added to what is there, and dx in place of the residual or of dy: the same bits. */
  void *in_place = with_residual ? residual : dy;
  H_OK(h->ops->norm_backward(h->ops, c->rows, c->width, dy, c->s, c->mean, c->rstd, c->gain, res, in_place, twice,
                             twice + c->width, true));
  assert_memory_equal(dx, in_place, (size_t)c->all * h_size(h));
  for (int j = 0; j < 2 * c->width; j++) assert_true(twice[j] == 2.0f * dgain[j]);
}

static void shapes(harness *h) {
  static const int cases[][2] = {{1, 8},    {7, 64},   {65, 40},  {130, 7},  {3, 192},  {2, 1536},
                                 {300, 96}, {3, 480},  {9, 1000}, {3, 2048}, {3, 2056}, {5, 4096},
                                 {2, 4104}, {2, 8200}, {3, 1537}, {5000, 8}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
    for (int with = 0; with < 2; with++) {
      case_data c = {.rows = cases[k][0], .width = cases[k][1], .all = (int64_t)cases[k][0] * cases[k][1]};
      h_case(h, "%d rows of %d, %s", c.rows, c.width, with ? "delta and residual" : "plain");
      forward(h, &c, with);
      backward(h, &c, with);
      h_finish(h);
    }
}

H_TEST(test_shapes, shapes)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
