/* The order of epochs and the prefix lengths. */
#include "data/sampler.h"
#include "unit/temp.h"

#include <math.h>
#include <stdbool.h>

/* Every sample once in each epoch, whatever its size. */
static void test_permutation(void **state) {
  (void)state;
  const int64_t sizes[] = {1, 2, 3, 100, 4097};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    int64_t n = sizes[s];
    np_sampler sampler;
    assert_ok(np_sampler_open(&sampler, 7, n));
    bool *met = calloc((size_t)n, 1);
    for (int64_t p = 0; p < 3 * n; p++) {
      uint32_t epoch;
      int64_t index = np_sampler_at(&sampler, p, &epoch);
      assert_int_equal(epoch, p / n);
      assert_in_range(index, 0, n - 1);
      assert_true(met[index] == (epoch % 2 == 1)); /* epoch 0 sets each mark once, epoch 1 clears it, … */
      met[index] = !met[index];
    }
    for (int64_t i = 0; i < n; i++) assert_true(met[i]);
    free(met);
    np_sampler_close(&sampler);
  }
}

static void orders(uint64_t seed, int64_t first, int64_t *out, int n) {
  np_sampler sampler;
  uint32_t epoch;
  assert_ok(np_sampler_open(&sampler, seed, n));
  for (int i = 0; i < n; i++) out[i] = np_sampler_at(&sampler, first + i, &epoch);
  np_sampler_close(&sampler);
}

/* A run that begins in the middle of an epoch sees what an undisturbed one sees; another seed or epoch another order.
 */
static void test_function_of_position(void **state) {
  (void)state;
  enum { N = 50 };
  int64_t whole[N], again[N], other[N];
  np_sampler sampler;
  uint32_t epoch;
  orders(3, 2 * N, whole, N);
  assert_ok(np_sampler_open(&sampler, 3, N));
  for (int i = N - 1; i >= 0; i--) again[i] = np_sampler_at(&sampler, 2 * N + i, &epoch); /* backwards */
  np_sampler_close(&sampler);
  assert_memory_equal(whole, again, sizeof whole);
  orders(3, 3 * N, other, N);
  assert_memory_not_equal(whole, other, sizeof whole);
  orders(4, 2 * N, other, N);
  assert_memory_not_equal(whole, other, sizeof whole);
}

/* All 24 orders of four samples come up equally often: chi-square with 23 degrees of freedom stays below 60 (p < 1e-4).
 */
static void test_uniform_orders(void **state) {
  (void)state;
  enum { N = 4, EPOCHS = 24000 };
  int count[256] = {0};
  np_sampler sampler;
  assert_ok(np_sampler_open(&sampler, 11, N));
  for (int64_t e = 0; e < EPOCHS; e++) {
    int code = 0;
    uint32_t epoch;
    for (int i = 0; i < N; i++) code = code * 4 + (int)np_sampler_at(&sampler, e * N + i, &epoch);
    count[code]++;
  }
  np_sampler_close(&sampler);
  double chi = 0, expected = EPOCHS / 24.0;
  int orders_met = 0;
  for (int i = 0; i < 256; i++) {
    if (count[i] == 0) continue;
    orders_met++;
    chi += (count[i] - expected) * (count[i] - expected) / expected;
  }
  assert_int_equal(orders_met, 24);
  if (!(chi < 60)) fail_msg("chi-square %g", chi);
}

static void test_prefix(void **state) {
  (void)state;
  const np_loader_options o = {.batch = 16, .seed = 5, .prefix_min = 1, .prefix_max = 63};
  enum { N = 37, BATCHES = 4000 };
  int count[64] = {0};
  np_sampler sampler;
  assert_ok(np_sampler_open(&sampler, o.seed, N));
  for (int64_t b = 0; b < BATCHES; b++) {
    int32_t prefix[16];
    bool compared = b < 20; /* np_sampler_prefix shuffles anew on each call */
    if (compared) assert_ok(np_sampler_prefix(&o, N, b, prefix));
    for (int i = 0; i < o.batch; i++) {
      uint32_t epoch;
      int64_t index = np_sampler_at(&sampler, b * o.batch + i, &epoch);
      int32_t drawn = np_sampler_draw_prefix(&o, epoch, index);
      assert_in_range(drawn, 1, 63);
      if (compared) assert_int_equal(drawn, prefix[i]);
      count[drawn]++;
    }
  }
  np_sampler_close(&sampler);
  double expected = BATCHES * o.batch / 63.0;
  for (int s = 1; s < 64; s++)
    if (!(fabs(count[s] - expected) < 5 * sqrt(expected))) fail_msg("prefix %d came up %d times", s, count[s]);
}

/* A batch larger than the dataset goes over several epochs; equal ends leave one length. */
static void test_prefix_edges(void **state) {
  (void)state;
  np_loader_options o = {.batch = 64, .seed = 5, .prefix_min = 9, .prefix_max = 9};
  int32_t prefix[64];
  assert_ok(np_sampler_prefix(&o, 3, 0, prefix));
  for (int i = 0; i < 64; i++) assert_int_equal(prefix[i], 9);
  o.prefix_min = o.prefix_max = 0;
  assert_ok(np_sampler_prefix(&o, 3, 5, prefix));
  assert_int_equal(prefix[63], 0);
  o.prefix_max = 1 << 20;
  assert_ok(np_sampler_prefix(&o, 1, 0, prefix));
  for (int i = 1; i < 64; i++)
    assert_int_not_equal(prefix[i], prefix[i - 1]); /* the same sample, another epoch each time */
  assert_error(np_sampler_prefix(&o, 0, 0, prefix), NP_ERR_ARGUMENT, "0 images");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_permutation), cmocka_unit_test(test_function_of_position),
                                     cmocka_unit_test(test_uniform_orders), cmocka_unit_test(test_prefix),
                                     cmocka_unit_test(test_prefix_edges)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
