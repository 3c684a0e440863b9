#include "train/guard.h"

#include "checkpoint/checkpoint_files.h"
#include "util/file.h"
#include "util/log.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* for_file: with what a weight file carries beside: the precision as asked for and the probe section. */
static np_status essence(const np_recipe *recipe, bool for_file, char **out) {
  np_status st = NP_OK;
  np_recipe *defaults = NULL;
  char empty[] = "";
  NP_TRY(np_recipe_load(NULL, NULL, 0, &defaults));
  np_recipe kept = *defaults; /* borrows strings; never freed itself */
  kept.seed = recipe->seed;
  kept.model = recipe->model;
  kept.data = recipe->data;
  kept.data.train = empty;
  kept.data.workers = defaults->data.workers;
  kept.data.prefetch = defaults->data.prefetch;
  kept.data.max_bad_share = defaults->data.max_bad_share;
  kept.optim = recipe->optim;
  kept.train.steps = recipe->train.steps;
  kept.train.batch = recipe->train.batch;
  if (for_file) {
    kept.precision = recipe->precision;
    kept.probe = recipe->probe;
  }
  st = np_recipe_dump(&kept, out);
out:
  np_recipe_free(defaults);
  return st;
}

np_status np_guard_recipe(const np_recipe *recipe, char **out) { return essence(recipe, true, out); }

/* The keys whose lines differ, with what they were. */
static char *differences(const char *now, const char *then) {
  char *list = np_format("%s", "");
  np_difference d = {.a = now, .b = then};
  while (np_recipe_next_difference(&d)) {
    const char *value = memchr(d.b_line, ':', (size_t)d.b_length);
    int from = value ? (int)(value - d.b_line) + 1 + (value[1] == ' ') : d.b_length;
    char *longer = np_format("%s%s%s%.*s (was %.*s)", list, *list ? ", " : "", d.section, d.a_length, d.a_line,
                             d.b_length - from, d.b_line + from);
    free(list);
    list = longer;
  }
  return list;
}

static np_status check_recipe(const np_recipe *recipe, const np_checkpoint *checkpoint) {
  np_status st = NP_OK;
  np_recipe *old = NULL;
  char *now = NULL, *then = NULL, *list = NULL;
  NP_TRY(np_recipe_parse(checkpoint->recipe, strlen(checkpoint->recipe), checkpoint->path, NULL, 0, &old));
  NP_TRY(essence(recipe, false, &now));
  NP_TRY(essence(old, false, &then));
  if (!strcmp(now, then)) goto out;
  list = differences(now, then);
  st = np_error(
      NP_ERR_ARGUMENT,
      "the recipe differs from that of checkpoint '%s': %s; set these back, or start anew with another run.dir "
      "(with run.init='%s' from these weights)",
      checkpoint->path, list, checkpoint->path);
out:
  free(list);
  free(then);
  free(now);
  np_recipe_free(old);
  return st;
}

np_status np_guard_check(const np_recipe *recipe, const np_checkpoint_state *state, const np_checkpoint *checkpoint) {
  np_status st = NP_OK;
  const np_checkpoint_state *old = &checkpoint->state;
  NP_TRY(check_recipe(recipe, checkpoint));
  if (state->act != old->act) {
    st = np_error(NP_ERR_ARGUMENT,
                  "checkpoint '%s' was trained in %s, this run would go on in %s; set precision: %s where the "
                  "hardware has it, or start anew with another run.dir",
                  checkpoint->path, np_precision_name(old->act), np_precision_name(state->act),
                  np_precision_name(old->act));
    goto out;
  }
  if (state->images != old->images || state->listing != old->listing) {
    st = np_error(NP_ERR_ARGUMENT,
                  "data.train '%s' holds other images than checkpoint '%s' was trained on (%" PRId64
                  " files, then %" PRId64 "%s); give the same folder, or start anew with another run.dir",
                  recipe->data.train, checkpoint->path, state->images, old->images,
                  state->images == old->images ? ", with other names" : "");
    goto out;
  }
out:
  return st;
}

/* "cpu, " and its instruction sets; "cpu" alone is a checkpoint from before they were named. */
static bool is_cpu(const char *hardware) { return !strncmp(hardware, "cpu", 3); }

static bool differ(const char *now, const char *then) { return *now && *then && strcmp(now, then) != 0; }

void np_guard_warn(const np_checkpoint_state *state, const np_checkpoint_state *old) {
  bool unknown = is_cpu(state->hardware) && !strcmp(old->hardware, "cpu");
  if (!unknown && differ(state->hardware, old->hardware))
    np_warn("this run computes on %s, the checkpoint was made on %s: the same mathematics, but not the same bits",
            state->hardware, old->hardware);
  else if (state->threads != old->threads && is_cpu(state->hardware))
    np_warn("%d threads, the checkpoint was made with %d: the same mathematics, but not the same bits", state->threads,
            old->threads);
  else if (differ(state->attention, old->attention))
    np_warn("attention: %s, the checkpoint was made with %s: the same mathematics, but not the same bits",
            state->attention, old->attention);
  if (state->ranks != old->ranks)
    np_warn("%d ranks, the checkpoint was made with %d: the same mathematics, but not the same bits", state->ranks,
            old->ranks);
  else if (state->sharded != old->sharded)
    np_warn("train.shard: %s, the checkpoint was made with %s: the same mathematics, but not the same bits",
            state->sharded ? "optim" : "none", old->sharded ? "optim" : "none");
  else if (state->micro_batch != old->micro_batch)
    np_warn("micro-batches of %d, the checkpoint was made with %d: the same mathematics, but not the same bits",
            state->micro_batch, old->micro_batch);
}
