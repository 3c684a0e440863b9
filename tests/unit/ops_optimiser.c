/* The gradient norm and AdamW against float64, AdamW besides against numbers of torch.optim.AdamW. */
#include "ops_harness.h"

static void sums(harness *h) {
  static const int64_t counts[] = {0, 1, 7, 65, 1000, 200003};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    int64_t n = counts[c];
    double *g64, sum = 0.0, *got = h_take_f64(h, 1), *again = h_take_f64(h, 1);
    float *g = h_normal_f32(h, n, 1e-3, &g64);
    h_case(h, "count %lld", (long long)n);
    for (int64_t i = 0; i < n; i++) sum += g64[i] * g64[i];
    H_OK(h->ops->sum_squares(h->ops, n, g, got, false));
    H_OK(h->ops->sum_squares(h->ops, n, g, again, false));
    assert_true(*got == *again);
    h_near(h, "sum", *got, sum, 1e-13 * sum);
    if (n > 0) {
      g[n / 2] = NAN;
      H_OK(h->ops->sum_squares(h->ops, n, g, got, false));
      assert_true(isnan(*got));
      g[n / 2] = -INFINITY;
      H_OK(h->ops->sum_squares(h->ops, n, g, got, false));
      assert_true(isinf(*got));
      g[n / 2] = 3e30f; /* its square is beyond float32 */
      H_OK(h->ops->sum_squares(h->ops, n, g, got, false));
      h_near(h, "large sum", *got, (double)3e30f * (double)3e30f, 1e50);
    }
    h_finish(h);
  }
}

/* Everything of a step that is one number, in float64. */
typedef struct step_scalars {
  double scale, correction1, correction2;
} step_scalars;

static step_scalars scalars(const np_adamw *how, double norm, int t) {
  double scale = how->clip > 0 ? fmin(1.0, (double)how->clip / (norm + 1e-6)) : 1.0;
  return (step_scalars){scale, 1.0 - pow(how->beta1, t), 1.0 - pow(how->beta2, t)};
}

static void step64(const np_adamw *how, step_scalars s, double lr, double g, double *w, double *m, double *v) {
  g *= s.scale;
  *w *= 1.0 - lr * (double)how->weight_decay;
  *m += (1.0 - how->beta1) * (g - *m);
  *v = how->beta2 * *v + (1.0 - how->beta2) * g * g;
  *w -= lr / s.correction1 * *m / (sqrt(*v) / sqrt(s.correction2) + (double)how->eps);
}

/* Norms, limits and step counts: a long way into a run, without a limit, of a gradient of zeros. */
static void preparing(harness *h) {
  static const struct {
    double norm;
    float clip;
    int64_t steps;
  } cases[] = {{0.3, 1.0f, 0},    {7.5, 1.0f, 1}, {7.5, 0.0f, 41},     {0.0, 1.0f, 499999},
               {1e25, 0.25f, 11}, {1.0, 1.0f, 0}, {1e-30, 3.0f, 1000}, {1e160, 1.0f, 0}};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    const np_adamw how = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8f, .weight_decay = 0.05f, .clip = cases[c].clip};
    np_adamw_state *state = h_take(h, sizeof *state);
    const step_scalars want = scalars(&how, cases[c].norm, (int)cases[c].steps + 1);
    h_case(h, "preparing, case %zu", c);
    *state = (np_adamw_state){.norm_squared = cases[c].norm * cases[c].norm, .steps = cases[c].steps, .lr = 0.5f};
    bool finite = isfinite(state->norm_squared);
    H_OK(h->ops->adamw_prepare(h->ops, &how, state));
    assert_int_equal(state->apply != 0, finite);
    assert_int_equal(state->steps, cases[c].steps + finite);
    assert_true(state->lr == 0.5f);
    if (!finite) continue;
    h_near(h, "grad_scale", (double)state->grad_scale, want.scale, 1e-7 * want.scale);
    h_near(h, "bias_correction1", (double)state->bias_correction1, want.correction1, 1e-7);
    h_near(h, "bias_correction2", (double)state->bias_correction2, want.correction2, 1e-7);
  }
}

static void steps(harness *h) {
  static const int64_t counts[] = {1, 7, 65, 40001};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    int64_t n = counts[c];
    double *g64, *w64, *m64, *v64, norm_squared = 0.0;
    float *g = h_normal_f32(h, n, 1.0, &g64), *w = h_normal_f32(h, n, 1.0, &w64), *m = h_normal_f32(h, n, 0.0, &m64);
    float *v = h_normal_f32(h, n, 0.0, &v64);
    void *low = h_take_act(h, n);
    np_adamw_state *state = h_take(h, sizeof *state);
    *state = (np_adamw_state){.lr = 1e-2f};
    for (int64_t i = 0; i < n; i++) norm_squared += g64[i] * g64[i];
    for (int step = 1; step <= 3; step++) {
      /* half the norm: the factor is 1/2 */
      const np_adamw how = {.beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8f,
                            .weight_decay = 0.05f,
                            .clip = step == 3 ? 0.0f : (float)(0.5 * sqrt(norm_squared))};
      const step_scalars s = scalars(&how, sqrt(norm_squared), step);
      h_case(h, "count %lld step %d", (long long)n, step);
      for (int64_t i = 0; i < n; i++) step64(&how, s, (double)state->lr, g64[i], &w64[i], &m64[i], &v64[i]);
      H_OK(h->ops->sum_squares(h->ops, n, g, &state->norm_squared, false));
      H_OK(h->ops->adamw_prepare(h->ops, &how, state));
      H_OK(h->ops->adamw(h->ops, &how, state, n, g, w, m, v, step == 2 ? NULL : low));
      h_close_f32(h, "w", n, w, w64, 4e-7);
      h_close_f32(h, "m", n, m, m64, 4e-7);
      h_close_f32(h, "v", n, v, v64, 4e-7);
      for (int64_t i = 0; i < n && step != 2; i++) assert_true(h_get(h, low, i) == h_round(h, (double)w[i]));
    }
    h_finish(h);
  }
}

/* A norm that is not finite: not a bit changes, and the count does not grow. */
static void not_applied(harness *h) {
  enum { COUNT = 1003 };
  const np_adamw how = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8f, .weight_decay = 0.05f, .clip = 1.0f};
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  for (int b = 0; b < 3; b++) {
    double *unused;
    float *g = h_normal_f32(h, COUNT, 1.0, &unused), *x[3], *before[3];
    void *low = h_normal_act(h, COUNT, 1.0, &unused), *low_before = h_take_act(h, COUNT);
    np_adamw_state *state = h_take(h, sizeof *state);
    for (int k = 0; k < 3; k++) {
      x[k] = h_normal_f32(h, COUNT, 1.0, &unused);
      before[k] = h_take_f32(h, COUNT);
      memcpy(before[k], x[k], COUNT * sizeof *before[k]);
    }
    memcpy(low_before, low, COUNT * h_size(h));
    h_case(h, "gradient with %g", (double)bad[b]);
    g[COUNT / 3] = bad[b];
    *state = (np_adamw_state){.steps = 6, .lr = 0.1f, .apply = 1, .grad_scale = 1.0f, .bias_correction1 = 1.0f};
    H_OK(h->ops->sum_squares(h->ops, COUNT, g, &state->norm_squared, false));
    H_OK(h->ops->adamw_prepare(h->ops, &how, state));
    H_OK(h->ops->adamw(h->ops, &how, state, COUNT, g, x[0], x[1], x[2], low));
    assert_int_equal(state->apply, 0);
    assert_int_equal(state->steps, 6);
    for (int k = 0; k < 3; k++) assert_memory_equal(x[k], before[k], COUNT * sizeof *before[k]);
    assert_memory_equal(low, low_before, COUNT * h_size(h));
    h_finish(h);
  }
}

/* torch 2: w = [0.5, -1.25, 2], AdamW(lr 0.1, betas (0.9, 0.95), eps 1e-8, weight_decay 0.05), three steps with
 * gradients [0.1, -0.2, 0.3]·step. */
static void torch_numbers(harness *h) {
  static const double expected[3] = {0.203764379, -0.942570567, 1.6813767};
  const np_adamw how = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8f, .weight_decay = 0.05f};
  float *w = h_take_f32(h, 3), *m = h_take_f32(h, 3), *v = h_take_f32(h, 3), *g = h_take_f32(h, 3);
  np_adamw_state *state = h_take(h, sizeof *state);
  *state = (np_adamw_state){.lr = 0.1f};
  for (int i = 0; i < 3; i++) {
    w[i] = (float[]){0.5f, -1.25f, 2.0f}[i];
    m[i] = v[i] = 0.0f;
  }
  for (int step = 1; step <= 3; step++) {
    for (int i = 0; i < 3; i++) g[i] = (float)step * (float[]){0.1f, -0.2f, 0.3f}[i];
    H_OK(h->ops->sum_squares(h->ops, 3, g, &state->norm_squared, false));
    H_OK(h->ops->adamw_prepare(h->ops, &how, state));
    H_OK(h->ops->adamw(h->ops, &how, state, 3, g, w, m, v, NULL));
  }
  for (int i = 0; i < 3; i++) h_near(h, "w", (double)w[i], expected[i], 3e-7);
}

H_TEST(test_sum_squares, sums)
H_TEST(test_prepare, preparing)
H_TEST(test_adamw, steps)
H_TEST(test_not_applied, not_applied)
H_TEST(test_torch, torch_numbers)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sum_squares), cmocka_unit_test(test_prepare),
                                     cmocka_unit_test(test_adamw), cmocka_unit_test(test_not_applied),
                                     cmocka_unit_test(test_torch)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
