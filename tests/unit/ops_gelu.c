/* GELU against libm's erfc in float64, its slope against finite differences. */
#include "ops_harness.h"

static double gelu(const double *x, void *context) {
  (void)context;
  return 0.5 * x[0] * erfc(-x[0] / sqrt(2.0));
}

/* Values from -15 to 15, many near 0, and 0 itself. */
static double argument(harness *h, int64_t i, int64_t n) {
  if (i == 0) return 0.0;
  return i % 2 ? 30.0 * (double)i / (double)n - 15.0 : h_normal(h);
}

/* Which tensors begin one value behind an aligned address. */
enum { OFF_X = 1, OFF_Y = 2, OFF_DY = 4, OFF_DX = 8, OFF_ALL = 15 };

static void *take_at(harness *h, int64_t n, bool off) { return (char *)h_take_act(h, n + off) + (off ? h_size(h) : 0); }

static void compare(harness *h, int64_t n, int off) {
  double *y64 = h_take_f64(h, n), *dx64 = h_take_f64(h, n);
  void *x = take_at(h, n, off & OFF_X), *y = take_at(h, n, off & OFF_Y), *twice = take_at(h, n, off & OFF_Y);
  void *dy = take_at(h, n, off & OFF_DY), *dx = take_at(h, n, off & OFF_DX);
  h_case(h, "count %lld, off %d", (long long)n, off);
  for (int64_t i = 0; i < n; i++) {
    h_set(h, dy, i, h_normal(h));
    h_set(h, x, i, argument(h, i, n));
    double value = h_get(h, x, i);
    y64[i] = gelu(&value, NULL);
    dx64[i] = h_get(h, dy, i) * h_slope(gelu, &value, 0, NULL);
  }
  H_OK(h->ops->gelu_forward(h->ops, n, x, y));
  H_OK(h->ops->gelu_forward(h->ops, n, x, twice));
  assert_memory_equal(y, twice, (size_t)n * h_size(h));
  H_OK(h->ops->gelu_backward(h->ops, n, x, dy, dx));
  h_close_act(h, "y", n, y, y64, 2e-7);
  h_close_act(h, "dx", n, dx, dx64, 4e-7);
  /* The tail keeps its relative accuracy down to where float32 ends. */
  for (int64_t i = 0; i < n && h->act == NP_F32; i++)
    if (fabs(y64[i]) > 1e-36) h_near(h, "y in the tail", h_get(h, y, i), y64[i], 8e-6 * fabs(y64[i]));

  /* In place, where loads are as wide as before: others may be other code and other bits. */
  if (off == 0 || off == OFF_ALL) {
    memcpy(twice, x, (size_t)n * h_size(h));
    H_OK(h->ops->gelu_forward(h->ops, n, twice, twice));
    assert_memory_equal(y, twice, (size_t)n * h_size(h));
    H_OK(h->ops->gelu_backward(h->ops, n, x, dy, dy));
    assert_memory_equal(dx, dy, (size_t)n * h_size(h));
  }
  h_finish(h);
}

static void values(harness *h) {
  static const int64_t counts[] = {1, 7, 64, 65, 1000, 40003};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) compare(h, counts[c], 0);
}

/* One tensor off is enough to rule wide loads and stores out for all. */
static void unaligned(harness *h) {
  static const int offs[] = {OFF_X, OFF_Y, OFF_DY, OFF_DX, OFF_ALL};
  for (size_t i = 0; i < sizeof offs / sizeof *offs; i++) compare(h, 1501, offs[i]);
}

static void surfacing(harness *h) {
  void *x = h_take_act(h, 3), *y = h_take_act(h, 3);
  for (int i = 0; i < 3; i++) h_set(h, x, i, i == 1 ? NAN : 1.0);
  H_OK(h->ops->gelu_forward(h->ops, 3, x, y));
  assert_true(!isnan(h_get(h, y, 0)) && isnan(h_get(h, y, 1)) && !isnan(h_get(h, y, 2)));
}

H_TEST(test_values, values)

H_TEST(test_unaligned, unaligned)

H_TEST(test_nan_surfaces, surfacing)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_unaligned),
                                     cmocka_unit_test(test_nan_surfaces)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
