/* The gradients in slices: each is complete when it is said to be. */
#include "unit/model_parts.h"

#include "optim/optimiser.h"

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

static bed *make_sliced(int turn, int ranks, int rank, int64_t bytes, np_dtype act) {
  np_recipe_model config = small;
  np_ops *ops;
  config.head_block = turn % 2 ? NP_HEAD_MLP : NP_HEAD_L3M;
  ok(np_ops_cpu(act, 0, &ops));
  return make_on(ops, &config, (np_model_options){.slice_bytes = bytes, .ranks = ranks, .rank = rank});
}

static void assert_complete(bed *b, int count) {
  const np_slice *s = np_model_slices(b->model, &count);
  float *end = malloc((size_t)b->total * sizeof *end);
  ok(b->ops->download(b->ops, end, np_model_gradients(b->model), (size_t)b->total * sizeof *end));
  for (int k = 0; k < count; k++)
    if (memcmp(seen.then[k], end + s[k].offset, (size_t)s[k].count * sizeof *end) != 0)
      fail_msg("slice %d of %d was not complete when it was signalled", k, count);
  free(end);
}

/* Slices of every size, and both kinds of head block: signalled in order, with the bits that they have in the end. With
 * ranks that share them, too. */
static void complete_when_signalled(void **state) {
  static const int64_t bytes[] = {1, 20000, 60000, 1 << 30};
  static const int ranks[] = {1, 2, 5};
  const int32_t prefix[BATCH] = {2, 5, 4};
  (void)state;
  for (int i = 0; i < 24; i++) {
    static int last;
    bed *b = make_sliced(i, ranks[i / 8], 1, bytes[i / 2 % 4], NP_F32);
    int count;
    seen.model = b->model;
    b->ops->signal = note;
    one_behind_the_other(b->model, &count);
    for (int pass = 0; pass < 2; pass++) {
      forget();
      ok(np_model_feed(b->model, BATCH, NULL, b->images, prefix));
      ok(np_model_train(b->model, 25, pass == 0));
      assert_int_equal(seen.signals, count);
    }
    assert_complete(b, count);
    forget();
    unmake(b);
    if (i == 0) assert_int_equal(count, 7); /* pred, two head blocks, projection, two blocks, patchifier and vectors */
    assert_true(i % 8 < 2 || count <= last);
    if (i % 8 == 7) assert_int_equal(count, i < 8 ? 1 : 2);
    last = i % 2 ? count : last > count ? last : count;
  }
}

/* Every matrix in exactly one rank's pieces or in all; vectors in all. */
static void pieces_are_everything(void **state) {
  static const int64_t bytes[] = {1, 20000, 1 << 30};
  (void)state;
  for (int i = 0; i < 12; i++) {
    const int ranks = i / 3 + 2;
    unsigned char owners[1 << 17] = {0};
    int64_t kept = 0;
    for (int rank = 0; rank < ranks; rank++) {
      bed *b = make_sliced(i, ranks, rank, bytes[i % 3], NP_F32);
      const np_pieces *p = np_model_pieces(b->model);
      const np_params *table = np_model_params(b->model);
      int64_t sum = 0;
      assert_true(p->ranks == ranks && p->rank == rank && table->total <= (int64_t)sizeof owners);
      for (int k = 0; k < p->count; k++) {
        sum += p->items[k].count;
        for (int64_t j = 0; j < p->items[k].count; j++) owners[p->items[k].offset + j]++;
      }
      assert_true(sum == p->kept && (rank == 0 || sum == kept)); /* the same memory on each */
      kept = sum;
      for (int k = 0; rank == ranks - 1 && k < table->count; k++) {
        const np_param *param = &table->items[k];
        for (int64_t j = 0; j < param->count; j++) {
          const int n = owners[param->offset + j];
          assert_true(n == ranks || (n == 1 && param->role == NP_PARAM_MATRIX));
        }
      }
      assert_true(kept < table->total / ranks + 64 * ranks + 4096);
      unmake(b);
    }
  }
}

/* A model that keeps pieces of its float32 weights computes what one does that keeps all, to the bit. */
static void pieces_suffice(void **state) {
  const int32_t prefix[BATCH] = {2, 5, 4};
  (void)state;
  if (!np_cpu_has_bf16()) skip();
  for (int i = 0; i < 4; i++) {
    bed *all = make_sliced(i, 1, 0, 1, NP_BF16), *pieces = make_sliced(i, 3, i % 3, 1, NP_BF16);
    const size_t bytes = (size_t)all->total * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    assert_true(train(all, prefix, want) == train(pieces, prefix, got));
    assert_memory_equal(got, want, bytes);
    assert_int_equal(np_model_get_weights(pieces->model, got), NP_ERR_ARGUMENT);
    free(want);
    free(got);
    unmake(all);
    unmake(pieces);
  }
}

/* What operators hand out from here on. */
static struct {
  np_status (*alloc)(np_ops *ops, size_t bytes, void **out);
  size_t bytes;
} taken;

static np_status take(np_ops *ops, size_t bytes, void **out) {
  taken.bytes += bytes;
  return taken.alloc(ops, bytes, out);
}

/* The plan of a rank is what its model and optimiser take. */
static void planned(void **state) {
  static const np_recipe_optim optim = {.betas = {0.9, 0.95}, .eps = 1e-8};
  (void)state;
  for (int i = 0; i < 12; i++) {
    const np_dtype act = i % 2 && np_cpu_has_bf16() ? NP_BF16 : NP_F32;
    const int ranks = i / 2 + 1;
    const np_model_options options = {
        .batch = 2, .head = true, .train = true, .slice_bytes = 20000, .ranks = ranks, .rank = ranks - 1};
    np_memory_plan plan;
    np_ops *ops;
    np_model *model;
    np_optimiser *optimiser;
    ok(np_ops_cpu(act, 1, &ops));
    ok(np_model_plan(&small, &options, act, &plan));
    taken.alloc = ops->alloc, taken.bytes = 0;
    ops->alloc = take;
    ok(np_model_create(ops, &small, &options, &model));
    assert_int_equal(taken.bytes, plan.total - plan.moments);
    ok(np_optimiser_create(ops, np_model_params(model), np_model_pieces(model), &optim, &optimiser));
    assert_int_equal(taken.bytes, plan.total + sizeof(np_adamw_state));
    if (ranks > 1) assert_true(plan.moments < 2 * plan.gradients && (act == NP_F32 || plan.weights < plan.gradients));
    np_optimiser_destroy(optimiser);
    np_model_destroy(model);
    ops->destroy(ops);
  }
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
      cmocka_unit_test(complete_when_signalled), cmocka_unit_test(pieces_are_everything),
      cmocka_unit_test(pieces_suffice),          cmocka_unit_test(planned),
      cmocka_unit_test(silent_when_not_asked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
