/* A training step in its forms: what the backward pass makes again, and what runs as a recording, changes no bit of
 * loss and gradients. */
#include "unit/model_bed.h"
#include "unit/recorder.h"

#include <stdio.h>

/* One micro-batch of a step: images `from` .. from + count. */
typedef struct part {
  int from, count;
  bool bytes, first;
  int32_t prefix[BATCH];
} part;

static void run_part(bed *b, const part *p) {
  static uint8_t bytes[BATCH * PIXELS];
  for (int i = 0; i < BATCH * PIXELS; i++) bytes[i] = (uint8_t)(127.5f + 127.5f * noise(5u * (uint32_t)i));
  const size_t at = (size_t)p->from * PIXELS;
  ok(np_model_feed(b->model, p->count, p->bytes ? bytes + at : NULL, p->bytes ? NULL : b->images + at, p->prefix));
  ok(np_model_train(b->model, 17, p->first));
}

/* Loss and gradients so far, compared in bits. */
static void compare(bed *a, bed *b, const char *what) {
  double x, y;
  float *p = malloc((size_t)a->total * sizeof *p), *q = malloc((size_t)b->total * sizeof *q);
  ok(np_model_read_loss(a->model, &x));
  ok(np_model_read_loss(b->model, &y));
  ok(a->ops->download(a->ops, p, np_model_gradients(a->model), (size_t)a->total * sizeof *p));
  ok(b->ops->download(b->ops, q, np_model_gradients(b->model), (size_t)b->total * sizeof *q));
  if (memcmp(&x, &y, sizeof x)) fail_msg("%s: losses %.17g and %.17g", what, x, y);
  for (int64_t i = 0; i < a->total; i++)
    if (memcmp(p + i, q + i, sizeof *p))
      fail_msg("%s: gradient %lld is %.9g and %.9g", what, (long long)i, (double)p[i], (double)q[i]);
  free(p);
  free(q);
}

/* Two steps, the first of two micro-batches; what the second finds in the buffers is the first's. */
static const part two_steps[] = {
    {0, 2, false, true, {1, 7}}, {2, 1, true, false, {4}}, {0, 3, true, true, {N - 1, 2, N}}};

static void compare_recompute(np_dtype act, np_head_block block, int head_blocks, bool all_tokens, int recompute) {
  char what[80];
  np_recipe_model config = small;
  np_ops *ops[2];
  config.blocks = 3;
  config.head_blocks = head_blocks;
  config.head_block = block;
  for (int i = 0; i < 2; i++) ok(np_ops_cpu(act, 0, &ops[i]));
  bed *kept = make_on(ops[0], &config, (np_model_options){.all_tokens = all_tokens});
  bed *again =
      make_on(ops[1], &config, (np_model_options){.all_tokens = all_tokens, .recompute = (np_recompute)recompute});
  snprintf(what, sizeof what, "act %d, head block %d × %d, all tokens %d, recompute %d", act, block, head_blocks,
           all_tokens, recompute);
  for (size_t i = 0; i < sizeof two_steps / sizeof *two_steps; i++) {
    run_part(kept, &two_steps[i]);
    run_part(again, &two_steps[i]);
    compare(kept, again, what);
  }
  unmake(kept);
  unmake(again);
}

static void recomputing_changes_no_bit(void **state) {
  (void)state;
  for (int act = 0; act < 1 + np_cpu_has_bf16(); act++)
    for (int block = NP_HEAD_MLP; block <= NP_HEAD_L3M; block++)
      for (int head_blocks = 1; head_blocks <= 3; head_blocks += 2)
        for (int all_tokens = 0; all_tokens < 2; all_tokens++)
          for (int recompute = NP_RECOMPUTE_GELU_NORM; recompute <= NP_RECOMPUTE_BLOCK; recompute++)
            compare_recompute(act ? NP_BF16 : NP_F32, (np_head_block)block, head_blocks, all_tokens, recompute);
}

/* Less and less memory, and the FLOPs that pay for it. */
static void recomputing_takes_less_memory(void **state) {
  (void)state;
  size_t before = SIZE_MAX;
  np_recipe_model config = small;
  config.blocks = config.head_blocks = 12;
  for (int recompute = NP_RECOMPUTE_NONE; recompute <= NP_RECOMPUTE_BLOCK; recompute++) {
    np_memory_plan plan;
    np_model_options options = {.batch = BATCH, .head = true, .train = true, .recompute = (np_recompute)recompute};
    ok(np_model_plan(&config, &options, NP_BF16, &plan));
    assert_true(plan.activations < before);
    before = plan.activations;
  }
  double forward = np_model_flops(&config, (int[]){1, N - 1}, false) / 3;
  double again = np_model_recompute_flops(&config, (int[]){1, N - 1}, NP_RECOMPUTE_BLOCK);
  assert_true(np_model_recompute_flops(&config, (int[]){1, N - 1}, NP_RECOMPUTE_GELU_NORM) == 0);
  assert_true(again > 0.4 * forward && again < forward);
}

/* ---- room for the loss tokens alone ---- */

/* A head with room for fewer rows: the same bits; images that do not find room go in smaller passes. */
static void a_small_head_changes_no_bit(void **state) {
  (void)state;
  static const part fits[] = {
      {0, 3, false, true, {2, 5, 4}}, {0, 3, true, false, {9, 11, 11}}, {1, 2, false, true, {3, N}}};
  const int32_t crowded[BATCH] = {1, 1, 1};
  np_ops *ops;
  ok(np_ops_cpu(NP_F32, 0, &ops));
  bed *tight = make_on(ops, &small, (np_model_options){.head_rows = 32}), *plain = make(NP_F32, false, NP_HEAD_L3M);
  for (size_t i = 0; i < sizeof fits / sizeof *fits; i++) {
    assert_int_equal(np_model_images(tight->model, fits[i].count, fits[i].prefix), fits[i].count);
    run_part(tight, &fits[i]);
    run_part(plain, &fits[i]);
    compare(tight, plain, "a head of 32 rows");
  }
  assert_int_equal(np_model_images(plain->model, 9, crowded), BATCH);
  assert_int_equal(np_model_images(tight->model, BATCH, crowded), 2);
  assert_int_equal(np_model_images(tight->model, 1, crowded), 1);
  assert_int_equal(np_model_feed(tight->model, BATCH, NULL, tight->images, crowded), NP_ERR_ARGUMENT);
  assert_int_equal(np_model_train(tight->model, 17, true), NP_ERR_ARGUMENT);
  unmake(tight);
  unmake(plain);
}

static void the_head_has_room_for_the_loss_tokens(void **state) {
  (void)state;
  const np_recipe_model m = {.image_size = {224, 224}, .channels = 3, .patch_size = 14};
  /* 256 images: 128 ± 73.6 tokens each, 32768 ± 1178 together */
  int64_t rows = np_model_head_rows(&m, 256, (int[]){1, 255});
  assert_true(rows >= 32768 + 6 * 1177 && rows <= 32768 + 6 * 1178 + 2048 && rows % 2048 == 0);
  assert_int_equal(np_model_head_rows(&m, 256, (int[]){0, 0}), 256 * 256); /* causal: every token but the last */
  assert_int_equal(np_model_head_rows(&m, 1, (int[]){1, 255}), 256);
  assert_int_equal(np_model_head_rows(&m, 1, (int[]){255, 255}), 256);
}

/* ---- recordings ---- */

static bed *recording_bed(int batch, recorder **r) {
  np_ops *inner;
  ok(np_ops_cpu(NP_F32, 0, &inner));
  *r = recorder_make(inner);
  return make_on(&(*r)->table, &small, (np_model_options){.batch = batch});
}

/* Batches of few shapes: prefixes whose loss tokens round to the same number, other images, bytes or floats, first or
 * added. */
static const part batches[] = {
    {0, 3, false, true, {2, 1, 1}},   {0, 3, false, true, {2, 2, 3}},  {0, 3, false, true, {3, 5, 1}},
    {0, 3, false, false, {2, 1, 2}},  {0, 3, false, false, {4, 1, 2}}, {0, 3, false, false, {2, 6, 3}},
    {0, 1, false, true, {3}},         {1, 1, false, true, {4}},        {2, 1, false, true, {5}},
    {0, 3, true, true, {2, 3, 4}},    {0, 3, true, true, {2, 1, 1}},   {0, 3, true, true, {4, 1, 2}},
    {0, 3, false, true, {9, 11, 11}}, {0, 3, false, true, {9, 10, 9}}, {0, 3, false, true, {2, 1, 1}},
};

static void replays_change_no_bit(void **state) {
  (void)state;
  recorder *r;
  bed *recorded = recording_bed(BATCH, &r), *plain = make(NP_F32, false, NP_HEAD_L3M);
  int count = (int)(sizeof batches / sizeof *batches), direct_before = r->direct;
  for (int i = 0; i < count; i++) {
    char what[32];
    snprintf(what, sizeof what, "batch %d", i);
    run_part(recorded, &batches[i]);
    run_part(plain, &batches[i]);
    compare(recorded, plain, what);
  }
  assert_int_equal(r->begun, 5);            /* five shapes, each seen twice at least */
  assert_int_equal(r->replayed, count - 5); /* the first time of each runs as it is */
  int direct = r->direct - direct_before;
  run_part(recorded, &batches[0]);
  assert_int_equal(r->direct - direct_before, direct);
  unmake(recorded);
  unmake(plain);
}

/* Nothing is hidden: a recording that fails is an error that says why, and no half of it is kept. */
static void a_failed_recording_is_an_error(void **state) {
  (void)state;
  recorder *r;
  bed *recorded = recording_bed(BATCH, &r), *plain = make(NP_F32, false, NP_HEAD_L3M);
  run_part(recorded, &batches[0]);
  r->fail_at = 9;
  ok(np_model_feed(recorded->model, BATCH, NULL, recorded->images, batches[0].prefix));
  assert_int_equal(np_model_train(recorded->model, 17, true), NP_ERR_LIBRARY);
  assert_non_null(strstr(np_error_message(), "while recording a training step: the double fails as asked"));
  assert_true(r->begun == 1 && r->forgotten == 1 && r->replayed == 0);
  r->fail_at = 0;
  run_part(recorded, &batches[0]);
  run_part(plain, &batches[0]);
  compare(recorded, plain, "after the failure");
  assert_int_equal(r->replayed, 1);
  unmake(recorded);
  unmake(plain);
}

/* More shapes than recordings are kept: the one used longest ago goes, and comes again. */
static void the_oldest_recording_makes_room(void **state) {
  (void)state;
  enum { MANY = 48 };
  recorder *r;
  static float images[MANY * PIXELS];
  int32_t prefix[MANY];
  bed *b = recording_bed(MANY, &r);
  float *first = malloc((size_t)b->total * sizeof *first), *second = malloc((size_t)b->total * sizeof *second);
  for (int i = 0; i < MANY * PIXELS; i++) images[i] = noise(3u + (uint32_t)i);
  for (int i = 0; i < MANY; i++) prefix[i] = 1 + i % 5;
  for (int round = 0; round < 2; round++) { /* 96 shapes lie between the two */
    for (int time = 0; time < 2; time++) {
      ok(np_model_feed(b->model, MANY, NULL, images, prefix));
      ok(np_model_train(b->model, 100, true));
    }
    ok(b->ops->download(b->ops, round ? second : first, np_model_gradients(b->model),
                        (size_t)b->total * sizeof *first));
    for (int count = 1; count < MANY && round == 0; count++)
      for (int added = 0; added < 2; added++) {
        ok(np_model_feed(b->model, count, NULL, images, prefix));
        ok(np_model_train(b->model, 100, !added));
      }
  }
  assert_true(r->begun == 2 && r->replayed == 2 && r->forgotten == 1);
  assert_memory_equal(first, second, (size_t)b->total * sizeof *first);
  free(first);
  free(second);
  unmake(b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(recomputing_changes_no_bit),
      cmocka_unit_test(recomputing_takes_less_memory),
      cmocka_unit_test(replays_change_no_bit),
      cmocka_unit_test(a_failed_recording_is_an_error),
      cmocka_unit_test(the_oldest_recording_makes_room),
      cmocka_unit_test(a_small_head_changes_no_bit),
      cmocka_unit_test(the_head_has_room_for_the_loss_tokens),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
