/* The gradient norm and AdamW against float64, AdamW besides against numbers of torch.optim.AdamW. */
#include "ops_harness.h"

static void sums(harness *h) {
  static const int64_t counts[] = {0, 1, 7, 65, 1000, 200003};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    int64_t n = counts[c];
    double *g64, sum = 0.0, got = 5.0, again = 6.0;
    float *g = h_normal_f32(h, n, 1e-3, &g64);
    h_case(h, "count %lld", (long long)n);
    for (int64_t i = 0; i < n; i++) sum += g64[i] * g64[i];
    H_OK(h->ops->sum_squares(h->ops, n, g, &got));
    H_OK(h->ops->sum_squares(h->ops, n, g, &again));
    assert_true(got == again);
    h_near(h, "sum", got, sum, 1e-13 * sum);
    if (n > 0) {
      g[n / 2] = NAN;
      H_OK(h->ops->sum_squares(h->ops, n, g, &got));
      assert_true(isnan(got));
      g[n / 2] = -INFINITY;
      H_OK(h->ops->sum_squares(h->ops, n, g, &got));
      assert_true(isinf(got));
      g[n / 2] = 3e30f; /* its square is beyond float32 */
      H_OK(h->ops->sum_squares(h->ops, n, g, &got));
      h_near(h, "large sum", got, (double)3e30f * (double)3e30f, 1e50);
    }
    h_finish(h);
  }
}

static void step64(const np_adamw *how, double g, double *w, double *m, double *v) {
  g *= (double)how->grad_scale;
  *w *= 1.0 - (double)how->lr * (double)how->weight_decay;
  *m += (1.0 - (double)how->beta1) * (g - *m);
  *v = (double)how->beta2 * *v + (1.0 - (double)how->beta2) * g * g;
  *w -= (double)how->lr / (double)how->bias_correction1 * *m /
        (sqrt(*v) / sqrt((double)how->bias_correction2) + (double)how->eps);
}

static void steps(harness *h) {
  static const int64_t counts[] = {1, 7, 65, 40001};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    int64_t n = counts[c];
    double *g64, *w64, *m64, *v64;
    float *g = h_normal_f32(h, n, 1.0, &g64), *w = h_normal_f32(h, n, 1.0, &w64), *m = h_normal_f32(h, n, 0.0, &m64);
    float *v = h_normal_f32(h, n, 0.0, &v64);
    void *low = h_take_act(h, n);
    for (int step = 1; step <= 3; step++) {
      const np_adamw how = {.lr = 1e-2f,
                            .beta1 = 0.9f,
                            .beta2 = 0.95f,
                            .eps = 1e-8f,
                            .weight_decay = 0.05f,
                            .bias_correction1 = (float)(1.0 - pow(0.9, step)),
                            .bias_correction2 = (float)(1.0 - pow(0.95, step)),
                            .grad_scale = 0.5f};
      h_case(h, "count %lld step %d", (long long)n, step);
      for (int64_t i = 0; i < n; i++) step64(&how, g64[i], &w64[i], &m64[i], &v64[i]);
      H_OK(h->ops->adamw(h->ops, &how, n, g, w, m, v, step == 2 ? NULL : low));
      h_close_f32(h, "w", n, w, w64, 4e-7);
      h_close_f32(h, "m", n, m, m64, 4e-7);
      h_close_f32(h, "v", n, v, v64, 4e-7);
      for (int64_t i = 0; i < n && step != 2; i++) assert_true(h_get(h, low, i) == h_round(h, (double)w[i]));
    }
    h_finish(h);
  }
}

/* torch 2: w = [0.5, -1.25, 2], AdamW(lr 0.1, betas (0.9, 0.95), eps 1e-8, weight_decay 0.05), three steps with
 * gradients [0.1, -0.2, 0.3]·step. */
static void torch_numbers(harness *h) {
  static const double expected[3] = {0.203764379, -0.942570567, 1.6813767};
  float *w = h_take_f32(h, 3), *m = h_take_f32(h, 3), *v = h_take_f32(h, 3), *g = h_take_f32(h, 3);
  for (int i = 0; i < 3; i++) {
    w[i] = (float[]){0.5f, -1.25f, 2.0f}[i];
    m[i] = v[i] = 0.0f;
  }
  for (int step = 1; step <= 3; step++) {
    const np_adamw how = {.lr = 0.1f,
                          .beta1 = 0.9f,
                          .beta2 = 0.95f,
                          .eps = 1e-8f,
                          .weight_decay = 0.05f,
                          .bias_correction1 = (float)(1.0 - pow(0.9, step)),
                          .bias_correction2 = (float)(1.0 - pow(0.95, step)),
                          .grad_scale = 1.0f};
    for (int i = 0; i < 3; i++) g[i] = (float)step * (float[]){0.1f, -0.2f, 0.3f}[i];
    H_OK(h->ops->adamw(h->ops, &how, 3, g, w, m, v, NULL));
  }
  for (int i = 0; i < 3; i++) h_near(h, "w", (double)w[i], expected[i], 3e-7);
}

H_TEST(test_sum_squares, sums)
H_TEST(test_adamw, steps)
H_TEST(test_torch, torch_numbers)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sum_squares), cmocka_unit_test(test_adamw),
                                     cmocka_unit_test(test_torch)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
