#include "train/pretrain.h"

#include "dist/open.h"
#include "ops/cuda.h"
#include "train/guard.h"
#include "train/run_folder.h"
#include "train/trainer.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/log.h"
#include "util/machine.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- before anything is taken ------------------------------------------------------------------------------------ */

static np_status check_recipe(np_trainer *t) {
  np_status st;
  const np_recipe *recipe = t->recipe;
  NP_TRY(np_launch_detect(&t->launch));
  NP_TRY(np_recipe_share(recipe, t->launch.world, &t->batch, &t->state.micro_batch));
  if (!recipe->data.train || !*recipe->data.train)
    st = np_error(NP_ERR_ARGUMENT,
                  "data.train is not set: give images, in a folder or a tar, as data.train=images/train");
  else if (!recipe->run.dir || !*recipe->run.dir)
    st = np_error(NP_ERR_ARGUMENT, "run.dir is not set: give the folder of this run, as run.dir=runs/first");
out:
  return st;
}

/* The checkpoint to go on from; *out NULL: a fresh start. */
static np_status find_checkpoint(const np_recipe *recipe, np_checkpoint **out) {
  np_status st = NP_OK;
  int64_t *steps = NULL;
  int count = 0;
  *out = NULL;
  NP_TRY(np_checkpoint_list(recipe->run.dir, &steps, &count));
  if (recipe->run.resume == NP_RESUME_NEVER && count > 0)
    st = np_error(NP_ERR_ARGUMENT,
                  "run.resume: never, but '%s' holds checkpoints up to step %" PRId64 "; take another run.dir",
                  recipe->run.dir, steps[count - 1]);
  else if (recipe->run.resume == NP_RESUME_MUST && count == 0)
    st = np_error(NP_ERR_ARGUMENT, "run.resume: must, but '%s' holds no checkpoint", recipe->run.dir);
  else st = np_checkpoint_newest(recipe->run.dir, recipe->checkpoint.fallback == NP_YES, out);
out:
  free(steps);
  return st;
}

/* ---- taking it --------------------------------------------------------------------------------------------------- */

/* The version of attention this run gets, for the record: the first word of the reason for it. */
static void note_attention(np_trainer *t) {
  const np_recipe_model *m = &t->recipe->model;
  char text[NP_CUDA_TEXT] = "";
  if (t->choice.backend == NP_BACKEND_CUDA)
    np_cuda_attention_reason(t->ops, np_recipe_tokens(m), m->width / m->heads, text);
  snprintf(t->state.attention, sizeof t->state.attention, "%.*s", (int)strcspn(text, " "), text);
}

static np_status build(np_trainer *t) {
  np_status st = NP_OK;
  const np_model_options options =
      np_model_training(t->recipe, t->launch.world, t->launch.rank, t->state.micro_batch, t->batch);
  note_attention(t);
  NP_TRY(np_trainer_check_device(t));
  NP_TRY(np_model_create(t->ops, &t->recipe->model, &options, &t->model));
  NP_TRY(np_optimiser_create(t->ops, np_model_params(t->model), np_model_pieces(t->model), &t->recipe->optim,
                             &t->optimiser));
  NP_TRY(t->ops->alloc(t->ops, NP_TRAINER_VOTES * sizeof *t->vote, (void **)&t->vote));
  t->staging = malloc(np_trainer_staging_bytes(t, np_model_params(t->model)));
  if (!t->staging) st = np_error(NP_ERR_MEMORY, "no memory for the checkpoint copy");
out:
  return st;
}

static np_status start_fresh(np_trainer *t) {
  np_status st = np_begin_weights(&t->begin, t->recipe, np_model_params(t->model), t->staging);
  return st == NP_OK ? np_model_set_weights(t->model, t->staging) : st;
}

static np_status start_from(np_trainer *t, const np_checkpoint *checkpoint) {
  np_status st = NP_OK;
  const np_params *params = np_model_params(t->model);
  NP_TRY(np_checkpoint_weights(checkpoint, params, t->staging));
  NP_TRY(np_model_set_weights(t->model, t->staging));
  NP_TRY(np_checkpoint_moments(checkpoint, params, t->staging, NULL));
  NP_TRY(np_optimiser_set(t->optimiser, t->staging, NULL, checkpoint->state.applied));
  NP_TRY(np_checkpoint_moments(checkpoint, params, NULL, t->staging));
  NP_TRY(np_optimiser_set(t->optimiser, NULL, t->staging, checkpoint->state.applied));
  t->state.step = t->saved = checkpoint->state.step;
  t->state.applied = checkpoint->state.applied;
  t->state.bad_in_row = checkpoint->state.bad_in_row;
  t->state.seconds = checkpoint->state.seconds;
  t->state.images_seen = checkpoint->state.images_seen;
  t->state.images_bad = checkpoint->state.images_bad;
  t->images_before[0] = t->state.images_seen;
  t->images_before[1] = t->state.images_bad;
out:
  return st;
}

static np_status open_loader(np_trainer *t) {
  const np_recipe_data *d = &t->recipe->data;
  const np_recipe_model *m = &t->recipe->model;
  t->bad_list = np_trainer_first(t) ? np_path_join(t->recipe->run.dir, "bad_images.txt")
                                    : np_format("%s/bad_images.%d.txt", t->recipe->run.dir, t->launch.rank);
  const np_loader_options options = {
      .height = m->image_size[0],
      .width = m->image_size[1],
      .channels = m->channels,
      .batch = t->batch,
      .whole = t->recipe->train.batch,
      .first = t->launch.rank * t->batch,
      .seed = t->recipe->seed,
      .train = true,
      .first_batch = t->state.step,
      .seen = t->state.images_seen,
      .bad = t->state.images_bad,
      .batches = t->recipe->train.steps,
      .crop = {d->crop_scale[0], d->crop_scale[1], d->crop_ratio[0], d->crop_ratio[1]},
      .interpolation = d->interpolation == NP_RECIPE_BICUBIC ? NP_BICUBIC : NP_BILINEAR,
      .flip = d->flip,
      .jitter_probability = d->jitter_probability,
      .jitter = {d->jitter[0], d->jitter[1], d->jitter[2], d->jitter[3]},
      .prefix_min = d->prefix[0],
      .prefix_max = d->prefix[1],
      .workers = d->workers,
      .prefetch = d->prefetch,
      .max_pixels = d->max_pixels,
      .max_bad_share = t->launch.world > 1 ? 1 : d->max_bad_share, /* of all ranks' images: step.c judges those */
      .bad_list = t->bad_list,
  };
  return np_loader_open(t->dataset, &options, &t->loader);
}

static void release(np_trainer *t) {
  np_comm_close(t->comm); /* first: a device may be waiting for ranks that are gone */
  np_loader_close(t->loader);
  np_metrics_close(t->metrics);
  np_begin_close(&t->begin);
  np_optimiser_destroy(t->optimiser);
  np_model_destroy(t->model);
  if (t->vote) t->ops->release(t->ops, t->vote);
  if (t->ops) t->ops->destroy(t->ops);
  np_dataset_close(t->dataset);
  free(t->bad_list);
  free(t->staging);
  free(t->essence);
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* What all ranks must find alike: the recipe, the images, and where the run stands. */
static np_status compare(np_trainer *t, const np_checkpoint *checkpoint) {
  np_status st;
  NP_TRY(np_ranks_compare(t->comm, t->recipe, t->state.act));
  NP_TRY(np_comm_same(t->comm, "the images of data.train", (int64_t)t->state.listing));
  NP_TRY(np_comm_same(t->comm, "the checkpoints in run.dir", checkpoint ? checkpoint->state.step : -1));
out:
  return st;
}

/* Everything that the run needs before it computes. *checkpoint stays open; *complete: there is nothing left to do. */
static np_status find_start(np_trainer *t, np_checkpoint **checkpoint, bool *complete) {
  np_status st = NP_OK;
  const np_recipe *recipe = t->recipe;
  if (np_trainer_first(t)) st = np_checkpoint_clean(recipe->run.dir);
  NP_TRY(np_comm_settle(t->comm, st));
  st = find_checkpoint(recipe, checkpoint);
  if (st == NP_OK && *checkpoint) st = np_guard_check(recipe, &t->state, *checkpoint);
  if (st == NP_OK && !*checkpoint) st = np_begin_open(recipe, np_trainer_first(t), &t->begin);
  if (st == NP_OK) st = np_guard_recipe(recipe, &t->essence);
  NP_TRY(np_comm_settle(t->comm, st));
  NP_TRY(compare(t, *checkpoint));
  *complete = *checkpoint && (*checkpoint)->state.step == recipe->train.steps;
out:
  return st;
}

/* The first rank's part of it: the folder says what is running in it. */
static np_status describe(np_trainer *t, const np_checkpoint *checkpoint, const char *command) {
  np_status st = NP_OK;
  const char *run = t->recipe->run.dir;
  const np_run_record record = {.command = command,
                                .hardware = t->state.hardware,
                                .act = t->state.act,
                                .threads = t->state.threads,
                                .ranks = t->launch.world,
                                .init = t->begin.path,
                                .init_hash = t->begin.hash,
                                .step = t->state.step};
  if (!np_trainer_first(t)) return NP_OK;
  if (checkpoint) {
    np_guard_warn(&t->state, &checkpoint->state);
    np_info("going on from '%s'%s", checkpoint->path,
            t->recipe->run.init && *t->recipe->run.init ? ", not from run.init: that is for a new run" : "");
    NP_TRY(np_checkpoint_set_aside(run, t->state.step));
  }
  NP_TRY(np_run_describe(run, t->recipe, &record));
  st = np_metrics_open(run, t->state.step, &t->metrics);
out:
  return st;
}

static np_status take(np_trainer *t, const np_checkpoint *checkpoint, const char *command) {
  np_status st = NP_OK;
  NP_TRY(build(t));
  NP_TRY(checkpoint ? start_from(t, checkpoint) : start_fresh(t));
  if (!np_trainer_first(t)) { /* the first alone writes checkpoints */
    free(t->staging);
    t->staging = NULL;
  }
  NP_TRY(describe(t, checkpoint, command));
  NP_TRY(open_loader(t)); /* it decodes meanwhile */
  st = np_trainer_prepare(t);
out:
  return st;
}

/* The run folder is ours: find where to begin, take everything, train. */
static np_status train(np_trainer *t, const char *command) {
  np_status st = NP_OK;
  np_checkpoint *checkpoint = NULL;
  bool complete = false;
  NP_TRY(find_start(t, &checkpoint, &complete));
  if (complete) {
    np_info("'%s' is complete: step %" PRId64 " of %" PRId64, t->recipe->run.dir, checkpoint->state.step,
            t->recipe->train.steps);
    st = np_comm_part(t->comm, NP_OK);
    goto out;
  }
  NP_TRY(np_comm_settle(t->comm, take(t, checkpoint, command)));
  NP_TRY(np_comm_same(t->comm, "the weights of run.init", (int64_t)t->begin.hash));
  np_begin_close(&t->begin);       /* as little as the checkpoint's */
  np_checkpoint_close(checkpoint); /* its files need not stay mapped while the run lasts */
  checkpoint = NULL;
  st = np_trainer_run(t);
out:
  np_checkpoint_close(checkpoint);
  return st;
}

/* The images, what the run will need, and the folder's lock. */
static np_status survey(np_trainer *t, int *lock) {
  np_status st = NP_OK;
  t->state.act = t->choice.act;
  t->state.threads = t->choice.threads;
  t->state.ranks = t->launch.world;
  t->state.sharded = t->launch.world > 1 && t->recipe->train.shard == NP_SHARDING_OPTIM;
  memcpy(t->state.hardware, t->choice.hardware, sizeof t->state.hardware);
  NP_TRY(np_dataset_open(t->recipe->data.train, false, &t->dataset));
  t->state.images = t->dataset->count;
  t->state.listing = np_dataset_listing(t->dataset, t->recipe->data.train);
  NP_TRY(np_trainer_announce(t));
  if (np_trainer_first(t)) st = np_run_lock(t->recipe->run.dir, lock);
out:
  return st;
}

np_status np_pretrain(const np_recipe *recipe, const char *command) {
  np_status st = NP_OK;
  int lock = -1;
  np_trainer t = {.recipe = recipe, .saved = -1};
  np_interrupt_watch();
  NP_TRY(check_recipe(&t));
  /* Operators and ranks come first: what fails from then on, fails for all. */
  NP_TRY(np_ranks_open(recipe, &t.launch, &t.choice, &t.ops, &t.comm));
  NP_TRY(np_comm_settle(t.comm, survey(&t, &lock)));
  st = train(&t, command);
out:
  release(&t);
  np_run_unlock(lock);
  np_interrupt_release();
  return st;
}
