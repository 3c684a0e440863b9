#include "optim/optimiser.h"

#include "ops/record.h"
#include "util/log.h"

#include <math.h>
#include <stdlib.h>

/* Adjoining parameters that share their decay: one call of the operator instead of one a parameter. */
typedef struct span {
  int64_t offset, count;
  bool decays;
} span;

struct np_optimiser {
  np_ops *ops;
  np_recipe_optim config;
  int64_t total;
  float *first, *second; /* [total], device */
  np_adamw_state *state; /* [1], device */
  span *spans;
  int span_count;
  np_recording *recording; /* of a step over these buffers, but for its learning rate; NULL: none */
  const void *recorded[3]; /* weights, grads, low */
};

/* Each span reaches to the start of the next, over the gap behind its last parameter: gaps hold zeros and stay zero. */
static void find_spans(np_optimiser *o, const np_params *params) {
  for (int i = 0; i < params->count; i++) {
    bool decays = params->items[i].role == NP_PARAM_MATRIX;
    int64_t offset = params->items[i].offset, end = i + 1 < params->count ? params->items[i + 1].offset : params->total;
    span *last = o->span_count ? &o->spans[o->span_count - 1] : NULL;
    if (last && last->decays == decays) last->count = end - last->offset;
    else o->spans[o->span_count++] = (span){.offset = offset, .count = end - offset, .decays = decays};
  }
}

np_status np_optimiser_create(np_ops *ops, const np_params *params, const np_recipe_optim *config, np_optimiser **out) {
  np_status st = NP_OK;
  size_t bytes = (size_t)params->total * sizeof(float);
  np_optimiser *o = calloc(1, sizeof *o);
  *out = NULL;
  if (!o || !(o->spans = calloc((size_t)params->count + 1, sizeof *o->spans))) {
    st = np_error(NP_ERR_MEMORY, "no memory for the optimiser's table of %d parameters", params->count);
    goto out;
  }
  o->ops = ops;
  o->config = *config;
  o->total = params->total;
  find_spans(o, params);
  NP_TRY(ops->alloc(ops, bytes, (void **)&o->first));
  NP_TRY(ops->alloc(ops, bytes, (void **)&o->second));
  NP_TRY(ops->alloc(ops, sizeof *o->state, (void **)&o->state));
  NP_TRY(ops->zero(ops, o->first, bytes));
  NP_TRY(ops->zero(ops, o->second, bytes));
  NP_TRY(ops->zero(ops, o->state, sizeof *o->state));
  *out = o;
  o = NULL;
out:
  if (o) {
    o->ops = ops;
    np_optimiser_destroy(o);
  }
  return st;
}

static void forget(np_optimiser *o) {
  if (o->recording) o->ops->forget(o->ops, o->recording);
  o->recording = NULL;
}

void np_optimiser_destroy(np_optimiser *o) {
  if (!o) return;
  forget(o);
  o->ops->release(o->ops, o->state);
  o->ops->release(o->ops, o->second);
  o->ops->release(o->ops, o->first);
  free(o->spans);
  free(o);
}

void np_optimiser_decay_all(np_optimiser *o) {
  forget(o);
  for (int i = 0; i < o->span_count; i++) o->spans[i].decays = true;
}

/* The norm of the gradients on the device, or what stands in its place. */
static np_status norm(np_optimiser *o, const float *grads) {
  return o->ops->sum_squares(o->ops, o->total, grads, &o->state->norm_squared);
}

/* What follows it. */
static np_status update(np_optimiser *o, float *weights, const float *grads, void *low) {
  np_status st = NP_OK;
  size_t low_size = np_dtype_size(o->ops->act);
  np_adamw how = {
      .beta1 = o->config.betas[0],
      .beta2 = o->config.betas[1],
      .eps = (float)o->config.eps,
      .clip = (float)o->config.grad_clip,
  };
  NP_TRY(o->ops->adamw_prepare(o->ops, &how, o->state));
  for (int i = 0; i < o->span_count; i++) {
    const span *s = &o->spans[i];
    how.weight_decay = s->decays ? (float)o->config.weight_decay : 0;
    NP_TRY(o->ops->adamw(o->ops, &how, o->state, s->count, grads + s->offset, weights + s->offset, o->first + s->offset,
                         o->second + s->offset, low ? (char *)low + (size_t)s->offset * low_size : NULL));
  }
out:
  return st;
}

typedef struct step_call {
  np_optimiser *o;
  float *weights;
  const float *grads;
  void *low;
} step_call;

/* A step, but for its learning rate. */
static np_status run_step(void *context) {
  const step_call *call = context;
  np_status st = norm(call->o, call->grads);
  return st == NP_OK ? update(call->o, call->weights, call->grads, call->low) : st;
}

np_status np_optimiser_step(np_optimiser *o, float *weights, const float *grads, void *low, double lr) {
  np_status st = NP_OK;
  const float rate = (float)lr;
  NP_TRY(o->ops->upload(o->ops, &o->state->lr, &rate, sizeof rate));
  if (o->recording && o->recorded[0] == weights && o->recorded[1] == grads && o->recorded[2] == low)
    return o->ops->replay(o->ops, o->recording);
  st = run_step(&(step_call){o, weights, grads, low});
out:
  return st;
}

/* Without a recording, which is an error to nobody, each step queues its operations one by one. */
static np_status record(np_optimiser *o, float *weights, const float *grads, void *low) {
  np_status st = np_ops_record(o->ops, run_step, &(step_call){o, weights, grads, low}, &o->recording);
  o->recorded[0] = weights, o->recorded[1] = grads, o->recorded[2] = low;
  if (st != NP_ERR_LIBRARY) return st;
  np_warn("the optimiser's step could not be recorded (%s): it runs as it is", np_error_message());
  return NP_OK;
}

np_status np_optimiser_prepare(np_optimiser *o, float *weights, const float *grads, void *low) {
  np_status st = NP_OK;
  const double not_finite = NAN;
  forget(o);
  NP_TRY(norm(o, grads));
  NP_TRY(o->ops->upload(o->ops, &o->state->norm_squared, &not_finite, sizeof not_finite));
  NP_TRY(update(o, weights, grads, low));
  if (o->ops->record_begin) st = record(o, weights, grads, low);
out:
  return st;
}

static np_step_outcome outcome(const np_adamw_state *state) {
  return (np_step_outcome){.grad_norm = sqrt(state->norm_squared), .applied = state->apply != 0, .steps = state->steps};
}

np_status np_optimiser_fetch(np_optimiser *o, int slot) {
  return o->ops->fetch(o->ops, slot, o->state, sizeof *o->state);
}

np_status np_optimiser_arrive(np_optimiser *o, int slot, np_step_outcome *out) {
  np_status st = NP_OK;
  np_adamw_state state;
  NP_TRY(o->ops->arrive(o->ops, slot, &state, sizeof state));
  *out = outcome(&state);
out:
  return st;
}

np_status np_optimiser_read(np_optimiser *o, np_step_outcome *out) {
  np_status st = NP_OK;
  np_adamw_state state;
  NP_TRY(o->ops->download(o->ops, &state, o->state, sizeof state));
  *out = outcome(&state);
out:
  return st;
}

np_status np_optimiser_get(np_optimiser *o, float *first, float *second) {
  np_status st = NP_OK;
  size_t bytes = (size_t)o->total * sizeof(float);
  NP_TRY(o->ops->download(o->ops, first, o->first, bytes));
  NP_TRY(o->ops->download(o->ops, second, o->second, bytes));
out:
  return st;
}

np_status np_optimiser_set(np_optimiser *o, const float *first, const float *second, int64_t steps) {
  np_status st = NP_OK;
  const np_adamw_state state = {.steps = steps};
  size_t bytes = (size_t)o->total * sizeof(float);
  NP_TRY(o->ops->upload(o->ops, o->first, first, bytes));
  NP_TRY(o->ops->upload(o->ops, o->second, second, bytes));
  NP_TRY(o->ops->upload(o->ops, o->state, &state, sizeof state));
out:
  return st;
}
