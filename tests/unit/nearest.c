#include "util/nearest.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const char *const words[] = {"pretrain", "probe", "plan", "eval", "model.width", "model.heads"};
enum { COUNT = sizeof words / sizeof *words };

static void finds_typing_errors(void **state) {
  (void)state;
  assert_string_equal(np_nearest("pretrian", words, COUNT), "pretrain"); /* swap */
  assert_string_equal(np_nearest("prob", words, COUNT), "probe");        /* delete */
  assert_string_equal(np_nearest("plaan", words, COUNT), "plan");        /* insert */
  assert_string_equal(np_nearest("evel", words, COUNT), "eval");         /* replace */
  assert_string_equal(np_nearest("model.widht", words, COUNT), "model.width");
}

static void counts_edits(void **state) {
  (void)state;
  assert_int_equal(np_edits("seed", "seed"), 0);
  assert_int_equal(np_edits("sede", "seed"), 1);
  assert_int_equal(np_edits("", "seed"), 4);
  assert_int_equal(np_edits("kitten", "sitting"), 3);
}

static void leaves_strangers_alone(void **state) {
  (void)state;
  assert_null(np_nearest("", words, COUNT));
  assert_null(np_nearest("x", words, COUNT));
  assert_null(np_nearest("frobnicate", words, COUNT));
  assert_null(np_nearest("probe", words, 0));
  char endless[200];
  for (int i = 0; i < 199; i++) endless[i] = 'p';
  endless[199] = 0;
  assert_null(np_nearest(endless, words, COUNT));
  assert_int_equal(np_edits(endless, endless), INT_MAX);
}

static void takes_the_nearest(void **state) {
  (void)state;
  const char *const near[] = {"lr_start", "lr_end", "lr"};
  assert_string_equal(np_nearest("lr_ends", near, 3), "lr_end");
  assert_string_equal(np_nearest("lr", near, 3), "lr");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(finds_typing_errors),
      cmocka_unit_test(counts_edits),
      cmocka_unit_test(leaves_strangers_alone),
      cmocka_unit_test(takes_the_nearest),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
