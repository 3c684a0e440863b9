/* The profile of an operator table: it changes no bit, misses no operation, and counts what was computed. */
#include "ops/profile.h"
#include "model/model.h"
#include "optim/optimiser.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BATCH = 3, SIDE = 4, N = SIDE * SIDE, P = 4, PIXELS = N * P * P * 3 };

static const np_recipe_model config = {.image_size = {SIDE * P, SIDE *P},
                                       .channels = 3,
                                       .patch_size = P,
                                       .width = 32,
                                       .blocks = 2,
                                       .heads = 2,
                                       .mlp_ratio = 4,
                                       .norm_eps = 1e-5,
                                       .head_width = 24,
                                       .head_blocks = 2,
                                       .pixel_mean = {0.5, 0.5, 0.5},
                                       .pixel_std = {0.25, 0.25, 0.25}};
static const int32_t prefix[BATCH] = {5, 5, 5};

static void ok(np_status st) {
  if (st != NP_OK) fail_msg("%s", np_error_message());
}

/* Pairs that prefix 5 allows: 5 queries of 5 keys, then 6, …, N. */
static double pairs(void) {
  double sum = 0;
  for (int i = 0; i < N; i++) sum += i + 1 > prefix[0] ? i + 1 : prefix[0];
  return sum;
}

/* Two steps on `ops`: the weights behind them, malloc'ed, and the loss of the second. */
static float *train(np_ops *ops, int64_t *total, double *loss) {
  static uint8_t pixels[BATCH * PIXELS];
  static const np_recipe_optim optim = {
      .lr = 1e-3, .betas = {0.9, 0.95}, .eps = 1e-8, .weight_decay = 0.05, .grad_clip = 1};
  np_model *model;
  np_optimiser *optimiser;
  for (int i = 0; i < BATCH * PIXELS; i++) pixels[i] = (uint8_t)((i * 2654435761u) >> 13);
  ok(np_model_create(ops, &config, &(np_model_options){.batch = BATCH, .head = true, .train = true}, &model));
  const np_params *params = np_model_params(model);
  *total = params->total;
  float *weights = malloc((size_t)params->total * sizeof *weights);
  np_params_init(params, 1, weights);
  ok(np_model_set_weights(model, weights));
  ok(np_optimiser_create(ops, params, NULL, &optim, &optimiser));
  const np_optimised what = np_optimised_model(model);
  for (int step = 0; step < 2; step++) {
    ok(np_model_feed(model, BATCH, pixels, NULL, prefix));
    ok(np_model_train(model, np_model_targets(&config, BATCH, prefix), true));
    ok(np_optimiser_step(optimiser, &what, 1e-3));
  }
  ok(np_model_read_loss(model, loss));
  ok(np_model_get_weights(model, weights));
  np_optimiser_destroy(optimiser);
  np_model_destroy(model);
  return weights;
}

static void same_bits_and_every_family(void **state) {
  (void)state;
  np_ops *plain, *profiled;
  int64_t total, same;
  double loss, seen_loss;
  np_family_sum sums[NP_FAMILIES];
  ok(np_ops_cpu(NP_F32, 2, &plain));
  ok(np_ops_profile(plain, pairs(), &profiled));
  float *want = train(plain, &total, &loss), *got = train(profiled, &same, &seen_loss);
  assert_int_equal(total, same);
  assert_memory_equal(want, got, (size_t)total * sizeof *want);
  assert_true(loss == seen_loss);
  ok(np_ops_profile_read(profiled, sums));
  for (int f = 0; f < NP_FAMILIES; f++) {
    if (f == NP_FAMILY_PROBE) assert_int_equal(sums[f].calls, 0);
    else if (!(sums[f].seconds > 0 && sums[f].calls > 0))
      fail_msg("%s: %g s in %lld calls", np_family_name((np_family)f), sums[f].seconds, (long long)sums[f].calls);
  }
  ok(np_ops_profile_read(profiled, sums));
  for (int f = 0; f < NP_FAMILIES; f++) assert_true(sums[f].seconds == 0 && sums[f].calls == 0 && sums[f].flops == 0);
  profiled->destroy(profiled);
  plain->destroy(plain);
  free(want);
  free(got);
}

/* Attention in two blocks over two steps: 4·d FLOPs a pair and head forward, 10·d backward. */
static void attention_counts_allowed_pairs(void **state) {
  (void)state;
  np_ops *plain, *profiled;
  int64_t total;
  double loss, expected = 2.0 * config.blocks * BATCH * config.width * pairs();
  np_family_sum sums[NP_FAMILIES];
  ok(np_ops_cpu(NP_F32, 1, &plain));
  ok(np_ops_profile(plain, pairs(), &profiled));
  free(train(profiled, &total, &loss));
  ok(np_ops_profile_read(profiled, sums));
  assert_true(fabs(sums[NP_FAMILY_ATTENTION_FORWARD].flops / (4 * expected) - 1) < 1e-12);
  assert_true(fabs(sums[NP_FAMILY_ATTENTION_BACKWARD].flops / (10 * expected) - 1) < 1e-12);
  profiled->destroy(profiled);
  plain->destroy(plain);
}

/* A backend that does nothing and says that everything takes a second. */
static np_status no_mark(np_ops *ops, int index) {
  (void)ops;
  assert_true(index >= NP_PROFILE_MARKS);
  return NP_OK;
}
static np_status a_second(np_ops *ops, int from, int to, double *seconds) {
  (void)ops;
  assert_int_equal(to, from + 1);
  *seconds = 1;
  return NP_OK;
}
static np_status no_product(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias,
                            void *c) {
  (void)ops, (void)shape, (void)a, (void)b, (void)bias, (void)c;
  return NP_OK;
}

/* More operations than the profile keeps marks for at a time. */
static void nothing_is_lost_when_marks_run_out(void **state) {
  (void)state;
  enum { CALLS = 5000 };
  np_ops idle = {.name = "idle", .mark = no_mark, .elapsed = a_second, .matmul = no_product}, *profiled;
  const np_matmul shape = {.m = 3, .n = 5, .k = 7};
  np_family_sum sums[NP_FAMILIES];
  ok(np_ops_profile(&idle, 0, &profiled));
  for (int i = 0; i < CALLS; i++) ok(profiled->matmul(profiled, &shape, NULL, NULL, NULL, NULL));
  ok(np_ops_profile_read(profiled, sums));
  assert_int_equal(sums[NP_FAMILY_PRODUCTS].calls, CALLS);
  assert_true(sums[NP_FAMILY_PRODUCTS].flops == 2.0 * 3 * 5 * 7 * CALLS);
  assert_true(sums[NP_FAMILY_PRODUCTS].seconds == CALLS);
  profiled->destroy(profiled);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(same_bits_and_every_family),
      cmocka_unit_test(attention_counts_allowed_pairs),
      cmocka_unit_test(nothing_is_lost_when_marks_run_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
