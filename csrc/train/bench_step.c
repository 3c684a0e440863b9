#include "train/bench_step.h"

#include "model/model.h"
#include "ops/choose.h"
#include "optim/optimiser.h"
#include "util/machine.h"
#include "util/philox.h"

#include <stdlib.h>
#include <time.h>

typedef struct bench {
  const np_recipe *recipe;
  np_ops *ops;
  np_model *model;
  np_optimiser *optimiser;
  int micro, passes;                         /* images a pass, passes a step */
  uint8_t *pixels;                           /* [batch, H, W, C] */
  int32_t *prefix;                           /* [batch] */
  double *whole, *forward_backward, *update; /* [steps] seconds */
} bench;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Sorts. p in 0..1. */
static double quantile(double *values, int count, double p) {
  qsort(values, (size_t)count, sizeof *values, ascending);
  return values[(int)(p * (count - 1) + 0.5)];
}

static np_status open_model(bench *b, np_dtype act, np_step_timing *out) {
  np_status st = NP_OK;
  const np_recipe *r = b->recipe;
  np_model_options options = {.batch = b->micro, .head = true, .train = true};
  np_memory_plan plan;
  float *weights = NULL;
  NP_TRY(np_model_plan(&r->model, &options, act, &plan));
  out->memory = (double)plan.total;
  int64_t available = np_machine_memory_available();
  if (available > 0 && (int64_t)plan.total > available) {
    st = np_error(NP_ERR_MEMORY, "a step takes %.2f GB; %.2f GB are available", (double)plan.total / 1e9,
                  (double)available / 1e9);
    goto out;
  }
  NP_TRY(np_model_create(b->ops, &r->model, &options, &b->model));
  const np_params *params = np_model_params(b->model);
  weights = malloc((size_t)params->total * sizeof *weights);
  if (!weights) {
    st = np_error(NP_ERR_MEMORY, "out of memory for the weights");
    goto out;
  }
  np_params_init(params, r->seed, weights);
  NP_TRY(np_model_set_weights(b->model, weights));
  free(weights); /* before the moments are taken: with a large model there is not room for both */
  weights = NULL;
  NP_TRY(np_optimiser_create(b->ops, params, &r->optim, &b->optimiser));
out:
  free(weights);
  return st;
}

static void draw_batch(bench *b, int step) {
  const np_recipe *r = b->recipe;
  np_rng rng = np_rng_make(r->seed, NP_PURPOSE_PREFIX, (uint32_t)step, 0);
  uint32_t lengths = (uint32_t)(r->data.prefix[1] - r->data.prefix[0] + 1);
  for (int i = 0; i < r->train.batch; i++) b->prefix[i] = r->data.prefix[0] + (int32_t)np_rng_below(&rng, lengths);
}

static np_status one_step(bench *b, int step) {
  np_status st = NP_OK;
  const np_recipe_model *m = &b->recipe->model;
  size_t image = (size_t)m->image_size[0] * (size_t)m->image_size[1] * (size_t)m->channels;
  int64_t targets = np_model_targets(m, b->recipe->train.batch, b->prefix);
  double sum, start = now();
  np_step_outcome outcome;
  for (int pass = 0; pass < b->passes; pass++) {
    size_t first = (size_t)pass * (size_t)b->micro;
    NP_TRY(np_model_feed(b->model, b->micro, b->pixels + first * image, NULL, b->prefix + first));
    NP_TRY(np_model_train(b->model, targets, pass == 0));
  }
  NP_TRY(np_model_read_loss(b->model, &sum));
  double middle = now();
  NP_TRY(np_optimiser_step(b->optimiser, np_model_weights(b->model), np_model_gradients(b->model),
                           np_model_low(b->model), b->recipe->optim.lr_start));
  NP_TRY(np_optimiser_read(b->optimiser, &outcome));
  if (!outcome.applied)
    return np_error(NP_ERR_NUMERIC, "step %d of the bench: the gradient's norm is not finite", step);
  if (step >= 0) {
    b->whole[step] = now() - start;
    b->forward_backward[step] = middle - start;
    b->update[step] = b->whole[step] - b->forward_backward[step];
  }
out:
  return st;
}

/* The rate of a matrix product large enough to hide everything else, in the step's own types. */
static np_status matrix_peak(np_ops *ops, double *out) {
  enum { SIDE = 2048, TRIES = 8 };
  np_status st = NP_OK;
  void *memory = NULL;
  size_t matrix = (size_t)SIDE * SIDE * sizeof(float);
  np_matmul shape = {
      .m = SIDE, .n = SIDE, .k = SIDE, .transpose_b = true, .a_type = ops->act, .b_type = ops->act, .c_type = ops->act};
  double best = 0;
  NP_TRY(ops->alloc(ops, 3 * matrix, &memory));
  NP_TRY(ops->zero(ops, memory, 3 * matrix));
  for (int i = 0; i < TRIES; i++) {
    unsigned char *bytes = memory;
    double start = now();
    NP_TRY(ops->matmul(ops, &shape, bytes, bytes + matrix, NULL, bytes + 2 * matrix));
    double rate = 2.0 * SIDE * SIDE * SIDE / (now() - start);
    if (i > 0 && rate > best) best = rate;
  }
  *out = best;
out:
  ops->release(ops, memory);
  return st;
}

np_status np_bench_step(const np_recipe *recipe, int steps, int warmup, np_step_timing *out) {
  np_status st = NP_OK;
  const np_recipe_model *m = &recipe->model;
  int batch = recipe->train.batch, micro = recipe->train.micro_batch ? recipe->train.micro_batch : batch;
  size_t values = (size_t)batch * (size_t)m->image_size[0] * (size_t)m->image_size[1] * (size_t)m->channels;
  bench b = {.recipe = recipe, .micro = micro, .passes = batch / micro};
  np_dtype act;
  NP_TRY(np_ops_choose(recipe, &act));
  *out = (np_step_timing){.precision = np_precision_name(act),
                          .threads = recipe->threads ? recipe->threads : np_machine_cores()};
  b.pixels = malloc(values);
  b.prefix = malloc((size_t)batch * sizeof *b.prefix);
  b.whole = calloc(3 * (size_t)steps, sizeof *b.whole);
  if (!b.pixels || !b.prefix || !b.whole) {
    st = np_error(NP_ERR_MEMORY, "out of memory for the bench");
    goto out;
  }
  b.forward_backward = b.whole + steps, b.update = b.forward_backward + steps;
  np_rng rng = np_rng_make(recipe->seed, NP_PURPOSE_SYNTH, 0, 0);
  for (size_t i = 0; i < values; i++) b.pixels[i] = (uint8_t)np_rng_u32(&rng);
  NP_TRY(np_ops_cpu(act, recipe->threads, &b.ops));
  NP_TRY(matrix_peak(b.ops, &out->matrix_peak));
  NP_TRY(open_model(&b, b.ops->act, out));
  for (int step = -warmup; step < steps; step++) {
    draw_batch(&b, step + warmup);
    NP_TRY(one_step(&b, step));
  }
  out->median = quantile(b.whole, steps, 0.5), out->p99 = quantile(b.whole, steps, 0.99);
  out->passes = quantile(b.forward_backward, steps, 0.5), out->update = quantile(b.update, steps, 0.5);
  out->flops = np_model_flops(m, recipe->data.prefix, false) * batch;
  out->reference = np_model_flops(m, recipe->data.prefix, true) * batch;
out:
  np_optimiser_destroy(b.optimiser);
  np_model_destroy(b.model);
  if (b.ops) b.ops->destroy(b.ops);
  free(b.pixels);
  free(b.prefix);
  free(b.whole);
  return st;
}
