/* A model that was prepared: whatever sizes its passes have, steps take nothing from the backend any more, and compute
 * the bits of a model that runs every pass as it comes. On the CPU the backend is a double that records. */
#include "ops_harness.h"
#include "unit/model_bed.h"
#include "unit/recorder.h"

enum { IMAGES = 8, STEP = 2 * IMAGES, STEPS = N - 1 };

static uint8_t pixels[STEP * PIXELS];
static int32_t prefix[STEPS][STEP];

/* Steps of every number of loss tokens: few, many, and more than the head has room for. */
static void make_steps(void) {
  for (int i = 0; i < STEP * PIXELS; i++) pixels[i] = (uint8_t)(127.5f + 127.5f * noise(3u * (uint32_t)i));
  for (int step = 0; step < STEPS; step++)
    for (int i = 0; i < STEP; i++) prefix[step][i] = step + 1;
}

static np_model *make_model(np_ops *ops, float *weights) {
  np_model *model;
  const np_model_options options = {
      .batch = IMAGES, .head = true, .train = true, .head_rows = 64, .step = STEP, .prefix = {1, N - 1}};
  ok(np_model_create(ops, &small, &options, &model));
  np_params_init(np_model_params(model), 5, weights);
  ok(np_model_set_weights(model, weights));
  return model;
}

/* Gradients of a step, [total] on the host, and its loss behind them. */
static void run_step(np_model *model, np_ops *ops, int step, float *out) {
  int64_t total = np_model_params(model)->total;
  double loss;
  ok(np_model_step(model, STEP, pixels, prefix[step], np_model_targets(&small, STEP, prefix[step])));
  ok(np_model_read_loss(model, &loss));
  ok(ops->download(ops, out, np_model_gradients(model), (size_t)total * sizeof *out));
  memcpy(out + total, &loss, sizeof loss);
}

/* What a backend took so far, in its own counts. */
typedef struct account {
  size_t memory;
  int allocations, recordings, direct, plans;
} account;

static account account_of(np_ops *ops) {
  account a = {0};
#ifdef NP_TEST_CUDA
  int c;
  FILE *to = tmpfile();
  assert_non_null(to);
  np_cuda_matmul_print(ops, to);
  rewind(to);
  while ((c = fgetc(to)) != EOF) a.plans += c == '\n';
  fclose(to);
  ok(ops->available(ops, &a.memory));
#else
  const recorder *r = recorder_of(ops);
  a = (account){.allocations = r->allocated, .recordings = r->begun, .direct = r->direct};
#endif
  return a;
}

static void nothing_is_taken(harness *h) {
  int64_t total;
  np_params params;
  np_ops *ops = h->ops;
#ifndef NP_TEST_CUDA
  recorder *r = recorder_make(h->ops);
  ops = &r->table;
#endif
  make_steps();
  ok(np_params_layout(&small, true, &params));
  total = params.total;
  np_params_free(&params);
  size_t each = (size_t)total + sizeof(double) / sizeof(float);
  float *got = malloc((STEPS + 1) * each * sizeof *got), *other = got + STEPS * each;
  assert_non_null(got);

  np_model *model = make_model(ops, other); /* before the other: what it needs must not stand there already */
  ok(np_model_prepare(model, true));
  assert_true(np_model_recordings(model) > 4);
  account before = account_of(ops);
  for (int step = 0; step < STEPS; step++) {
    run_step(model, ops, step, got + (size_t)step * each);
    const account after = account_of(ops);
    if (step == 0) before.memory = after.memory; /* a driver may still have taken something for the first */
    if (memcmp(&before, &after, sizeof before))
      fail_msg(
          "%s: prefix %d: %zu bytes are left of %zu; %d allocations, %d recordings, %d operations and %d plans more",
          h->form, step + 1, after.memory, before.memory, after.allocations - before.allocations,
          after.recordings - before.recordings, after.direct - before.direct, after.plans - before.plans);
  }
  np_model_destroy(model);

  np_model *plain = make_model(ops, other);
  for (int step = 0; step < STEPS; step++) {
    run_step(plain, ops, step, other);
    if (memcmp(got + (size_t)step * each, other, each * sizeof *other)) fail_msg("%s: prefix %d", h->form, step + 1);
  }
  np_model_destroy(plain);
  free(got);
#ifndef NP_TEST_CUDA
  free(r); /* the harness closes what it opened */
#endif
}

H_TEST(test_nothing_is_taken, nothing_is_taken)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing_is_taken)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
