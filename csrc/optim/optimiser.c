#include "optim/optimiser.h"

#include "ops/record.h"
#include "util/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Adjoining parameters that share their decay, or what of them is in one piece: one call of the operator instead of one
 * a parameter. */
typedef struct span {
  int64_t offset, count; /* in the flat buffer */
  int64_t kept;          /* where it begins among what is kept */
  bool decays;
} span;

/* The two halves of a step: its learning rate and the sum over ranks come between. */
enum { NORM, UPDATE, HALVES };

struct np_optimiser {
  np_ops *ops;
  np_recipe_optim config;
  np_piece *items; /* [pieces.count] */
  np_pieces pieces;
  float *first, *second; /* [pieces.kept], device */
  np_adamw_state *state; /* [1], device */
  span *spans;
  int span_count;
  np_recording *recordings[HALVES]; /* of a step over these buffers; NULL: none */
  np_optimised recorded;
};

/* ---- spans ------------------------------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b) {
  const span *x = a, *y = b;
  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Each region reaches to the start of the next, over the gap behind its last parameter: gaps hold zeros and stay zero.
 * Returns how many. */
static int find_regions(const np_params *params, span *regions /* [params->count] */) {
  int count = 0;
  for (int i = 0; i < params->count; i++)
    regions[i] = (span){.offset = params->items[i].offset, .decays = params->items[i].role == NP_PARAM_MATRIX};
  qsort(regions, (size_t)params->count, sizeof *regions, by_offset);
  for (int i = 0; i < params->count; i++)
    if (i == 0 || regions[count - 1].decays != regions[i].decays) regions[count++] = regions[i];
  for (int i = 0; i < count; i++)
    regions[i].count = (i + 1 < count ? regions[i + 1].offset : params->total) - regions[i].offset;
  return count;
}

/* What region and piece have in common. */
static void add_span(np_optimiser *o, const span *region, const np_piece *piece, int64_t kept) {
  const int64_t region_end = region->offset + region->count, piece_end = piece->offset + piece->count;
  const int64_t begin = region->offset > piece->offset ? region->offset : piece->offset;
  const int64_t end = region_end < piece_end ? region_end : piece_end;
  if (begin >= end) return;
  o->spans[o->span_count++] =
      (span){.offset = begin, .count = end - begin, .kept = kept + begin - piece->offset, .decays = region->decays};
}

static np_status find_spans(np_optimiser *o, const np_params *params) {
  span *regions = calloc((size_t)params->count + 1, sizeof *regions);
  o->spans = calloc((size_t)(params->count + o->pieces.count) + 1, sizeof *o->spans);
  if (!regions || !o->spans) {
    free(regions);
    return np_error(NP_ERR_MEMORY, "no memory for the optimiser's table of %d parameters", params->count);
  }
  const int count = find_regions(params, regions);
  int64_t kept = 0;
  for (int i = 0; i < o->pieces.count; kept += o->items[i++].count)
    for (int k = 0; k < count; k++) add_span(o, &regions[k], &o->items[i], kept);
  free(regions);
  return NP_OK;
}

/* ---- making and unmaking ----------------------------------------------------------------------------------------- */

static np_status take_pieces(np_optimiser *o, const np_params *params, const np_pieces *pieces) {
  const np_piece all = {0, params->total};
  o->pieces = pieces ? *pieces : (np_pieces){.ranks = 1, .count = 1, .items = &all, .kept = params->total};
  o->items = calloc((size_t)o->pieces.count, sizeof *o->items);
  if (!o->items) return np_error(NP_ERR_MEMORY, "no memory for the optimiser's table of %d pieces", o->pieces.count);
  memcpy(o->items, o->pieces.items, (size_t)o->pieces.count * sizeof *o->items);
  o->pieces.items = o->items;
  return NP_OK;
}

static np_status take_memory(np_optimiser *o) {
  np_status st = NP_OK;
  const size_t bytes = (size_t)o->pieces.kept * sizeof(float);
  NP_TRY(o->ops->alloc(o->ops, bytes, (void **)&o->first));
  NP_TRY(o->ops->alloc(o->ops, bytes, (void **)&o->second));
  NP_TRY(o->ops->alloc(o->ops, sizeof *o->state, (void **)&o->state));
  NP_TRY(o->ops->zero(o->ops, o->first, bytes));
  NP_TRY(o->ops->zero(o->ops, o->second, bytes));
  NP_TRY(o->ops->zero(o->ops, o->state, sizeof *o->state));
out:
  return st;
}

np_status np_optimiser_create(np_ops *ops, const np_params *params, const np_pieces *pieces,
                              const np_recipe_optim *config, np_optimiser **out) {
  np_status st = NP_OK;
  np_optimiser *o = calloc(1, sizeof *o);
  *out = NULL;
  if (!o) return np_error(NP_ERR_MEMORY, "no memory for the optimiser");
  o->ops = ops;
  o->config = *config;
  NP_TRY(take_pieces(o, params, pieces));
  NP_TRY(find_spans(o, params));
  NP_TRY(take_memory(o));
  *out = o;
  o = NULL;
out:
  np_optimiser_destroy(o);
  return st;
}

static void forget(np_optimiser *o) {
  for (int i = 0; i < HALVES; i++)
    if (o->recordings[i]) o->ops->forget(o->ops, o->recordings[i]);
  memset(o->recordings, 0, sizeof o->recordings);
}

void np_optimiser_destroy(np_optimiser *o) {
  if (!o) return;
  forget(o);
  o->ops->release(o->ops, o->state);
  o->ops->release(o->ops, o->second);
  o->ops->release(o->ops, o->first);
  free(o->spans);
  free(o->items);
  free(o);
}

void np_optimiser_decay_all(np_optimiser *o) {
  forget(o);
  for (int i = 0; i < o->span_count; i++) o->spans[i].decays = true;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

typedef struct step_call {
  np_optimiser *o;
  const np_optimised *what;
} step_call;

np_optimised np_optimised_model(np_model *model) {
  return (np_optimised){np_model_weights(model), np_model_gradients(model), np_model_low(model)};
}

/* What all ranks have counts once: for the first. */
static np_status run_norm(void *context) {
  np_status st = NP_OK;
  const step_call *call = context;
  np_optimiser *o = call->o;
  const int count = o->pieces.rank == 0 ? o->pieces.count : o->pieces.count - 1;
  double *squares = &o->state->norm_squared;
  if (count == 0) return o->ops->zero(o->ops, squares, sizeof *squares);
  for (int i = 0; i < count; i++)
    NP_TRY(o->ops->sum_squares(o->ops, o->items[i].count, call->what->grads + o->items[i].offset, squares, i > 0));
out:
  return st;
}

static np_status run_update(void *context) {
  np_status st = NP_OK;
  const step_call *call = context;
  np_optimiser *o = call->o;
  const np_optimised *what = call->what;
  const size_t low_size = np_dtype_size(o->ops->act);
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
    NP_TRY(o->ops->adamw(o->ops, &how, o->state, s->count, what->grads + s->offset,
                         what->weights + (what->low ? s->kept : s->offset), o->first + s->kept, o->second + s->kept,
                         what->low ? (char *)what->low + (size_t)s->offset * low_size : NULL));
  }
out:
  return st;
}

static np_status (*const halves[HALVES])(void *context) = {[NORM] = run_norm, [UPDATE] = run_update};

static np_status run(np_optimiser *o, int half, const np_optimised *what) {
  const np_optimised *r = &o->recorded;
  if (o->recordings[half] && r->weights == what->weights && r->grads == what->grads && r->low == what->low)
    return o->ops->replay(o->ops, o->recordings[half]);
  return halves[half](&(step_call){o, what});
}

np_status np_optimiser_norm(np_optimiser *o, const np_optimised *what, double **squares) {
  *squares = &o->state->norm_squared;
  return run(o, NORM, what);
}

np_status np_optimiser_update(np_optimiser *o, const np_optimised *what, double lr) {
  const float rate = (float)lr;
  np_status st = o->ops->upload(o->ops, &o->state->lr, &rate, sizeof rate);
  return st == NP_OK ? run(o, UPDATE, what) : st;
}

np_status np_optimiser_step(np_optimiser *o, const np_optimised *what, double lr) {
  double *squares;
  np_status st = np_optimiser_norm(o, what, &squares);
  return st == NP_OK ? np_optimiser_update(o, what, lr) : st;
}

/* Without a recording, which is an error to nobody, each step queues its operations one by one. */
static np_status record(np_optimiser *o, const np_optimised *what) {
  np_status st = NP_OK;
  o->recorded = *what;
  for (int i = 0; i < HALVES && st == NP_OK; i++)
    st = np_ops_record(o->ops, halves[i], &(step_call){o, &o->recorded}, &o->recordings[i]);
  if (st != NP_ERR_LIBRARY) return st;
  forget(o);
  np_warn("the optimiser's step could not be recorded (%s): it runs as it is", np_error_message());
  return NP_OK;
}

np_status np_optimiser_prepare(np_optimiser *o, const np_optimised *what) {
  np_status st = NP_OK;
  const double not_finite = NAN;
  forget(o);
  NP_TRY(run(o, NORM, what));
  NP_TRY(o->ops->upload(o->ops, &o->state->norm_squared, &not_finite, sizeof not_finite));
  NP_TRY(run(o, UPDATE, what));
  if (o->ops->record_begin) st = record(o, what);
out:
  return st;
}

/* ---- what became of it ------------------------------------------------------------------------------------------- */

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
  const size_t bytes = (size_t)o->pieces.kept * sizeof(float);
  if (o->pieces.ranks > 1)
    return np_error(NP_ERR_ARGUMENT, "a rank that keeps pieces of the moments does not have them all");
  NP_TRY(o->ops->download(o->ops, first, o->first, bytes));
  NP_TRY(o->ops->download(o->ops, second, o->second, bytes));
out:
  return st;
}

np_status np_optimiser_set(np_optimiser *o, const float *first, const float *second, int64_t steps) {
  np_status st = NP_OK;
  const np_adamw_state state = {.steps = steps};
  if (first) NP_TRY(np_pieces_upload(o->ops, &o->pieces, first, o->first));
  if (second) NP_TRY(np_pieces_upload(o->ops, &o->pieces, second, o->second));
  NP_TRY(o->ops->upload(o->ops, o->state, &state, sizeof state));
out:
  return st;
}

const float *np_optimiser_first(const np_optimiser *o) { return o->first; }
const float *np_optimiser_second(const np_optimiser *o) { return o->second; }
