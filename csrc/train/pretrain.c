#include "train/pretrain.h"

#include "dist/launch.h"
#include "ops/cuda.h"
#include "train/guard.h"
#include "train/interrupt.h"
#include "train/run_folder.h"
#include "train/trainer.h"
#include "util/file.h"
#include "util/log.h"
#include "util/machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- before anything is taken ------------------------------------------------------------------------------------ */

static np_status check_recipe(const np_recipe *recipe) {
  np_status st;
  NP_TRY(np_launch_single());
  if (!recipe->data.train || !*recipe->data.train)
    st = np_error(NP_ERR_ARGUMENT, "data.train is not set: give a folder of images, as data.train=images/train");
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
  NP_TRY(np_checkpoint_clean(recipe->run.dir));
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
  const np_model_options options = np_model_training(t->recipe, t->state.micro_batch);
  NP_TRY(np_ops_open(t->recipe, &t->choice, &t->ops));
  note_attention(t);
  NP_TRY(np_trainer_check_device(t));
  NP_TRY(np_model_create(t->ops, &t->recipe->model, &options, &t->model));
  NP_TRY(np_optimiser_create(t->ops, np_model_params(t->model), &t->recipe->optim, &t->optimiser));
  t->staging = malloc(np_trainer_staging_bytes(np_model_params(t->model)));
  if (!t->staging) st = np_error(NP_ERR_MEMORY, "no memory for the checkpoint copy");
out:
  return st;
}

static np_status start_fresh(np_trainer *t) {
  np_params_init(np_model_params(t->model), t->recipe->seed, t->staging);
  return np_model_set_weights(t->model, t->staging);
}

static np_status start_from(np_trainer *t, const np_checkpoint *checkpoint) {
  np_status st = NP_OK;
  const np_params *params = np_model_params(t->model);
  float *second = t->staging + params->total;
  NP_TRY(np_checkpoint_weights(checkpoint, params, t->staging));
  NP_TRY(np_model_set_weights(t->model, t->staging));
  NP_TRY(np_checkpoint_moments(checkpoint, params, t->staging, second));
  NP_TRY(np_optimiser_set(t->optimiser, t->staging, second, checkpoint->state.applied));
  t->state.step = t->saved = checkpoint->state.step;
  t->state.applied = checkpoint->state.applied;
  t->state.bad_in_row = checkpoint->state.bad_in_row;
  t->state.seconds = checkpoint->state.seconds;
  t->state.images_seen = checkpoint->state.images_seen;
  t->state.images_bad = checkpoint->state.images_bad;
out:
  return st;
}

static np_status open_loader(np_trainer *t) {
  const np_recipe_data *d = &t->recipe->data;
  const np_recipe_model *m = &t->recipe->model;
  t->bad_list = np_path_join(t->recipe->run.dir, "bad_images.txt");
  const np_loader_options options = {
      .height = m->image_size[0],
      .width = m->image_size[1],
      .channels = m->channels,
      .batch = t->recipe->train.batch,
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
      .max_bad_share = d->max_bad_share,
      .bad_list = t->bad_list,
  };
  return np_loader_open(t->dataset, &options, &t->loader);
}

static void release(np_trainer *t) {
  np_loader_close(t->loader);
  np_metrics_close(t->metrics);
  np_optimiser_destroy(t->optimiser);
  np_model_destroy(t->model);
  if (t->ops) t->ops->destroy(t->ops);
  np_dataset_close(t->dataset);
  free(t->bad_list);
  free(t->staging);
  free(t->essence);
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* The run folder is ours: find where to begin, take everything, train. */
static np_status train(np_trainer *t, const char *command) {
  np_status st = NP_OK;
  const np_recipe *recipe = t->recipe;
  np_checkpoint *checkpoint = NULL;
  NP_TRY(find_checkpoint(recipe, &checkpoint));
  if (checkpoint) NP_TRY(np_guard_check(recipe, &t->state, checkpoint));
  if (checkpoint && checkpoint->state.step == recipe->train.steps) {
    np_info("'%s' is complete: step %" PRId64 " of %" PRId64, recipe->run.dir, checkpoint->state.step,
            recipe->train.steps);
    goto out;
  }
  NP_TRY(np_guard_recipe(recipe, &t->essence));
  NP_TRY(build(t));
  if (checkpoint) np_guard_warn(&t->state, &checkpoint->state);
  NP_TRY(checkpoint ? start_from(t, checkpoint) : start_fresh(t));
  if (checkpoint) {
    np_info("going on from '%s'", checkpoint->path);
    NP_TRY(np_checkpoint_set_aside(recipe->run.dir, t->state.step));
  }
  np_checkpoint_close(checkpoint); /* its files need not stay mapped while the run lasts */
  checkpoint = NULL;
  const np_run_record record = {command, t->state.hardware, t->state.act, t->state.threads, t->state.step};
  NP_TRY(np_run_describe(recipe->run.dir, recipe, &record));
  NP_TRY(np_metrics_open(recipe->run.dir, t->state.step, &t->metrics));
  NP_TRY(open_loader(t)); /* it decodes meanwhile */
  NP_TRY(np_trainer_prepare(t));
  st = np_trainer_run(t);
out:
  np_checkpoint_close(checkpoint);
  return st;
}

np_status np_pretrain(const np_recipe *recipe, const char *command) {
  np_status st = NP_OK;
  int lock = -1;
  np_trainer t = {.recipe = recipe, .saved = -1};
  np_interrupt_watch();
  NP_TRY(check_recipe(recipe));
  NP_TRY(np_ops_choose(recipe, &t.choice));
  t.state.act = t.choice.act;
  t.state.threads = t.choice.threads;
  memcpy(t.state.hardware, t.choice.hardware, sizeof t.state.hardware);
  t.state.micro_batch = recipe->train.micro_batch ? recipe->train.micro_batch : recipe->train.batch;
  NP_TRY(np_dataset_open(recipe->data.train, false, &t.dataset));
  t.state.images = t.dataset->count;
  t.state.listing = np_trainer_listing(t.dataset, recipe->data.train);
  NP_TRY(np_trainer_announce(&t));
  NP_TRY(np_run_lock(recipe->run.dir, &lock));
  st = train(&t, command);
out:
  release(&t);
  np_run_unlock(lock);
  np_interrupt_release();
  return st;
}
