/* Operators of the probe but for its pooling (ops_pool.c) against float64, gradients against finite differences. */
#include "ops_harness.h"

/* ---- batch normalisation ---- */

static void batch_norm_case(harness *h, int rows, int width, bool train) {
  const double eps = 1e-6, momentum = 0.1;
  int64_t all = (int64_t)rows * width;
  double *x64, *mean64, *var64, *want = h_take_f64(h, all);
  float *x = h_normal_f32(h, all, 2.0, &x64), *y = h_take_f32(h, all), *mean = h_normal_f32(h, width, 1.0, &mean64);
  float *var = h_normal_f32(h, width, 1.0, &var64), *mean2 = h_take_f32(h, width), *var2 = h_take_f32(h, width);
  double *sums = h_take_f64(h, 2 * width), *rest = h_take_f64(h, 2 * width);
  h_case(h, "%d rows of %d, train %d", rows, width, train);
  for (int64_t i = 0; i < all; i++) x64[i] = (double)(x[i] += 40.0f);
  for (int j = 0; j < width; j++) {
    var64[j] = (double)(var[j] = 0.5f + fabsf(var[j]));
    double m = mean64[j], v = var64[j];
    if (train) {
      m = v = 0.0;
      for (int r = 0; r < rows; r++) m += x64[(int64_t)r * width + j] / rows;
      for (int r = 0; r < rows; r++) v += pow(x64[(int64_t)r * width + j] - m, 2) / rows;
      mean64[j] = (1 - momentum) * mean64[j] + momentum * m;
      var64[j] = (1 - momentum) * var64[j] + momentum * v * rows / (rows > 1 ? rows - 1 : 1);
    }
    for (int r = 0; r < rows; r++) want[(int64_t)r * width + j] = (x64[(int64_t)r * width + j] - m) / sqrt(v + eps);
  }
  memcpy(mean2, mean, (size_t)width * sizeof *mean);
  memcpy(var2, var, (size_t)width * sizeof *var);
  if (train) H_OK(h->ops->batch_moments(h->ops, rows, width, x, mean, sums));
  H_OK(
      h->ops->batch_norm(h->ops, rows, width, (float)eps, (float)momentum, train ? sums : NULL, rows, x, mean, var, y));
  h_close_f32(h, "y", all, y, want,
              rows == 1 && train ? 1.0 : 1e-5); /* of one row, rounding over sqrt(eps) is all there is */
  h_close_f32(h, "running mean", width, mean, mean64, 3e-7);
  h_close_f32(h, "running variance", width, var, var64, 1e-6);
  if (train && rows > 1) { /* on two ranks: this one has the first rows alone */
    const int mine = rows / 3 + 1;
    H_OK(h->ops->batch_moments(h->ops, mine, width, x, mean2, sums));
    H_OK(h->ops->batch_moments(h->ops, rows - mine, width, x + (int64_t)mine * width, mean2, rest));
    for (int i = 0; i < 2 * width; i++) sums[i] += rest[i];
    H_OK(h->ops->batch_norm(h->ops, mine, width, (float)eps, (float)momentum, sums, rows, x, mean2, var2, y));
    h_close_f32(h, "y of a part", (int64_t)mine * width, y, want, 1e-5);
    h_close_f32(h, "running mean of a part", width, mean2, mean64, 3e-7);
    h_close_f32(h, "running variance of a part", width, var2, var64, 1e-6);
  }
  H_OK(h->ops->batch_norm(h->ops, rows, width, (float)eps, (float)momentum, NULL, 0, x, mean, var, y));
  H_OK(h->ops->batch_norm(h->ops, rows, width, (float)eps, (float)momentum, NULL, 0, x, mean, var, x)); /* in place */
  assert_memory_equal(x, y, (size_t)all * sizeof *x);
  h_finish(h);
}

static void batch_norms(harness *h) {
  static const int shapes[][2] = {{1, 8}, {7, 65}, {64, 130}, {3000, 24}, {10, 1100}};
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
    for (int train = 0; train < 2; train++) batch_norm_case(h, shapes[k][0], shapes[k][1], train);
}

/* ---- cross-entropy ---- */

typedef struct label_of {
  int classes, label;
} label_of;

static double cross_entropy(const double *logits, void *context) {
  const label_of *l = context;
  double top = -INFINITY, sum = 0.0;
  for (int j = 0; j < l->classes; j++) top = fmax(top, logits[j]);
  for (int j = 0; j < l->classes; j++) sum += exp(logits[j] - top);
  return log(sum) + top - logits[l->label];
}

static void cross_entropy_case(harness *h, int batch, int classes) {
  int64_t all = (int64_t)batch * classes;
  const double scale = 0.25;
  double *logits64, *want = h_take_f64(h, all), sum = 0.0;
  double *loss = h_take_f64(h, 1), *again = h_take_f64(h, 1);
  float *logits = h_normal_f32(h, all, 6.0, &logits64), *dlogits = h_take_f32(h, all);
  int32_t *labels = h_take(h, (size_t)batch * sizeof *labels);
  h_case(h, "B%d, %d classes", batch, classes);
  for (int b = 0; b < batch; b++) {
    label_of context = {classes, labels[b] = (int32_t)(h_uniform(h) * classes)};
    sum += cross_entropy(logits64 + (int64_t)b * classes, &context);
    for (int j = 0; j < classes; j++)
      want[(int64_t)b * classes + j] = scale * h_slope(cross_entropy, logits64 + (int64_t)b * classes, j, &context);
  }
  H_OK(h->ops->cross_entropy(h->ops, batch, classes, (float)scale, logits, labels, NULL, again));
  H_OK(h->ops->cross_entropy(h->ops, batch, classes, (float)scale, logits, labels, dlogits, loss));
  assert_true(*loss == *again);
  h_near(h, "loss", *loss, sum, 1e-6 * (1.0 + sum));
  h_close_f32(h, "dlogits", all, dlogits, want, 1e-6);
  H_OK(h->ops->cross_entropy(h->ops, batch, classes, (float)scale, logits, labels, logits, loss)); /* in place */
  assert_memory_equal(logits, dlogits, (size_t)all * sizeof *logits);
  h_finish(h);
}

static void cross_entropies(harness *h) {
  cross_entropy_case(h, 1, 1);
  cross_entropy_case(h, 7, 10);
  cross_entropy_case(h, 40, 130);
  cross_entropy_case(h, 1, 1000);
  cross_entropy_case(h, 300, 5);
}

H_TEST(test_batch_norm, batch_norms)
H_TEST(test_cross_entropy, cross_entropies)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_batch_norm), cmocka_unit_test(test_cross_entropy)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
