/* The learning rate against constants that the released scheduler computed (golden/pretrain-l3m, `lr`). */
#include "unit/temp.h"

#include "optim/schedule.h"

#include <math.h>

static void assert_close(double got, double want) {
  if (!(fabs(got - want) <= 1e-9 * fabs(want))) fail_msg("%.17g, expected %.17g", got, want);
}

static void released_values(void **state) {
  static const double want[] = {1e-06,
                                0.00025075000000000005,
                                0.0005005000000000001,
                                0.0007502499999999999,
                                0.001,
                                0.0009980973490458728,
                                0.000992403876506104,
                                0.0009829629131445341,
                                0.0009698463103929542,
                                0.0009531538935183251,
                                0.0009330127018922195,
                                0.0009095760221444959};
  np_schedule schedule = {.lr = 1e-3, .lr_start = 1e-6, .lr_end = 0, .warmup = 0.1, .steps = 40};
  (void)state;
  for (int i = 0; i < 12; i++) assert_close(np_schedule_lr(&schedule, i), want[i]);
}

/* Half way down the cosine the rate is the mean of its ends, and it ends at lr_end. */
static void cosine_ends(void **state) {
  np_schedule schedule = {.lr = 4, .lr_start = 1, .lr_end = 2, .warmup = 0.2, .steps = 100};
  (void)state;
  assert_close(np_schedule_lr(&schedule, 0), 1);
  assert_close(np_schedule_lr(&schedule, 20), 4);
  assert_close(np_schedule_lr(&schedule, 60), 3);
  assert_close(np_schedule_lr(&schedule, 100), 2);
}

static void no_warmup_and_only_warmup(void **state) {
  np_schedule none = {.lr = 1, .lr_start = 0.5, .lr_end = 0, .warmup = 0, .steps = 10};
  np_schedule only = {.lr = 1, .lr_start = 0, .lr_end = 0.25, .warmup = 1, .steps = 10};
  (void)state;
  assert_close(np_schedule_lr(&none, 0), 1);
  assert_close(np_schedule_lr(&only, 9), 0.9);
  assert_close(np_schedule_lr(&only, 10), 0.25);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(released_values),
      cmocka_unit_test(cosine_ends),
      cmocka_unit_test(no_warmup_and_only_warmup),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
