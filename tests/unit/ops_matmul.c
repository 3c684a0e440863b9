/* Matrix products against float64: every transposition, sizes off every tile, C overwritten and added to, a bias. */
#include "ops_harness.h"

typedef struct product {
  np_matmul shape;
  const double *a, *b, *bias, *before; /* as float64, stored as the operands are; bias NULL: none */
} product;

static double element(const product *p, int64_t i, int64_t j) {
  const np_matmul *s = &p->shape;
  double sum = 0.0;
  for (int64_t l = 0; l < s->k; l++)
    sum += p->a[s->transpose_a ? l * s->m + i : i * s->k + l] * p->b[s->transpose_b ? j * s->k + l : l * s->n + j];
  return sum + (p->bias ? p->bias[j] : 0.0) + (s->accumulate ? p->before[i * s->n + j] : 0.0);
}

/* C and its values before the product, in C's type. */
static void *make_c(harness *h, const np_matmul *s, double **before) {
  if (s->c_type == NP_F32) return h_normal_f32(h, s->m * s->n, 1.0, before);
  return h_normal_act(h, s->m * s->n, 1.0, before);
}

static void one_product(harness *h, np_matmul s, bool with_bias) {
  double *a64, *b64, *bias64, *before, *want = h_take_f64(h, s.m * s.n), *first = h_take_f64(h, s.m * s.n);
  const void *a = h_normal_act(h, s.m * s.k, 1.0, &a64), *b = h_normal_act(h, s.k * s.n, 1.0, &b64);
  float *bias = h_normal_f32(h, s.n, 1.0, &bias64);
  void *c = make_c(h, &s, &before), *twice = h_take(h, (size_t)(s.m * s.n) * np_dtype_size(s.c_type));
  size_t bytes = (size_t)(s.m * s.n) * np_dtype_size(s.c_type);
  for (int64_t j = 0; j < s.n; j++) bias64[j] = bias[j] = (float)h_round(h, bias[j]); /* a backend may round it */
  const product p = {s, a64, b64, with_bias ? bias64 : NULL, before};
  h_case(h, "%lldx%lldx%lld %s%s%s%s%s", (long long)s.m, (long long)s.n, (long long)s.k, s.transpose_a ? "At " : "",
         s.transpose_b ? "Bt " : "", s.c_type == NP_F32 ? "to f32" : "to act", s.accumulate ? " added" : "",
         with_bias ? " bias" : "");
  for (int64_t i = 0; i < s.m; i++)
    for (int64_t j = 0; j < s.n; j++) {
      want[i * s.n + j] = element(&p, i, j);
      /* A backend may round what it has, by 2^-8 of it, before something is added; h_compare takes 2^-7. */
      double bias_here = with_bias ? bias64[j] : 0.0, before_here = s.accumulate ? before[i * s.n + j] : 0.0;
      double sum = want[i * s.n + j] - bias_here - before_here;
      if (with_bias || s.accumulate) first[i * s.n + j] = (fabs(sum) + fabs(bias_here) + fabs(before_here)) / 2.0;
      else first[i * s.n + j] = 0.0;
    }
  memcpy(twice, c, bytes);
  H_OK(h->ops->matmul(h->ops, &s, a, b, with_bias ? bias : NULL, c));
  H_OK(h->ops->matmul(h->ops, &s, a, b, with_bias ? bias : NULL, twice));
  assert_memory_equal(c, twice, bytes);
  h_compare(h, "c", s.c_type == NP_BF16, s.m * s.n, c, want, 4e-6, s.c_type == NP_BF16 ? first : NULL);
  h_finish(h);
}

/* Every transposition, type of C, C overwritten and added to, with a bias and without. */
static void one_form(harness *h, int64_t m, int64_t n, int64_t k, int form) {
  const np_matmul s = {.m = m,
                       .n = n,
                       .k = k,
                       .transpose_a = form & 1,
                       .transpose_b = form & 2,
                       .a_type = h->act,
                       .b_type = h->act,
                       .c_type = form & 4 ? NP_F32 : h->act,
                       .accumulate = form & 8};
  one_product(h, s, form & 16);
}

static void products(harness *h) {
  static const int64_t sizes[][3] = {{1, 1, 1}, {7, 13, 5}, {64, 65, 66}, {33, 17, 129}, {128, 96, 64}, {5, 1000, 3}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (int form = 0; form < 32; form++) one_form(h, sizes[i][0], sizes[i][1], sizes[i][2], form);
}

/* Rows of a page and more: the CPU backend packs a float32 B, and takes a wide bfloat16 one in halves. */
static void wide(harness *h) {
  for (int form = 0; form < 32; form++) one_form(h, 3, 1500, 5, form);
  one_form(h, 256, 4160, 3, 0);         /* a data gradient */
  one_form(h, 256, 4160, 3, 1 + 4 + 8); /* a weight gradient, added to the last pass's */
  one_form(h, 256, 4160, 3, 16);
}

/* No rows: nothing is written, nothing fails. */
static void nothing(harness *h) {
  void *b = h_take_act(h, 12), *c = h_take_act(h, 4);
  const np_matmul s = {.m = 0, .n = 4, .k = 3, .a_type = h->act, .b_type = h->act, .c_type = h->act};
  H_OK(h->ops->matmul(h->ops, &s, NULL, b, NULL, c));
  for (int i = 0; i < 4; i++) assert_true(isnan(h_get(h, c, i)));
}

static void surfacing(harness *h) {
  double *a64, *b64;
  void *a = h_normal_act(h, 6, 1.0, &a64), *b = h_normal_act(h, 6, 1.0, &b64), *c = h_take_act(h, 4);
  const np_matmul s = {.m = 2, .n = 2, .k = 3, .a_type = h->act, .b_type = h->act, .c_type = h->act};
  h_set(h, a, 1, NAN);
  H_OK(h->ops->matmul(h->ops, &s, a, b, NULL, c));
  assert_true(isnan(h_get(h, c, 0)) && isnan(h_get(h, c, 1)) && !isnan(h_get(h, c, 2)) && !isnan(h_get(h, c, 3)));
}

H_TEST(test_products, products)
H_TEST(test_wide, wide)
H_TEST(test_nothing, nothing)
H_TEST(test_nan_surfaces, surfacing)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_wide),
                                     cmocka_unit_test(test_nothing), cmocka_unit_test(test_nan_surfaces)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
