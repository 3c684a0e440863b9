/* Philox against Random123's published known answers, and the streams drawn from it. */
#include "util/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Random123, tests/kat_vectors, "philox4x32 10". */
static void known_answers(void **state) {
  (void)state;
  static const struct {
    uint32_t counter[4], key[2], expect[4];
  } cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint32_t out[4];
    np_philox4x32(cases[i].counter, cases[i].key, out);
    assert_memory_equal(out, cases[i].expect, sizeof out);
  }
}

/* The layout of the counter is part of what a seed means. */
static void counter_layout(void **state) {
  (void)state;
  const uint64_t seed = 0x0123456789abcdefu, index = 0x00aabbccddeeff11u;
  np_rng rng = np_rng_make(seed, NP_PURPOSE_JITTER, 77, index);
  const uint32_t key[2] = {0x89abcdefu, 0x01234567u};
  for (uint32_t block = 0; block < 3; block++) {
    const uint32_t counter[4] = {block, 0x04aabbccu, 0xddeeff11u, 77};
    uint32_t expect[4];
    np_philox4x32(counter, key, expect);
    for (int i = 0; i < 4; i++) assert_int_equal(np_rng_u32(&rng), expect[i]);
  }
}

static void streams_differ(void **state) {
  (void)state;
  np_rng streams[] = {
      np_rng_make(1, NP_PURPOSE_CROP, 0, 0),
      np_rng_make(2, NP_PURPOSE_CROP, 0, 0),
      np_rng_make(1, NP_PURPOSE_JITTER, 0, 0),
      np_rng_make(1, NP_PURPOSE_CROP, 1, 0),
      np_rng_make(1, NP_PURPOSE_CROP, 0, 1),
      np_rng_make(1, NP_PURPOSE_CROP, 0, (uint64_t)1 << 40),
      np_rng_make((uint64_t)1 << 40, NP_PURPOSE_CROP, 0, 0),
  };
  enum { COUNT = sizeof streams / sizeof *streams };
  uint32_t first[COUNT];
  for (int i = 0; i < COUNT; i++) {
    first[i] = np_rng_u32(&streams[i]);
    for (int j = 0; j < i; j++) assert_int_not_equal(first[i], first[j]);
  }
}

/* Moments over 2^18 draws; the bounds are six standard errors. */
static void uniform_moments(void **state) {
  (void)state;
  enum { DRAWS = 1 << 18 };
  np_rng rng = np_rng_make(11, NP_PURPOSE_INIT, 0, 3);
  double sum = 0, square = 0;
  for (int i = 0; i < DRAWS; i++) {
    const double u = np_rng_uniform(&rng);
    assert_true(u >= 0 && u < 1);
    sum += u;
    square += u * u;
  }
  assert_true(fabs(sum / DRAWS - 0.5) <= 6 * sqrt(1.0 / 12 / DRAWS));
  assert_true(fabs(square / DRAWS - 1.0 / 3) <= 6 * sqrt(4.0 / 45 / DRAWS));
}

static void normal_moments(void **state) {
  (void)state;
  enum { DRAWS = 1 << 18 };
  np_rng rng = np_rng_make(12, NP_PURPOSE_INIT, 0, 4);
  double sum = 0, square = 0, fourth = 0;
  int within_one = 0;
  for (int i = 0; i < DRAWS; i++) {
    const double z = np_rng_normal(&rng);
    assert_true(isfinite(z));
    sum += z;
    square += z * z;
    fourth += z * z * z * z;
    within_one += fabs(z) <= 1;
  }
  assert_true(fabs(sum / DRAWS) <= 6 * sqrt(1.0 / DRAWS));
  assert_true(fabs(square / DRAWS - 1) <= 6 * sqrt(2.0 / DRAWS));
  assert_true(fabs(fourth / DRAWS - 3) <= 6 * sqrt(96.0 / DRAWS));
  assert_true(fabs((double)within_one / DRAWS - 0.6826894921) <= 6 * sqrt(0.2166 / DRAWS));
}

static void below_is_even(void **state) {
  (void)state;
  np_rng rng = np_rng_make(13, NP_PURPOSE_ORDER, 0, 0);
  assert_int_equal(np_rng_below(&rng, 1), 0);
  int counts[7] = {0};
  enum { DRAWS = 70000 };
  for (int i = 0; i < DRAWS; i++) {
    const uint32_t value = np_rng_below(&rng, 7);
    assert_true(value < 7);
    counts[value]++;
  }
  for (int i = 0; i < 7; i++) assert_true(abs(counts[i] - DRAWS / 7) <= 6 * 93); /* sqrt(70000 · 1/7 · 6/7) = 92.6 */

  /* A bound just over 2^31 shows the bias of a plain multiply: a third of the low half would be twice as likely. */
  const uint32_t bound = 0xC0000000u;
  int low_third = 0;
  for (int i = 0; i < DRAWS; i++) low_third += np_rng_below(&rng, bound) % 3 == 0;
  assert_true(fabs(low_third - DRAWS / 3.0) <= 6 * 125); /* sqrt(70000 · 2/9) = 124.7 */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_answers),   cmocka_unit_test(counter_layout), cmocka_unit_test(streams_differ),
      cmocka_unit_test(uniform_moments), cmocka_unit_test(normal_moments), cmocka_unit_test(below_is_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
