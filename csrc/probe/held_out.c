#include "probe/held_out.h"

#include "data/sampler.h"
#include "probe/walk.h"

#include <math.h>
#include <stdlib.h>

static np_status predict(const np_opened *opened, const np_walk *walk, const np_batch *now, int32_t *prefix,
                         np_held_out *out) {
  np_status st = NP_OK;
  for (int i = 0; i < now->count; i++)
    prefix[i] = np_sampler_draw_prefix(&walk->options, 0, walk->begin + now->indices[i]);
  NP_TRY(np_model_feed(opened->model, now->count, now->pixels, NULL, prefix));
  NP_TRY(np_model_loss(opened->model, out->images == 0));
  out->targets += np_model_targets(&opened->recipe->model, now->count, prefix);
  out->images += now->count;
out:
  return st;
}

/* The sum of losses over this rank's part. */
static np_status sum_part(const np_opened *opened, const np_dataset *set, int batch, np_held_out *out) {
  np_status st = NP_OK;
  np_walk walk = {0};
  const np_batch *now;
  int32_t *prefix = malloc((size_t)batch * sizeof *prefix);
  if (!prefix) st = np_error(NP_ERR_MEMORY, "loss: out of memory");
  if (st == NP_OK) st = np_walk_open(opened, set, batch, "predicting", &walk);
  NP_TRY(np_comm_settle(opened->comm, st));
  for (;;) {
    NP_TRY(np_walk_next(&walk, st, &now));
    if (!now) break;
    st = predict(opened, &walk, now, prefix, out);
  }
  out->bad = np_walk_bad(&walk);
  if (out->images > 0) st = np_model_read_loss(opened->model, &out->loss);
  st = np_comm_settle(opened->comm, st);
out:
  np_walk_close(&walk);
  free(prefix);
  return st;
}

static np_status add_up(np_comm *comm, np_held_out *out) {
  enum { IMAGES, BAD, TARGETS, LOSS, COUNT };
  double all[COUNT] = {(double)out->images, (double)out->bad, (double)out->targets, out->loss}; /* exact up to 2^53 */
  np_status st = np_comm_total(comm, all, COUNT);
  *out = (np_held_out){.images = (int64_t)all[IMAGES],
                       .bad = (int64_t)all[BAD],
                       .targets = (int64_t)all[TARGETS],
                       .loss = all[LOSS] / all[TARGETS]};
  return st;
}

static np_status judge(const np_opened *opened, const np_dataset *set, const np_held_out *out) {
  if (out->images == 0)
    return np_error(NP_ERR_FORMAT, "loss: none of the %lld images can be read", (long long)set->count);
  if (!isfinite(out->loss))
    return np_error(NP_ERR_NUMERIC, "%s: its outputs are not finite: loss %g over %lld images", opened->path, out->loss,
                    (long long)out->images);
  return np_loader_check_bad(out->bad, out->images + out->bad, opened->recipe->data.max_bad_share);
}

np_status np_held_out_loss(const np_opened *opened, const np_dataset *set, int batch, np_held_out *out) {
  np_status st = NP_OK;
  *out = (np_held_out){0};
  NP_TRY(sum_part(opened, set, batch, out));
  NP_TRY(add_up(opened->comm, out));
  st = np_comm_settle(opened->comm, judge(opened, set, out));
out:
  return st;
}
