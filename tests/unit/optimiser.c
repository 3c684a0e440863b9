/* AdamW with clipping, against PyTorch's own numbers (torch.optim.AdamW after clip_grad_norm_, float64) and its rules.
 */
#include "unit/recorder.h"
#include "unit/temp.h"

#include "optim/optimiser.h"

#include <math.h>
#include <string.h>

/* Two matrices with a bias between them: decay changes from slice to slice, and each slice is followed by a gap. */
enum { TOTAL = 256, A = 0, B = 64, C = 128, COUNT_A = 6, COUNT_B = 3, COUNT_C = 70 };
static np_param items[] = {
    {.name = "a", .offset = A, .count = COUNT_A, .role = NP_PARAM_MATRIX},
    {.name = "b", .offset = B, .count = COUNT_B, .role = NP_PARAM_BIAS},
    {.name = "c", .offset = C, .count = COUNT_C, .role = NP_PARAM_MATRIX},
};
static const np_params params = {.count = 3, .items = items, .total = TOTAL, .elements = COUNT_A + COUNT_B + COUNT_C};
static const np_recipe_optim config = {.betas = {0.9, 0.95}, .eps = 1e-8, .weight_decay = 0.05, .grad_clip = 1.0};

static bool in_gap(int i) {
  for (int p = 0; p < 3; p++)
    if (i >= items[p].offset && i < items[p].offset + items[p].count) return false;
  return true;
}

/* w[i] = cos(i), g[i] = scale·sin(3 i + s) in step s; gaps 0. */
static void fill(float *weights, float *grads, double scale, int step) {
  for (int i = 0; i < TOTAL; i++) {
    if (weights) weights[i] = in_gap(i) ? 0 : (float)cos(i);
    grads[i] = in_gap(i) ? 0 : (float)(scale * sin(3.0 * i + step));
  }
}

static void assert_close(double got, double want, double tolerance) {
  if (!(fabs(got - want) <= tolerance * fmax(1e-3, fabs(want)))) fail_msg("%.9g, expected %.9g", got, want);
}

typedef struct fixture {
  np_ops *ops;
  np_optimiser *optimiser;
  float weights[TOTAL], grads[TOTAL];   /* the test's */
  float *device_weights, *device_grads; /* the operators' */
  np_step_outcome outcome;
} fixture;

static void open_on(fixture *f, np_ops *ops) {
  f->ops = ops;
  assert_ok(np_optimiser_create(ops, &params, NULL, &config, &f->optimiser));
  assert_ok(ops->alloc(ops, TOTAL * sizeof(float), (void **)&f->device_weights));
  assert_ok(ops->alloc(ops, TOTAL * sizeof(float), (void **)&f->device_grads));
}

static fixture open_fixture(void) {
  fixture f = {0};
  np_ops *ops;
  assert_ok(np_ops_cpu(NP_F32, 2, &ops));
  open_on(&f, ops);
  return f;
}

static void close_fixture(fixture *f) {
  np_optimiser_destroy(f->optimiser);
  f->ops->release(f->ops, f->device_weights);
  f->ops->release(f->ops, f->device_grads);
  f->ops->destroy(f->ops);
}

static void upload(fixture *f) {
  assert_ok(f->ops->upload(f->ops, f->device_weights, f->weights, sizeof f->weights));
  assert_ok(f->ops->upload(f->ops, f->device_grads, f->grads, sizeof f->grads));
}

static void step(fixture *f, double lr) {
  upload(f);
  assert_ok(np_optimiser_step(f->optimiser, &(np_optimised){f->device_weights, f->device_grads, NULL}, lr));
  assert_ok(np_optimiser_read(f->optimiser, &f->outcome));
  assert_ok(f->ops->download(f->ops, f->weights, f->device_weights, sizeof f->weights));
}

/* torch 2.15, float64; the second row with decay on everything */
static const double torch_norms[] = {5.95119235697, 0.0644528028312, 6.47179009519, 0.0595601526513, 6.36134021993};
static const double torch_weights[][6] = {
    {0.936063356153, 0.278090267205, 0.468252316688, -0.92573605326, -0.758653396927, -0.677151352613},
    {0.936063356153, 0.278090267205, 0.464975034187, -0.918600288951, -0.758653396927, -0.677151352613}};

static void as_torch(void **state) {
  static const int places[] = {A, A + 5, B, B + 2, C, C + 69};
  (void)state;
  for (int variant = 0; variant < 2; variant++) {
    fixture f = open_fixture();
    if (variant == 1) np_optimiser_decay_all(f.optimiser);
    for (int s = 0; s < 5; s++) {
      fill(s == 0 ? f.weights : NULL, f.grads, s % 2 ? 0.01 : 1.0, s); /* clipped, not clipped, … */
      upload(&f);
      assert_ok(np_optimiser_prepare(f.optimiser,
                                     &(np_optimised){f.device_weights, f.device_grads, NULL})); /* changes nothing */
      assert_ok(f.ops->download(f.ops, f.weights, f.device_weights, sizeof f.weights));
      step(&f, 1e-2 * (s + 1));
      assert_true(f.outcome.applied);
      assert_close(f.outcome.grad_norm, torch_norms[s], 1e-6);
    }
    for (int i = 0; i < 6; i++) assert_close(f.weights[places[i]], torch_weights[variant][i], 2e-6);
    for (int i = 0; i < TOTAL; i++)
      if (in_gap(i) && f.weights[i] != 0) fail_msg("the gap at %d holds %g", i, (double)f.weights[i]);
    close_fixture(&f);
  }
}

/* A non-finite gradient changes nothing, and the step after it is the one that would have come without it. */
static void non_finite(void **state) {
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  (void)state;
  for (int b = 0; b < 3; b++) {
    fixture f = open_fixture(), plain = open_fixture();
    fill(f.weights, f.grads, 1, 0);
    fill(plain.weights, plain.grads, 1, 0);
    step(&f, 0.01);
    step(&plain, 0.01);
    f.grads[C + 11] = bad[b];
    step(&f, 0.01);
    assert_false(f.outcome.applied);
    assert_false(isfinite(f.outcome.grad_norm));
    assert_int_equal(f.outcome.steps, 1);
    fill(NULL, f.grads, 1, 1);
    fill(NULL, plain.grads, 1, 1);
    step(&f, 0.01);
    step(&plain, 0.01);
    assert_true(f.outcome.applied);
    assert_memory_equal(f.weights, plain.weights, TOTAL * sizeof(float));
    close_fixture(&f);
    close_fixture(&plain);
  }
}

/* Moments and step count carried over to a new optimiser: the same bits as without the change. */
static void carried_over(void **state) {
  float first[TOTAL], second[TOTAL];
  (void)state;
  fixture whole = open_fixture(), before = open_fixture(), after = open_fixture();
  for (int s = 0; s < 4; s++) {
    fixture *half = s < 2 ? &before : &after;
    if (s == 2) {
      assert_ok(np_optimiser_get(before.optimiser, first, second));
      assert_ok(np_optimiser_set(after.optimiser, first, second, before.outcome.steps));
      memcpy(after.weights, before.weights, TOTAL * sizeof(float));
    }
    fill(s == 0 ? whole.weights : NULL, whole.grads, 1, s);
    fill(s == 0 ? half->weights : NULL, half->grads, 1, s);
    step(&whole, 0.01);
    step(half, 0.01);
  }
  assert_memory_equal(whole.weights, after.weights, TOTAL * sizeof(float));
  close_fixture(&whole);
  close_fixture(&before);
  close_fixture(&after);
}

/* Two steps under way at once: each slot tells of its own. */
static void late(void **state) {
  (void)state;
  fixture f = open_fixture();
  np_step_outcome first, second;
  fill(f.weights, f.grads, 1, 0);
  upload(&f);
  assert_ok(np_optimiser_step(f.optimiser, &(np_optimised){f.device_weights, f.device_grads, NULL}, 0.01));
  assert_ok(np_optimiser_fetch(f.optimiser, 0));
  f.grads[A] = NAN;
  assert_ok(f.ops->upload(f.ops, f.device_grads, f.grads, sizeof f.grads));
  assert_ok(np_optimiser_step(f.optimiser, &(np_optimised){f.device_weights, f.device_grads, NULL}, 0.01));
  assert_ok(np_optimiser_fetch(f.optimiser, 1));
  assert_ok(np_optimiser_arrive(f.optimiser, 0, &first));
  assert_ok(np_optimiser_arrive(f.optimiser, 1, &second));
  assert_true(first.applied && first.steps == 1);
  assert_close(first.grad_norm, torch_norms[0], 1e-6);
  assert_true(!second.applied && second.steps == 1 && isnan(second.grad_norm));
  close_fixture(&f);
}

/* A prepared step is replayed, to the bits of one that runs as it is; for other buffers, or when it could not be
 * recorded, it runs as it is. */
static void replayed(void **state) {
  (void)state;
  for (int fails = 0; fails < 2; fails++) {
    fixture plain = open_fixture(), f = {0};
    np_ops *inner;
    assert_ok(np_ops_cpu(NP_F32, 2, &inner));
    recorder *r = recorder_make(inner);
    open_on(&f, &r->table);
    r->fail_at = 2, r->failures = fails;
    for (int s = 0; s < 4; s++) {
      fill(s == 0 ? f.weights : NULL, f.grads, 1, s);
      fill(s == 0 ? plain.weights : NULL, plain.grads, 1, s);
      upload(&f);
      if (s == 0) assert_ok(np_optimiser_prepare(f.optimiser, &(np_optimised){f.device_weights, f.device_grads, NULL}));
      step(&f, 0.01 * (s + 1));
      step(&plain, 0.01 * (s + 1));
      assert_memory_equal(f.weights, plain.weights, sizeof f.weights);
    }
    assert_int_equal(r->replayed, fails ? 0 : 8); /* two halves a step */
    assert_ok(np_optimiser_step(f.optimiser, &(np_optimised){f.device_weights, f.device_weights, NULL},
                                0.01));  /* not what was prepared */
    np_optimiser_decay_all(f.optimiser); /* no longer the same step */
    step(&f, 0.01);
    assert_true(r->begun == 2 && r->forgotten == 2 && r->replayed == (fails ? 0 : 8));
    close_fixture(&plain);
    close_fixture(&f);
  }
}

/* Ranks with a third each of the first 96 elements, and all of the rest: together they do what one optimiser does, with
 * weights of their own or, where there is a copy that products read, with pieces of them. */
enum { RANKS = 3, SCATTERED = 96, EACH = SCATTERED / RANKS, REST = TOTAL - SCATTERED, KEPT = EACH + REST };

typedef struct fellow {
  np_piece items[2];
  np_pieces pieces;
  np_optimiser *optimiser;
  np_optimised what;
  float weights[TOTAL];
} fellow;

/* The squares of all ranks, where each expects them. */
static void add_up(np_ops *ops, fellow *fellows) {
  double *squares[RANKS], sum = 0, one;
  for (int r = 0; r < RANKS; r++) {
    assert_ok(np_optimiser_norm(fellows[r].optimiser, &fellows[r].what, &squares[r]));
    assert_ok(ops->download(ops, &one, squares[r], sizeof one));
    sum += one;
  }
  for (int r = 0; r < RANKS; r++) assert_ok(ops->upload(ops, squares[r], &sum, sizeof sum));
}

static void together(void **state) {
  (void)state;
  for (int copies = 0; copies < 2; copies++) {
    fixture whole = open_fixture();
    np_ops *ops = whole.ops;
    fellow fellows[RANKS] = {0};
    float start[TOTAL], grads[TOTAL], first[TOTAL], second[TOTAL], low[RANKS][TOTAL];
    fill(start, grads, 1, 0);
    memcpy(whole.weights, start, sizeof start);
    step(&whole, 0.01);
    assert_ok(np_optimiser_get(whole.optimiser, first, second));
    for (int r = 0; r < RANKS; r++) {
      fellow *f = &fellows[r];
      f->items[0] = (np_piece){r * EACH, EACH}, f->items[1] = (np_piece){SCATTERED, REST};
      f->pieces = (np_pieces){.ranks = RANKS, .rank = r, .count = 2, .items = f->items, .kept = KEPT};
      assert_ok(np_optimiser_create(ops, &params, &f->pieces, &config, &f->optimiser));
      assert_ok(np_optimiser_set(f->optimiser, first, second, 1));
      if (copies) assert_ok(np_pieces_upload(ops, &f->pieces, whole.weights, f->weights));
      else memcpy(f->weights, whole.weights, sizeof f->weights);
      f->what = (np_optimised){f->weights, whole.grads, copies ? low[r] : NULL};
      assert_ok(np_optimiser_prepare(f->optimiser, &f->what));
    }
    for (int s = 1; s < 4; s++) {
      fill(NULL, whole.grads, 1, s);
      add_up(ops, fellows);
      for (int r = 0; r < RANKS; r++) assert_ok(np_optimiser_update(fellows[r].optimiser, &fellows[r].what, 0.01));
      step(&whole, 0.01);
    }
    for (int r = 0; r < RANKS; r++) {
      const float *w = copies ? fellows[r].weights : fellows[r].weights + r * EACH, *rest = fellows[r].weights;
      np_step_outcome outcome;
      assert_ok(np_optimiser_read(fellows[r].optimiser, &outcome));
      assert_true(outcome.applied && outcome.steps == 4);
      assert_close(outcome.grad_norm, whole.outcome.grad_norm, 1e-12);
      assert_memory_equal(w, whole.weights + r * EACH, EACH * sizeof *w);
      rest += copies ? EACH : SCATTERED;
      assert_memory_equal(rest, whole.weights + SCATTERED, REST * sizeof *rest);
      if (copies) assert_memory_equal(low[r] + r * EACH, w, EACH * sizeof *w);
      if (copies) assert_memory_equal(low[r] + SCATTERED, rest, REST * sizeof *rest);
      assert_int_equal(np_optimiser_get(fellows[r].optimiser, first, second), NP_ERR_ARGUMENT);
      np_optimiser_destroy(fellows[r].optimiser);
    }
    close_fixture(&whole);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(as_torch), cmocka_unit_test(non_finite), cmocka_unit_test(carried_over),
      cmocka_unit_test(late),     cmocka_unit_test(replayed),   cmocka_unit_test(together),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
