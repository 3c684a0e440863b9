/* Attention at every token count × head width that it is promised for, each a batch of five images whose prefixes are
 * all that a tile may meet: none, one token, all but one, all, and some. */
#include "attention_bed.h"

/* What is compared is the version that is meant: in bf16 Hopper's wherever it runs, but where portable is asked for. */
static void check_version(harness *h, int tokens, int head_width) {
#ifdef NP_TEST_CUDA
  char why[NP_CUDA_TEXT];
  np_cuda_about about;
  assert_int_equal(np_cuda_look(-1, &about), NP_OK);
  np_cuda_attention_reason(h->ops, tokens, head_width, why);
  const char *name = h->act == NP_F32                                  ? "float32"
                     : strstr(h->form, "portable") || about.major != 9 ? "portable"
                                                                       : "hopper";
  if (strncmp(why, name, strlen(name)) != 0) fail_msg("%s: %s runs, not %s", h->form, why, name);
#else
  (void)h, (void)tokens, (void)head_width;
#endif
}

/* Five items: no multiple of what a GPU takes at once. */
static void width(harness *h, int head_width) {
  static const int tokens[] = {1, 7, 64, 65, 196, 256, 300};
  for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
    const int n = tokens[i];
    const shape s = {5, n, 1, head_width, {n * 2 / 5, 0, 1, n - 1, n}, true};
    check_version(h, n, head_width);
    one_shape(h, &s, !emulated() || n <= 65);
  }
}

static void width_32(harness *h) { width(h, 32); }
static void width_64(harness *h) { width(h, 64); }
static void width_96(harness *h) { width(h, 96); }
static void width_128(harness *h) { width(h, 128); }

H_TEST(test_width_32, width_32)
H_TEST(test_width_64, width_64)
H_TEST(test_width_96, width_96)
H_TEST(test_width_128, width_128)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_width_32), cmocka_unit_test(test_width_64),
                                     cmocka_unit_test(test_width_96), cmocka_unit_test(test_width_128)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
