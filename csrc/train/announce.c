/* What a run says before its first step: what it needs, before any of it is taken, and what it took besides. */
#include "train/trainer.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/machine.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* "1.23 GiB" or "4.5 MiB". */
static const char *bytes_text(size_t bytes, char text[24]) {
  double b = (double)bytes;
  if (b >= 1e9) snprintf(text, 24, "%.2f GiB", b / (double)(1 << 30));
  else snprintf(text, 24, "%.1f MiB", b / (double)(1 << 20));
  return text;
}

size_t np_trainer_loader_bytes(const np_recipe *recipe, int batch) {
  const np_recipe_model *m = &recipe->model;
  size_t image = (size_t)m->image_size[0] * (size_t)m->image_size[1] * (size_t)m->channels;
  size_t numbers = sizeof(int64_t) + sizeof(int32_t), prefix = sizeof(int32_t); /* index, label */
  return ((size_t)recipe->data.prefetch + 1) *
         ((size_t)batch * (image + numbers) + (size_t)recipe->train.batch * prefix);
}

size_t np_trainer_staging_bytes(const np_trainer *t, const np_params *params) {
  return (np_trainer_first(t) ? 2 : 1) * (size_t)params->total * sizeof(float);
}

static void announce_model(const np_trainer *t, const np_params *params) {
  const np_recipe_model *m = &t->recipe->model;
  np_info("model: %.2f M parameters (trunk %.2f M, pixel head %.2f M), %d patches of %dx%dx%d an image",
          (double)params->elements * 1e-6, (double)(params->elements - params->head_elements) * 1e-6,
          (double)params->head_elements * 1e-6, np_recipe_tokens(m), m->patch_size, m->patch_size, m->channels);
}

static np_status plan_model(const np_trainer *t, np_memory_plan *plan) {
  const np_model_options options =
      np_model_training(t->recipe, t->launch.world, t->launch.rank, t->state.micro_batch, t->batch);
  np_status st = np_model_plan(&t->recipe->model, &options, t->state.act, plan);
  if (t->choice.backend != NP_BACKEND_CUDA) plan->recordings = 0;
  plan->total += plan->recordings;
  return st;
}

/* model: what is short is the memory that the model lies in. */
static np_status too_large(const np_trainer *t, bool model, const char *whose, size_t needed, size_t granted) {
  char text[2][24], advice[160] = "";
  const bool more = t->launch.world > 1 && !t->state.sharded;
  if (model)
    snprintf(advice, sizeof advice,
             "; a smaller train.micro_batch (now %d) takes less, or train.recompute: gelu_norm or block%s",
             t->state.micro_batch, more ? ", or train.shard: optim" : "");
  return np_error(NP_ERR_MEMORY, "the run needs %s of memory and %s grants %s%s", bytes_text(needed, text[0]), whose,
                  bytes_text(granted, text[1]), advice);
}

/* The model lies where the operators run: on a GPU what is left here is the loader's and the checkpoint's. */
static np_status announce_memory(const np_trainer *t, const np_params *params) {
  np_status st = NP_OK;
  np_memory_plan plan;
  char text[7][24], recordings[48] = "";
  size_t loader = np_trainer_loader_bytes(t->recipe, t->batch), staging = np_trainer_staging_bytes(t, params);
  NP_TRY(plan_model(t, &plan));
  bool gpu = t->choice.backend == NP_BACKEND_CUDA;
  size_t total = plan.total + loader + staging, here = gpu ? loader + staging : total;
  int64_t available = np_machine_memory_available();
  if (gpu) snprintf(recordings, sizeof recordings, " + recordings %s", bytes_text(plan.recordings, text[0]));
  np_info("memory: %s = weights %s + gradients %s + moments %s + activations %s + batches %s + checkpoint copy %s%s",
          bytes_text(total, text[0]), bytes_text(plan.weights + plan.low, text[1]), bytes_text(plan.gradients, text[2]),
          bytes_text(plan.moments, text[3]), bytes_text(plan.activations, text[4]),
          bytes_text(plan.batch + loader, text[5]), bytes_text(staging, text[6]), recordings);
  if (gpu && plan.total > t->choice.memory) st = too_large(t, true, "the GPU", plan.total, t->choice.memory);
  else if (available > 0 && here * (size_t)t->launch.local_world > (size_t)available)
    st = too_large(t, !gpu, "this machine", here * (size_t)t->launch.local_world, (size_t)available);
out:
  return st;
}

np_status np_trainer_check_device(const np_trainer *t) {
  np_status st = NP_OK;
  np_memory_plan plan;
  size_t available;
  NP_TRY(plan_model(t, &plan));
  NP_TRY(t->ops->available(t->ops, &available));
  bool gpu = t->choice.backend == NP_BACKEND_CUDA;
  if (plan.total > available) st = too_large(t, true, gpu ? t->choice.hardware : "this machine", plan.total, available);
out:
  return st;
}

np_status np_trainer_prepare(np_trainer *t) {
  np_status st = NP_OK;
  np_memory_plan plan;
  size_t before, after;
  char text[2][24];
  double start = np_seconds();
  NP_TRY(plan_model(t, &plan));
  NP_TRY(t->ops->available(t->ops, &before));
  const np_optimised what = np_optimised_model(t->model);
  NP_TRY(np_optimiser_prepare(t->optimiser, &what));
  NP_TRY(np_model_prepare(t->model, true));
  NP_TRY(t->ops->available(t->ops, &after));
  int recordings = np_model_recordings(t->model);
  if (recordings == 0) goto out;
  np_info("recordings: %d sizes of passes in %.1f s; with scratch and kernels %s of the GPU, planned %s", recordings,
          np_seconds() - start, bytes_text(before > after ? before - after : 0, text[0]),
          bytes_text(plan.recordings, text[1]));
out:
  return st;
}

np_status np_trainer_announce(const np_trainer *t) {
  np_status st = NP_OK;
  np_params params = {0};
  const np_recipe_train *train = &t->recipe->train;
  NP_TRY(np_params_layout(&t->recipe->model, true, &params));
  announce_model(t, &params);
  char shards[40] = "";
  if (t->dataset->shard_count > 0) snprintf(shards, sizeof shards, "%d tar files of ", t->dataset->shard_count);
  np_info("data: %" PRId64 " images in %s'%s'; %" PRId64 " steps of %d images are %.1f epochs", t->dataset->count,
          shards, t->recipe->data.train, train->steps, train->batch,
          (double)train->steps * train->batch / (double)t->dataset->count);
  if (t->launch.world > 1)
    np_info("ranks: %d, started by %s, %d images of each step on each%s", t->launch.world, t->launch.launcher, t->batch,
            t->state.sharded ? "; each keeps a part of the optimiser's state (train.shard)" : "");
  np_ops_announce(t->recipe, &t->choice);
  st = announce_memory(t, &params);
out:
  np_params_free(&params);
  return st;
}
