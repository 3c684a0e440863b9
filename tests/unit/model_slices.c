/* The gradients in slices: each is complete when it is said to be. */
#include "unit/model_parts.h"

#include <stdio.h>

enum { MOST = 64 };

/* What stood in each slice when it was signalled; the operators' table has no place for more than a function. */
static struct {
  np_model *model;
  int signals;
  float *then[MOST];
} seen;

static np_status note(np_ops *ops, int signal) {
  int count;
  const np_slice *s = np_model_slices(seen.model, &count);
  assert_true(signal == seen.signals && signal < count);
  const size_t bytes = (size_t)s[signal].count * sizeof(float);
  seen.then[signal] = malloc(bytes);
  seen.signals++;
  return ops->download(ops, seen.then[signal], np_model_gradients(seen.model) + s[signal].offset, bytes);
}

static void forget(void) {
  for (int i = 0; i < seen.signals; i++) free(seen.then[i]);
  seen.signals = 0;
}

static void one_behind_the_other(const np_model *model, int *count) {
  const np_slice *s = np_model_slices(model, count);
  int64_t end = 0;
  for (int i = 0; i < *count; i++) {
    assert_true(s[i].offset == end && s[i].count > 0);
    end += s[i].count;
  }
  assert_int_equal(end, np_model_params(model)->total);
}

/* Slices of every size, and both kinds of head block: signalled in order, with the bits that they have in the end. */
static void complete_when_signalled(void **state) {
  static const int64_t bytes[] = {1, 20000, 60000, 1 << 30};
  const int32_t prefix[BATCH] = {2, 5, 4};
  int last = MOST;
  (void)state;
  for (int i = 0; i < 8; i++) {
    np_recipe_model config = small;
    np_ops *ops;
    int count;
    config.head_block = i % 2 ? NP_HEAD_MLP : NP_HEAD_L3M;
    ok(np_ops_cpu(NP_F32, 0, &ops));
    bed *b = make_on(ops, &config, (np_model_options){.slice_bytes = bytes[i / 2]});
    seen.model = b->model;
    ops->signal = note;
    one_behind_the_other(b->model, &count);
    for (int pass = 0; pass < 2; pass++) {
      forget();
      ok(np_model_feed(b->model, BATCH, NULL, b->images, prefix));
      ok(np_model_train(b->model, 25, pass == 0));
      assert_int_equal(seen.signals, count);
    }
    float *end = malloc((size_t)b->total * sizeof *end);
    ok(ops->download(ops, end, np_model_gradients(b->model), (size_t)b->total * sizeof *end));
    const np_slice *s = np_model_slices(b->model, &count);
    for (int k = 0; k < count; k++)
      if (memcmp(seen.then[k], end + s[k].offset, (size_t)s[k].count * sizeof *end) != 0)
        fail_msg("slice %d of %d was not complete when it was signalled", k, count);
    forget();
    free(end);
    unmake(b);
    if (i == 0) assert_int_equal(count, 8); /* pred, two head blocks, projection, norm, two blocks, patchifier */
    assert_true(count <= last);
    last = i % 2 ? count : last;
  }
  assert_int_equal(last, 1);
}

/* Nobody waits: no signal. */
static void silent_when_not_asked(void **state) {
  const int32_t prefix[BATCH] = {2, 5, 4};
  np_ops *ops;
  int count;
  (void)state;
  ok(np_ops_cpu(NP_F32, 0, &ops));
  bed *b = make_on(ops, &small, (np_model_options){0});
  seen.model = b->model;
  ops->signal = note;
  one_behind_the_other(b->model, &count);
  assert_int_equal(count, 1);
  ok(np_model_feed(b->model, BATCH, NULL, b->images, prefix));
  ok(np_model_train(b->model, 25, true));
  assert_int_equal(seen.signals, 0);
  unmake(b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(complete_when_signalled),
      cmocka_unit_test(silent_when_not_asked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
