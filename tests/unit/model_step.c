/* A training step in its forms: room for fewer loss tokens, and running as a recording, change no bit of loss and
 * gradients. */
#include "model/internal.h"
#include "unit/model_parts.h"
#include "unit/recorder.h"

#include <stdio.h>

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
    run_part(tight, &fits[i]);
    run_part(plain, &fits[i]);
    compare(tight, plain, "a head of 32 rows");
  }
  uint8_t bytes[BATCH * PIXELS];
  for (int i = 0; i < BATCH * PIXELS; i++) bytes[i] = (uint8_t)(31 * i);
  ok(np_model_step(tight->model, BATCH, bytes, crowded, 33));
  ok(np_model_feed(plain->model, 2, bytes, NULL, crowded));
  ok(np_model_train(plain->model, 33, true));
  ok(np_model_feed(plain->model, 1, bytes + (size_t)2 * PIXELS, NULL, crowded + 2));
  ok(np_model_train(plain->model, 33, false));
  compare(tight, plain, "a step cut where the head is too small");
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

/* ---- sizes ---- */

static np_model sized(const np_recipe_model *config, int batch, int step, int smallest, int largest) {
  np_model m = {.config = *config,
                .options = {.batch = batch,
                            .head = true,
                            .train = true,
                            .head_rows = np_model_head_rows(config, batch, (int[]){smallest, largest}),
                            .step = step,
                            .prefix = {smallest, largest}}};
  np_model_settle(&m);
  return m;
}

static bool listed(const np_model *m, const np_pass *pass) {
  for (int i = 0; i < m->recorded_count; i++)
    if (np_pass_same(&m->recorded[i].pass, pass)) return true;
  return false;
}

/* Sizes are at least the rows, as few more as said, and any number that may come and fits the head has one that is
 * listed. */
static void check_sizes(const np_recipe_model *config, int batch, int step, int smallest, int largest, int most) {
  np_model m = sized(config, batch, step, smallest, largest);
  const int64_t each_least = np_model_targets(config, 1, &largest), each_most = np_model_targets(config, 1, &smallest);
  ok(np_model_list_passes(&m, true));
  assert_in_range(m.recorded_count, 1, most);
  for (int halves = 1; halves <= 2; halves++) {
    const int count = (batch + halves - 1) / halves;
    const np_row_sizes sizes = np_model_row_sizes(&m, count);
    bool cut = batch * each_most > m.options.head_rows;
    int64_t all = (int64_t)count * np_model_tokens(&m);
    assert_int_equal(sizes.most, all < m.options.head_rows ? all : m.options.head_rows);
    for (int64_t rows = 1, size; rows <= sizes.most; rows++) {
      size = np_row_size(&sizes, rows);
      assert_true(size >= rows && size <= sizes.most && np_row_size(&sizes, size) == size);
      if (rows > sizes.least && rows <= sizes.fine) assert_true(size < rows + sizes.step);
      if (rows < count * each_least || rows > count * each_most || (count < batch && !cut)) continue;
      for (int first = 0; first < 2; first++)
        if (first || step > batch)
          assert_true(listed(&m, &(np_pass){.count = count, .rows = size, .first = first, .bytes = true}));
    }
  }
}

static void sizes_are_few_and_fine_where_passes_are(void **state) {
  (void)state;
  const np_recipe_model m = {.image_size = {224, 224}, .channels = 3, .patch_size = 14};
  const np_model one = sized(&m, 256, 256, 1, 255);
  const np_row_sizes sizes = np_model_row_sizes(&one, 256); /* 32768 ± 1178 */
  assert_true(sizes.step == 512 && sizes.least == 28160 && sizes.fine == 37888 && sizes.most == 40960);
  check_sizes(&m, 256, 256, 1, 255, 23);
  check_sizes(&m, 64, 256, 1, 255, 60);
  check_sizes(&m, 255, 510, 1, 255, 60);
  check_sizes(&m, 1, 8, 0, 255, 60);
  check_sizes(&m, 128, 128, 0, 0, 1); /* causal: always as many */
  check_sizes(&m, 1024, 4096, 100, 200, 60);
  check_sizes(&small, 3, 3, 1, N - 1, 8);
  np_model odd = sized(&m, 96, 256, 1, 255);
  assert_int_equal(np_model_list_passes(&odd, true), NP_ERR_ARGUMENT);
}

/* The passes that `count` images come to: one, or those of their halves. */
static void check_cut(const np_model *m, int count, const int32_t *prefix, bool first) {
  const np_row_sizes sizes = np_model_row_sizes(m, count);
  const int half = (count + 1) / 2;
  int64_t size = np_row_size(&sizes, np_model_targets(&m->config, count, prefix));
  if (count > 1 && size > m->options.head_rows) {
    check_cut(m, half, prefix, first);
    check_cut(m, count - half, prefix + half, false);
  } else if (!listed(m, &(np_pass){.count = count, .rows = size, .first = first, .bytes = true})) {
    fail_msg("%d of %d images with prefixes of %d..%d: %lld rows, first %d, are not listed", count, m->options.batch,
             m->options.prefix[0], m->options.prefix[1], (long long)size, first);
  }
}

/* Whatever is drawn: the first images' prefixes small, the others' large, in every share, and any mixture. */
static void check_draws(const np_recipe_model *config, int batch, int smallest, int largest) {
  np_model m = sized(config, batch, 2 * batch, smallest, largest);
  int32_t *prefix = malloc((size_t)batch * sizeof *prefix);
  assert_non_null(prefix);
  if (np_model_list_passes(&m, true) != NP_OK)
    fail_msg("%d images, prefixes %d..%d: %s", batch, smallest, largest, np_error_message());
  for (int small_ones = 0; small_ones <= batch; small_ones++)
    for (int kind = 0; kind < 3; kind++) {
      for (int i = 0; i < batch; i++) {
        bool is_small = kind == 0 ? i < small_ones : kind == 1 ? i >= batch - small_ones : false;
        int any = (int)(noise((uint32_t)(batch * small_ones + i)) * 0x1p14f + 0x1p14f);
        prefix[i] = kind == 2 ? smallest + any % (largest - smallest + 1) : is_small ? smallest : largest;
      }
      for (int first = 0; first < 2; first++) check_cut(&m, batch, prefix, first);
    }
  free(prefix);
}

/* No recipe has more passes than there is room for: ranges wide and narrow, batches odd and even. */
static void every_pass_of_any_recipe_is_listed(void **state) {
  (void)state;
  static const int batches[] = {1, 2, 3, 5, 7, 31, 64, 85, 127, 425, 1023};
  static const int ranges[][2] = {{0, 255},   {1, 255},   {0, 0},     {0, 1},     {1, 1},     {0, 2},   {1, 2},
                                  {240, 255}, {254, 255}, {255, 255}, {100, 200}, {128, 130}, {1, 128}, {17, 40}};
  const np_recipe_model m = {.image_size = {224, 224}, .channels = 3, .patch_size = 14};
  for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
    for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++) check_draws(&m, batches[b], ranges[r][0], ranges[r][1]);
  for (int batch = 1; batch < 40; batch++)
    for (int smallest = 0; smallest < N; smallest++)
      for (int largest = smallest; largest < N; largest++) check_draws(&small, batch, smallest, largest);
}

/* Where the prefixes are not known: at most 32 sizes. */
static void sizes_of_any_pass(void **state) {
  (void)state;
  np_model m = {.config = small, .options = {.batch = 300, .head = true, .train = true}};
  np_model_settle(&m);
  const np_row_sizes sizes = np_model_row_sizes(&m, 300), least = np_model_row_sizes(&m, 1);
  assert_true(np_row_size(&sizes, 1) == 112 && np_row_size(&sizes, 113) == 224 && np_row_size(&sizes, 3599) == 3600);
  assert_true(np_row_size(&least, 1) == 12 && np_row_size(&least, 12) == 12);
}

/* ---- recordings ---- */

static bed *recording_bed(recorder **r) {
  np_ops *inner;
  ok(np_ops_cpu(NP_F32, 0, &inner));
  *r = recorder_make(inner);
  return make_on(&(*r)->table, &small, (np_model_options){.step = 2 * BATCH, .prefix = {1, N - 1}});
}

static bed *plain_bed(void) {
  np_ops *ops;
  ok(np_ops_cpu(NP_F32, 0, &ops));
  return make_on(ops, &small, (np_model_options){.step = 2 * BATCH, .prefix = {1, N - 1}});
}

/* Whatever prefixes come: overwritten or added, many loss tokens or few. */
static const part batches[] = {
    {0, 3, false, true, {2, 1, 1}},   {0, 3, false, false, {2, 1, 2}}, {0, 3, false, true, {3, 5, 1}},
    {0, 3, false, false, {2, 6, 3}},  {0, 3, false, true, {1, 1, 1}},  {0, 3, false, true, {9, 11, 11}},
    {0, 3, false, false, {9, 10, 9}}, {0, 3, false, true, {8, 4, 3}},  {0, 3, false, true, {11, 11, 11}},
};

static void replays_change_no_bit(void **state) {
  (void)state;
  recorder *r;
  bed *recorded = recording_bed(&r), *plain = plain_bed();
  int count = (int)(sizeof batches / sizeof *batches);
  ok(np_model_prepare(recorded->model, false));
  int direct = r->direct, begun = r->begun, allocated = r->allocated;
  assert_int_equal(begun, np_model_recordings(recorded->model));
  assert_true(begun > 2 && r->replayed == 0);
  for (int i = 0; i < count; i++) {
    char what[32];
    snprintf(what, sizeof what, "batch %d", i);
    run_part(recorded, &batches[i]);
    run_part(plain, &batches[i]);
    compare(recorded, plain, what);
  }
  assert_int_equal(r->replayed, count);
  assert_true(r->begun == begun && r->direct == direct && r->allocated == allocated);
  unmake(recorded);
  unmake(plain);
}

/* Nothing is hidden: a pass that was not prepared is an error that names it. */
static void another_pass_is_an_error(void **state) {
  (void)state;
  recorder *r;
  bed *b = recording_bed(&r), *unknown = make(NP_F32, false, NP_HEAD_L3M);
  ok(np_model_prepare(b->model, false));
  ok(np_model_feed(b->model, 2, NULL, b->images, batches[0].prefix));
  assert_int_equal(np_model_train(b->model, 17, true), NP_ERR_ARGUMENT);
  assert_non_null(strstr(np_error_message(), "a pass of 2 images as floats with 24 rows for loss tokens"));
  assert_non_null(strstr(np_error_message(), "was not prepared"));
  ok(np_model_prepare(unknown->model, false)); /* a backend without recordings: nothing to do */
  assert_int_equal(np_model_recordings(unknown->model), 0);
  assert_int_equal(np_model_train(b->model, 17, true), NP_ERR_ARGUMENT);
  unmake(b);
  unmake(unknown);
}

/* A recording that fails once is made again behind a pass that runs as it is; one that fails twice is an error that
 * says why. */
static void a_failed_recording_is_an_error(void **state) {
  (void)state;
  recorder *r;
  bed *recorded = recording_bed(&r), *plain = plain_bed();
  r->fail_at = 9;
  r->failures = 2;
  assert_int_equal(np_model_prepare(recorded->model, false), NP_ERR_LIBRARY);
  assert_non_null(strstr(np_error_message(), "while recording a pass of 3 images as floats with 16 rows"));
  assert_non_null(strstr(np_error_message(), "the double fails as asked"));
  assert_true(r->begun == 2 && r->forgotten == 2 && np_model_recordings(recorded->model) == 0);
  r->failures = 1;
  ok(np_model_prepare(recorded->model, false));
  assert_int_equal(r->begun, 2 + np_model_recordings(recorded->model) + 1);
  run_part(recorded, &batches[0]);
  run_part(plain, &batches[0]);
  compare(recorded, plain, "after the failure");
  assert_int_equal(r->replayed, 1);
  unmake(recorded);
  unmake(plain);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sizes_are_few_and_fine_where_passes_are),
      cmocka_unit_test(every_pass_of_any_recipe_is_listed),
      cmocka_unit_test(sizes_of_any_pass),
      cmocka_unit_test(replays_change_no_bit),
      cmocka_unit_test(another_pass_is_an_error),
      cmocka_unit_test(a_failed_recording_is_an_error),
      cmocka_unit_test(a_small_head_changes_no_bit),
      cmocka_unit_test(the_head_has_room_for_the_loss_tokens),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
