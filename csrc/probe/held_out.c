#include "probe/held_out.h"

#include "data/loader.h"
#include "data/sampler.h"
#include "probe/features.h"
#include "util/file.h"
#include "util/log.h"

#include <math.h>
#include <stdlib.h>

static void draw_prefixes(const np_loader_options *o, const np_batch *now, int64_t begin, int32_t *prefix) {
  for (int i = 0; i < now->count; i++) prefix[i] = np_sampler_draw_prefix(o, 0, begin + now->indices[i]);
}

static void tell(const np_opened *opened, int64_t done, int64_t all) {
  char *status = np_format("predicting: %lld of %lld images", (long long)done, (long long)all);
  if (np_comm_rank(opened->comm) == 0) np_log_set_status(status);
  free(status);
}

/* The sum of losses over a part of the set, the first of which is image `begin`. */
static np_status sum_part(const np_opened *opened, const np_dataset *part, int64_t begin, int batch, np_held_out *out) {
  np_status st = NP_OK;
  np_loader *loader = NULL;
  const np_batch *now = NULL;
  const np_recipe *recipe = opened->recipe;
  np_loader_options options = np_features_loader(recipe, batch);
  options.prefix_min = recipe->data.prefix[0], options.prefix_max = recipe->data.prefix[1];
  options.max_bad_share = 1;          /* all ranks' images are judged together */
  if (part->count == 0) return NP_OK; /* fewer images than ranks */
  int32_t *prefix = malloc((size_t)batch * sizeof *prefix);
  if (!prefix) return np_error(NP_ERR_MEMORY, "loss: out of memory");
  NP_TRY(np_loader_open(part, &options, &loader));
  for (;;) {
    NP_TRY(np_loader_next(loader, &now));
    if (!now) break;
    draw_prefixes(&options, now, begin, prefix);
    NP_TRY(np_model_feed(opened->model, now->count, now->pixels, NULL, prefix));
    NP_TRY(np_model_loss(opened->model, out->images == 0));
    out->targets += np_model_targets(&recipe->model, now->count, prefix);
    out->images += now->count;
    tell(opened, out->images, part->count);
  }
  out->bad = np_loader_stats_read(loader).bad;
  if (out->images > 0) st = np_model_read_loss(opened->model, &out->loss);
out:
  np_log_set_status(NULL);
  np_loader_close(loader);
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
  int64_t begin;
  const np_dataset part = np_open_part(opened, set, &begin);
  *out = (np_held_out){0};
  NP_TRY(np_comm_settle(opened->comm, sum_part(opened, &part, begin, batch, out)));
  NP_TRY(add_up(opened->comm, out));
  st = np_comm_settle(opened->comm, judge(opened, set, out));
out:
  return st;
}
