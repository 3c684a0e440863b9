#include "bench/step.h"

#include "bench/peak.h"
#include "model/model.h"
#include "ops/choose.h"
#include "ops/cuda.h"
#include "optim/optimiser.h"
#include "util/machine.h"
#include "util/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

typedef struct bench {
  const np_recipe *recipe;
  np_ops *ops; /* the backend, or its profile */
  np_model *model;
  np_optimiser *optimiser;
  int micro;       /* images a pass */
  uint8_t *pixels; /* [batch, H, W, C] */
  int32_t *prefix; /* [batch] */
} bench;

/* Steps are marked where the device gets to: the host runs ahead of a GPU, as it does in training. */
enum { MARKS_PER_STEP = 2 };

static np_status open_model(bench *b, np_step_timing *out) {
  np_status st = NP_OK;
  const np_recipe *r = b->recipe;
  const np_model_options options = np_model_training(r, 1, 0, b->micro, r->train.batch);
  np_memory_plan plan;
  size_t available;
  float *weights = NULL;
  NP_TRY(np_model_plan(&r->model, &options, b->ops->act, &plan));
  if (b->ops->record_begin) plan.total += plan.recordings;
  if (!out->planned) out->planned = (double)plan.total; /* not that of the profile, which comes later */
  NP_TRY(b->ops->available(b->ops, &available));
  if (plan.total > available) {
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
  NP_TRY(np_optimiser_create(b->ops, params, NULL, &r->optim, &b->optimiser));
  const np_optimised what = np_optimised_model(b->model);
  NP_TRY(np_optimiser_prepare(b->optimiser, &what));
  NP_TRY(np_model_prepare(b->model, true));
out:
  free(weights);
  return st;
}

static void close_model(bench *b) {
  np_optimiser_destroy(b->optimiser);
  np_model_destroy(b->model);
  b->optimiser = NULL, b->model = NULL;
}

static np_status make_inputs(bench *b) {
  const np_recipe_model *m = &b->recipe->model;
  int batch = b->recipe->train.batch;
  size_t values = (size_t)batch * (size_t)m->image_size[0] * (size_t)m->image_size[1] * (size_t)m->channels;
  np_rng rng = np_rng_make(b->recipe->seed, NP_PURPOSE_SYNTH, 0, 0);
  b->pixels = malloc(values);
  b->prefix = malloc((size_t)batch * sizeof *b->prefix);
  if (!b->pixels || !b->prefix) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  for (size_t i = 0; i < values; i++) b->pixels[i] = (uint8_t)np_rng_u32(&rng);
  return NP_OK;
}

static void draw_prefixes(bench *b, int step) {
  const np_recipe *r = b->recipe;
  np_rng rng = np_rng_make(r->seed, NP_PURPOSE_PREFIX, (uint32_t)step, 0);
  uint32_t lengths = (uint32_t)(r->data.prefix[1] - r->data.prefix[0] + 1);
  for (int i = 0; i < r->train.batch; i++) b->prefix[i] = r->data.prefix[0] + (int32_t)np_rng_below(&rng, lengths);
}

/* Queue a step; marks `mark` before the passes and `mark` + 1 behind them, unless negative. */
static np_status queue_step(bench *b, int step, int mark) {
  np_status st = NP_OK;
  const np_recipe_model *m = &b->recipe->model;
  draw_prefixes(b, step);
  int64_t targets = np_model_targets(m, b->recipe->train.batch, b->prefix);
  if (mark >= 0) NP_TRY(b->ops->mark(b->ops, mark));
  NP_TRY(np_model_step(b->model, b->recipe->train.batch, b->pixels, b->prefix, targets));
  if (mark >= 0) NP_TRY(b->ops->mark(b->ops, mark + 1));
  const np_optimised what = np_optimised_model(b->model);
  NP_TRY(np_optimiser_step(b->optimiser, &what, b->recipe->optim.lr_start));
out:
  return st;
}

/* Waits. A step whose gradient is not finite skips the update, and would be timed too fast. */
static np_status all_applied(bench *b, int steps) {
  np_step_outcome outcome;
  np_status st = np_optimiser_read(b->optimiser, &outcome);
  if (st == NP_OK && outcome.steps != steps)
    st = np_error(NP_ERR_NUMERIC, "in %d of %d steps of the bench the gradient's norm is not finite",
                  steps - (int)outcome.steps, steps);
  return st;
}

static np_status time_steps(bench *b, const np_step_bench *how, np_step_timing *out) {
  np_status st = NP_OK;
  int steps = how->steps;
  double *whole = malloc(3 * (size_t)steps * sizeof *whole), *passes = whole + steps, *update = passes + steps;
  if (!whole) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  for (int step = 0; step < how->warmup; step++) NP_TRY(queue_step(b, step, -1));
  if (how->warmup) NP_TRY(all_applied(b, how->warmup)); /* what the first steps still choose is chosen */
  for (int step = 0; step < steps; step++) NP_TRY(queue_step(b, how->warmup + step, MARKS_PER_STEP * step));
  NP_TRY(b->ops->mark(b->ops, MARKS_PER_STEP * steps));
  for (int step = 0; step < steps; step++) {
    int mark = MARKS_PER_STEP * step;
    NP_TRY(b->ops->elapsed(b->ops, mark, mark + MARKS_PER_STEP, &whole[step]));
    NP_TRY(b->ops->elapsed(b->ops, mark, mark + 1, &passes[step]));
    update[step] = whole[step] - passes[step];
  }
  NP_TRY(all_applied(b, how->warmup + steps));
  out->whole = np_timing_of(whole, steps);
  out->passes = np_timing_of(passes, steps).median, out->update = np_timing_of(update, steps).median;
out:
  free(whole);
  return st;
}

/* A pass of its own, on a model of its own, through the table that marks every operation. */
static np_status profile_steps(bench *b, const np_step_bench *how, np_step_timing *out) {
  np_status st = NP_OK;
  np_ops *inner = b->ops, *profiled = NULL;
  np_family_sum first[NP_FAMILIES];
  NP_TRY(np_ops_profile(inner, np_model_pairs(&b->recipe->model, b->recipe->data.prefix), &profiled));
  b->ops = profiled;
  NP_TRY(open_model(b, out));
  NP_TRY(queue_step(b, 0, -1));
  NP_TRY(np_ops_profile_read(profiled, first)); /* the first step pays for choices: it is thrown away */
  NP_TRY(profiled->mark(profiled, 0));
  for (int step = 0; step < how->profile; step++) NP_TRY(queue_step(b, 1 + step, -1));
  NP_TRY(profiled->mark(profiled, 1));
  NP_TRY(profiled->elapsed(profiled, 0, 1, &out->profiled));
  NP_TRY(np_ops_profile_read(profiled, out->family));
  out->profiled /= how->profile;
  for (int f = 0; f < NP_FAMILIES; f++) {
    out->family[f].seconds /= how->profile;
    out->family[f].flops /= how->profile;
    out->family[f].calls /= how->profile;
    out->computed += out->family[f].flops;
  }
out:
  close_model(b);
  b->ops = inner;
  if (profiled) profiled->destroy(profiled);
  return st;
}

/* On the CPU memory counts when it is touched, and others take and give some meanwhile: there it is the process's peak.
 */
static np_status memory_taken(bench *b, size_t before, double *out) {
  struct rusage usage;
  size_t after;
  np_status st = b->ops->available(b->ops, &after);
  if (!strcmp(b->ops->name, "cpu")) *out = getrusage(RUSAGE_SELF, &usage) ? 0 : 1024.0 * (double)usage.ru_maxrss;
  else *out = before == SIZE_MAX || after > before ? 0 : (double)(before - after);
  return st;
}

static void name_device(const np_ops_choice *choice, const np_recipe *recipe, np_step_timing *out) {
  np_cuda_about about;
  if (choice->backend == NP_BACKEND_CUDA && np_cuda_look(recipe->device, &about) == NP_OK)
    snprintf(out->device, sizeof out->device, "%s", about.name);
  else np_machine_cpu_name(out->device, sizeof out->device);
}

/* What ran: of the backend itself, before a profile stands around it. */
static void print_plans(const bench *b, FILE *to) {
  const np_recipe_model *m = &b->recipe->model;
  if (!strcmp(b->ops->name, "cpu")) {
    fprintf(to, "backend: cpu has no plans to print: its products are oneDNN's, its attention has one version\n");
    return;
  }
  np_cuda_attention_print(b->ops, b->micro, np_recipe_tokens(m), m->heads, m->width / m->heads, to);
  np_cuda_matmul_print(b->ops, to);
}

np_status np_bench_step(const np_step_bench *how, np_step_timing *out) {
  np_status st = NP_OK;
  const np_recipe *recipe = how->recipe;
  int batch = recipe->train.batch, micro = recipe->train.micro_batch ? recipe->train.micro_batch : batch;
  bench b = {.recipe = recipe, .micro = micro};
  np_ops_choice choice;
  size_t before;
  NP_TRY(np_ops_choose(recipe, &choice));
  *out = (np_step_timing){.threads = choice.threads};
  NP_TRY(make_inputs(&b));
  NP_TRY(np_ops_open(recipe, &choice, &b.ops));
  out->backend = b.ops->name, out->precision = np_precision_name(b.ops->act);
  name_device(&choice, recipe, out);
  out->nominal_peak = b.ops->act == NP_BF16 ? np_nominal_peak(out->device) : 0;
  NP_TRY(np_measured_peak(b.ops, &out->measured_peak));
  NP_TRY(b.ops->available(b.ops, &before));
  NP_TRY(open_model(&b, out));
  NP_TRY(time_steps(&b, how, out));
  NP_TRY(memory_taken(&b, before, &out->taken));
  if (how->plans) print_plans(&b, how->plans);
  close_model(&b);
  if (how->profile) NP_TRY(profile_steps(&b, how, out));
  out->flops = np_model_flops(&recipe->model, recipe->data.prefix, false) * batch;
  out->reference = np_model_flops(&recipe->model, recipe->data.prefix, true) * batch;
out:
  close_model(&b);
  if (b.ops) b.ops->destroy(b.ops);
  free(b.pixels);
  free(b.prefix);
  return st;
}
