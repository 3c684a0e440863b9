#include "train/collective.h"

/* Whether ranks keep pieces. */
static bool shared(const np_trainer *t) { return np_model_pieces(t->model)->ranks > 1; }

/* This rank's of slice i, where they do. */
static const np_piece *piece_of(const np_trainer *t, int i) { return &np_model_pieces(t->model)->items[i]; }

/* ---- a step ------------------------------------------------------------------------------------------------------ */

np_status np_collect_sums(np_trainer *t, bool signalled) {
  np_status st = NP_OK;
  int count;
  const np_slice *slices = np_model_slices(t->model, &count);
  float *gradients = np_model_gradients(t->model);
  for (int i = 0; i < count; i++) {
    const np_slice *s = &slices[i];
    const int signal = signalled ? i : -1;
    if (s->scattered) NP_TRY(np_comm_scatter_f32(t->comm, signal, gradients + s->offset, piece_of(t, i)->count));
    else NP_TRY(np_comm_sum_f32(t->comm, signal, gradients + s->offset, s->count));
  }
  NP_TRY(np_comm_sum_f64(t->comm, -1, np_model_loss_sum(t->model), 1));
  NP_TRY(np_comm_sum_f64(t->comm, -1, t->vote, NP_TRAINER_VOTES));
  st = np_comm_join(t->comm);
out:
  return st;
}

/* The gaps behind matrices, of models so small that there are any, hold what a scatter has left there. The next pass
 * overwrites the matrices alone. Those behind vectors lie in the last slice, and stay zeros. */
static np_status clear_gaps(np_trainer *t) {
  np_status st = NP_OK;
  const np_params *p = np_model_params(t->model);
  for (int i = 0; i < p->count; i++) {
    const int64_t end = p->items[i].offset + p->items[i].count,
                  gap = np_param_room(p->items[i].count) - p->items[i].count;
    if (gap > 0 && p->items[i].role == NP_PARAM_MATRIX)
      NP_TRY(t->ops->zero(t->ops, np_model_gradients(t->model) + end, (size_t)gap * sizeof(float)));
  }
out:
  return st;
}

/* Every rank's pieces of what products read, to all. */
static np_status spread_weights(np_trainer *t) {
  np_status st = NP_OK;
  int count;
  const np_slice *slices = np_model_slices(t->model, &count);
  char *low = np_model_low(t->model), *all = low ? low : (char *)np_model_weights(t->model);
  const size_t size = low ? np_dtype_size(t->ops->act) : sizeof(float);
  for (int i = 0; i < count; i++) {
    if (!slices[i].scattered) continue;
    const np_piece *mine = piece_of(t, i);
    NP_TRY(np_comm_gather(t->comm, all + (size_t)mine->offset * size, all + (size_t)slices[i].offset * size,
                          (size_t)mine->count * size));
  }
  st = np_comm_join(t->comm);
out:
  return st;
}

np_status np_collect_update(np_trainer *t, double lr) {
  np_status st = NP_OK;
  const np_optimised what = np_optimised_model(t->model);
  double *squares;
  if (!shared(t)) return np_optimiser_step(t->optimiser, &what, lr);
  NP_TRY(np_optimiser_norm(t->optimiser, &what, &squares));
  NP_TRY(np_comm_sum_f64(t->comm, -1, squares, 1));
  NP_TRY(np_comm_join(t->comm));
  NP_TRY(np_optimiser_update(t->optimiser, &what, lr));
  NP_TRY(clear_gaps(t));
  st = spread_weights(t);
out:
  return st;
}

/* ---- between steps ----------------------------------------------------------------------------------------------- */

static np_status clear_gradients(np_trainer *t) {
  const size_t bytes = (size_t)np_model_params(t->model)->total * sizeof(float);
  return t->ops->zero(t->ops, np_model_gradients(t->model), bytes);
}

/* All ranks' pieces of the scattered slices, to the gradients' memory; what every rank keeps goes to the host as it is.
 */
static np_status fetch_pieces(np_trainer *t, const float *kept, float *host) {
  np_status st = NP_OK;
  int count;
  const np_slice *slices = np_model_slices(t->model, &count);
  float *all = np_model_gradients(t->model);
  for (int i = 0; i < count; i++) {
    const np_piece *piece = piece_of(t, i);
    const np_slice *s = &slices[i];
    const size_t bytes = (size_t)s->count * sizeof *all;
    if (s->scattered) NP_TRY(np_comm_gather(t->comm, kept, all + s->offset, (size_t)piece->count * sizeof *all));
    else if (host) NP_TRY(t->ops->download(t->ops, host + s->offset, kept, bytes));
    kept += piece->count;
  }
  NP_TRY(np_comm_join(t->comm));
  np_comm_wait_begin(t->comm, "the others' pieces"); /* a device has not got them yet */
  for (int i = 0; i < count && host; i++)
    if (slices[i].scattered)
      NP_TRY(t->ops->download(t->ops, host + slices[i].offset, all + slices[i].offset,
                              (size_t)slices[i].count * sizeof *all));
  st = clear_gradients(t);
out:
  np_comm_wait_end(t->comm);
  return st;
}

np_status np_collect_fetch(np_trainer *t, np_kept what, float *host) {
  const bool whole = !shared(t) || (what == NP_KEPT_WEIGHTS && !np_model_low(t->model));
  const size_t bytes = (size_t)np_model_params(t->model)->total * sizeof(float);
  const float *const kept[NP_KEPT_KINDS] = {
      [NP_KEPT_WEIGHTS] = np_model_weights(t->model),
      [NP_KEPT_FIRST] = np_optimiser_first(t->optimiser),
      [NP_KEPT_SECOND] = np_optimiser_second(t->optimiser),
  };
  if (!whole) return fetch_pieces(t, kept[what], host);
  return host ? t->ops->download(t->ops, host, kept[what], bytes) : NP_OK;
}

/* Σ w² over what this rank computes with, or what that was made from. With pieces it is the low-precision copy, by way
 * of the gradients' memory, and the float32 of what every rank updates by itself. */
static np_status sum_weights(np_trainer *t, double *squares) {
  np_status st = NP_OK;
  const int64_t total = np_model_params(t->model)->total;
  const bool pieces = shared(t) && np_model_low(t->model);
  float *all = pieces ? np_model_gradients(t->model) : np_model_weights(t->model);
  const np_pieces *kept = np_model_pieces(t->model);
  const int64_t last = kept->items[kept->count - 1].count;
  if (pieces) {
    NP_TRY(clear_gradients(t));
    NP_TRY(t->ops->axpy(t->ops, total, 1, np_model_low(t->model), all));
  }
  NP_TRY(t->ops->sum_squares(t->ops, total, all, t->vote, false));
  if (pieces) NP_TRY(t->ops->sum_squares(t->ops, last, np_model_weights(t->model) + kept->kept - last, t->vote, true));
  NP_TRY(t->ops->download(t->ops, squares, t->vote, sizeof *squares));
  if (pieces) st = clear_gradients(t);
out:
  return st;
}

np_status np_collect_compare(np_trainer *t) {
  np_status st = NP_OK;
  double squares;
  if (np_comm_world(t->comm) == 1) goto out;
  NP_TRY(sum_weights(t, &squares));
  st = np_comm_near(t->comm, "the sums of all squared weights", squares);
out:
  return st;
}
