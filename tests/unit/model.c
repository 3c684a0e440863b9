/* The model as a whole: what may see what, the same loss with and without the tokens that carry none, finite
 * differences through everything, accumulation, equal bits. The golden program judges the numbers themselves. */
#include "unit/model_bed.h"

#include <math.h>
#include <stdio.h>

static void targets_count_patches_behind_the_prefix(void **state) {
  (void)state;
  assert_int_equal(np_model_targets(&small, 1, (int32_t[]){0}), N - 1); /* the first patch is never predicted */
  assert_int_equal(np_model_targets(&small, 1, (int32_t[]){1}), N - 1);
  assert_int_equal(np_model_targets(&small, 1, (int32_t[]){2}), N - 2);
  assert_int_equal(np_model_targets(&small, 1, (int32_t[]){N - 1}), 1);
  assert_int_equal(np_model_targets(&small, 1, (int32_t[]){N}), 0);
  assert_int_equal(np_model_targets(&small, 3, (int32_t[]){0, 2, N}), N - 1 + N - 2);
}

/* The largest change of each token's prediction [N] of image 0 when patch j of it changes. */
static void changes(bed *b, int32_t S, int j, double change[N]) {
  static float before[BATCH * PIXELS], after[BATCH * PIXELS];
  int32_t prefix[BATCH] = {S, S, S};
  int top = j / COLUMNS * P, left = j % COLUMNS * P;
  ok(np_model_feed(b->model, BATCH, NULL, b->images, prefix));
  ok(np_model_predict(b->model, before));
  for (int c = 0; c < 3; c++)
    for (int y = 0; y < P; y++)
      for (int x = 0; x < P; x++) b->images[(c * ROWS * P + top + y) * COLUMNS * P + left + x] += 1.0f;
  ok(np_model_feed(b->model, BATCH, NULL, b->images, prefix));
  ok(np_model_predict(b->model, after));
  for (int c = 0; c < 3; c++)
    for (int y = 0; y < P; y++)
      for (int x = 0; x < P; x++) b->images[(c * ROWS * P + top + y) * COLUMNS * P + left + x] -= 1.0f;
  for (int k = 0; k < N; k++) {
    change[k] = 0;
    for (int v = 0; v < VALUES; v++)
      change[k] = fmax(change[k], fabs((double)after[k * VALUES + v] - before[k * VALUES + v]));
  }
  for (int i = PIXELS; i < BATCH * PIXELS; i++) assert_true(after[i] == before[i]); /* other images never notice */
}

/* Patch j reaches the prediction at k exactly when k sees it: j <= k, or j < S. */
static void predictions_see_what_the_mask_shows(void **state) {
  (void)state;
  const int32_t prefixes[] = {0, 1, 2, 5, N - 1, N};
  bed *b = make(NP_F32, false, NP_HEAD_L3M);
  for (size_t s = 0; s < sizeof prefixes / sizeof *prefixes; s++)
    for (int j = 0; j < N; j++) {
      double change[N];
      changes(b, prefixes[s], j, change);
      for (int k = 0; k < N; k++) {
        bool sees = j <= k || j < prefixes[s];
        if (sees != (change[k] > 0))
          fail_msg("S = %d: patch %d %s the prediction at %d", (int)prefixes[s], j, sees ? "does not reach" : "reaches",
                   k);
      }
    }
  unmake(b);
}

static double distance(const float *a, const float *b, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; i++) {
    difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    norm += (double)b[i] * b[i];
  }
  return sqrt(difference / norm);
}

static void loss_tokens_alone_give_the_same_loss_and_gradients(void **state) {
  (void)state;
  const int32_t cases[][BATCH] = {{1, 1, 1}, {N - 1, N - 1, N - 1}, {0, 5, N - 1}, {3, N, 1}};
  for (int block = NP_HEAD_MLP; block <= NP_HEAD_L3M; block++) {
    bed *some = make(NP_F32, false, (np_head_block)block), *all = make(NP_F32, true, (np_head_block)block);
    float *a = malloc((size_t)some->total * sizeof *a), *b = malloc((size_t)all->total * sizeof *b);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      double x = train(some, cases[i], a), y = train(all, cases[i], b);
      if (!(fabs(x - y) <= 1e-6 * y)) fail_msg("losses %.9g and %.9g", x, y);
      double off = distance(a, b, some->total);
      if (!(off <= 1e-5)) fail_msg("gradients differ by %.3g of their norm", off);
    }
    free(a);
    free(b);
    unmake(some);
    unmake(all);
  }
}

/* d loss / d direction, by central differences and by the gradient, along a random direction within each parameter. The
 * loss is read in float64 but computed in float32: a step of 2^-6 of the weights' size leaves about three good digits.
 */
static void gradients_are_slopes_of_the_loss(void **state) {
  (void)state;
  const int32_t prefix[BATCH] = {1, 4, N - 1};
  bed *b = make(NP_F32, false, NP_HEAD_L3M);
  const np_params *params = np_model_params(b->model);
  float *gradients = malloc((size_t)b->total * sizeof *gradients), *moved = malloc((size_t)b->total * sizeof *moved);
  train(b, prefix, gradients);
  for (int i = 0; i < params->count; i++) {
    const np_param *p = &params->items[i];
    double slope = 0, length = 0, loss[2], step = 0.02;
    for (int64_t j = 0; j < p->count; j++) { /* half along the gradient, half at random: a slope well above rounding */
      slope += (double)gradients[p->offset + j] * gradients[p->offset + j];
    }
    double norm = sqrt(slope) + 1e-30;
    slope = 0;
    for (int64_t j = 0; j < p->count; j++) {
      double direction = gradients[p->offset + j] / norm + noise((uint32_t)(31 * i + j)) / sqrt((double)p->count);
      slope += direction * gradients[p->offset + j];
      length += direction * direction;
    }
    length = sqrt(length);
    for (int side = 0; side < 2; side++) {
      memcpy(moved, b->weights, (size_t)b->total * sizeof *moved);
      for (int64_t j = 0; j < p->count; j++) {
        double direction = gradients[p->offset + j] / norm + noise((uint32_t)(31 * i + j)) / sqrt((double)p->count);
        moved[p->offset + j] += (float)((side ? -step : step) * direction / length);
      }
      ok(np_model_set_weights(b->model, moved));
      loss[side] = train(b, prefix, NULL);
    }
    double measured = (loss[0] - loss[1]) / (2 * step), expected = slope / length;
    if (!(fabs(measured - expected) <= 1e-2 * fabs(expected) + 2e-5))
      fail_msg("%s: slope %.6g by differences, %.6g by the gradient", p->name, measured, expected);
  }
  free(gradients);
  free(moved);
  unmake(b);
}

static void micro_batches_add_up(void **state) {
  (void)state;
  const int32_t prefix[BATCH] = {2, 7, 11};
  bed *b = make(NP_F32, false, NP_HEAD_MLP);
  float *whole = malloc((size_t)b->total * sizeof *whole), *parts = malloc((size_t)b->total * sizeof *parts);
  double loss = train(b, prefix, whole), sum;
  int64_t targets = np_model_targets(&small, BATCH, prefix);
  for (int i = 0; i < BATCH; i++) {
    ok(np_model_feed(b->model, 1, NULL, b->images + (size_t)i * PIXELS, prefix + i));
    ok(np_model_train(b->model, targets, i == 0));
  }
  ok(np_model_read_loss(b->model, &sum));
  ok(b->ops->download(b->ops, parts, np_model_gradients(b->model), (size_t)b->total * sizeof *parts));
  assert_true(fabs(sum / (double)targets - loss) <= 1e-6 * loss);
  double off = distance(parts, whole, b->total);
  if (!(off <= 1e-5)) fail_msg("gradients differ by %.3g of their norm", off);
  free(whole);
  free(parts);
  unmake(b);
}

static void equal_inputs_give_equal_bits(void **state) {
  (void)state;
  const int32_t prefix[BATCH] = {1, 6, N - 1};
  for (int act = 0; act < 1 + np_cpu_has_bf16(); act++) {
    bed *b = make(act ? NP_BF16 : NP_F32, false, NP_HEAD_L3M);
    float *first = malloc((size_t)b->total * sizeof *first), *second = malloc((size_t)b->total * sizeof *second);
    double x = train(b, prefix, first), y = train(b, prefix, second);
    assert_memory_equal(&x, &y, sizeof x);
    assert_memory_equal(first, second, (size_t)b->total * sizeof *first);
    free(first);
    free(second);
    unmake(b);
  }
}

/* uint8 pixels normalised by the operators against the same pixels normalised here. */
static void raw_and_normalised_pixels_agree(void **state) {
  (void)state;
  const int32_t prefix[BATCH] = {3, 3, 3};
  bed *b = make(NP_F32, false, NP_HEAD_L3M);
  uint8_t *raw = malloc(BATCH * PIXELS);
  for (int i = 0; i < BATCH; i++)
    for (int y = 0; y < ROWS * P; y++)
      for (int x = 0; x < COLUMNS * P; x++)
        for (int c = 0; c < 3; c++) {
          uint8_t value = (uint8_t)(127.5f + 127.5f * noise((uint32_t)(((i * 16 + y) * 16 + x) * 3 + c)));
          raw[((i * ROWS * P + y) * COLUMNS * P + x) * 3 + c] = value;
          b->images[((i * 3 + c) * ROWS * P + y) * COLUMNS * P + x] = (float)((value / 255.0 - 0.5) / 0.25);
        }
  double normalised = train(b, prefix, NULL), sum;
  ok(np_model_feed(b->model, BATCH, raw, NULL, prefix));
  ok(np_model_loss(b->model, true));
  ok(np_model_read_loss(b->model, &sum));
  assert_true(fabs(sum / (double)np_model_targets(&small, BATCH, prefix) - normalised) <= 1e-5 * normalised);
  free(raw);
  unmake(b);
}

static void the_plan_is_what_a_small_model_takes(void **state) {
  (void)state;
  np_memory_plan train_plan, infer_plan;
  ok(np_model_plan(&small, &(np_model_options){.batch = BATCH, .head = true, .train = true}, NP_BF16, &train_plan));
  ok(np_model_plan(&small, &(np_model_options){.batch = BATCH}, NP_BF16, &infer_plan));
  assert_int_equal(train_plan.total, train_plan.weights + train_plan.low + train_plan.gradients + train_plan.moments +
                                         train_plan.activations + train_plan.batch);
  assert_int_equal(train_plan.low * 2, train_plan.weights);
  assert_int_equal(train_plan.moments, 2 * train_plan.weights);
  assert_true(infer_plan.activations < train_plan.activations && infer_plan.gradients == 0 && infer_plan.moments == 0);
}

/* AIM-0.6B: 1.7 TFLOP an image in the reference's count, as model.md has it. */
static void flops_match_the_formula(void **state) {
  (void)state;
  np_recipe_model m = aim_600m;
  double D = 1536, E = 2048, values = 588, pairs = 0;
  for (int S = 1; S <= 255; S++)
    for (int i = 0; i < 256; i++) pairs += (i + 1 > S ? i + 1 : S) / 255.0;
  double matrices = 6 * 256 * (12 * 24 * D * D + 8 * 12 * E * E + D * E + E * values + values * D);
  double expected = matrices + 12 * 24 * D * pairs;
  double got = np_model_flops(&m, (int[]){1, 255}, true);
  assert_true(fabs(got - expected) <= 1e-9 * expected);
  assert_true(got > 1.6e12 && got < 1.8e12);
  assert_true(np_model_flops(&m, (int[]){1, 255}, false) < got);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(targets_count_patches_behind_the_prefix),
      cmocka_unit_test(predictions_see_what_the_mask_shows),
      cmocka_unit_test(loss_tokens_alone_give_the_same_loss_and_gradients),
      cmocka_unit_test(gradients_are_slopes_of_the_loss),
      cmocka_unit_test(micro_batches_add_up),
      cmocka_unit_test(equal_inputs_give_equal_bits),
      cmocka_unit_test(raw_and_normalised_pixels_agree),
      cmocka_unit_test(the_plan_is_what_a_small_model_takes),
      cmocka_unit_test(flops_match_the_formula),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
