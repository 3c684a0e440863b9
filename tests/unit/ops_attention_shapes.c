/* Attention at every token count × head width that it is promised for, each a batch of five images whose prefixes are
 * all that a tile may meet: none, one token, all but one, all, and some. */
#include "attention_bed.h"

/* Images of one width, in five items: no multiple of what a GPU takes at once. */
static void width(harness *h, int head_width) {
  static const int tokens[] = {1, 7, 64, 65, 196, 256, 300};
  for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
    const int n = tokens[i];
    const shape s = {5, n, 1, head_width, {n * 2 / 5, 0, 1, n - 1, n}, true};
    one_shape(h, &s, n == 196); /* the same bits twice: where there are several tiles, and a part of one */
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
