/* Private to this room: a run while it lasts. */
#ifndef NP_TRAIN_TRAINER_H
#define NP_TRAIN_TRAINER_H

#include "checkpoint/checkpoint.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "dist/comm.h"
#include "model/model.h"
#include "ops/choose.h"
#include "optim/optimiser.h"
#include "recipe/recipe.h"
#include "train/begin.h"
#include "train/metrics.h"

#include <stdbool.h>

enum { NP_TRAINER_VOTES = 5 };

typedef struct np_trainer {
  const np_recipe *recipe;
  np_launch launch;
  int batch; /* images of a step that are this rank's */
  np_dataset *dataset;
  np_ops_choice choice;
  np_ops *ops;
  np_comm *comm;
  np_model *model;
  np_optimiser *optimiser;
  np_loader *loader;
  np_metrics *metrics;
  np_begin begin;            /* of a new run */
  double *vote;              /* [NP_TRAINER_VOTES], device: what this rank says with a step, then all (step.c) */
  int64_t images_before[2];  /* seen and damaged, by earlier starts of the run */
  float *staging;            /* on the host: weights and moments on their way to and from files. [2, total] on the first
                                rank, who writes; [total] on the others, and only while they start */
  char *bad_list;            /* RUN/bad_images.txt, of other ranks RUN/bad_images.RANK.txt */
  char *essence;             /* the recipe as weight files carry it */
  np_checkpoint_state state; /* what the next checkpoint holds */
  int64_t saved;             /* step of the newest checkpoint; -1: none */
} np_trainer;

/* Whether this rank is the one that writes and tells. */
static inline bool np_trainer_first(const np_trainer *trainer) { return trainer->launch.rank == 0; }

/* Run the remaining steps: see np_pretrain. */
np_status np_trainer_run(np_trainer *trainer);

/* Model size, precision and memory as lines for the person; NP_ERR_MEMORY when the plan is more than the machine
 * grants. */
np_status np_trainer_announce(const np_trainer *trainer);

/* The same of the device as it was opened: others may hold memory there, too. NP_ERR_MEMORY when what is left is too
 * little. */
np_status np_trainer_check_device(const np_trainer *trainer);

/* Let model and optimiser take what their steps need besides, and say how much that is. */
np_status np_trainer_prepare(np_trainer *trainer);

/* Bytes of the loader's batches (of `batch` images each, and the prefix lengths of all ranks') and of the staging
 * buffer, which the model's own plan does not hold. */
size_t np_trainer_loader_bytes(const np_recipe *recipe, int batch);
size_t np_trainer_staging_bytes(const np_trainer *trainer, const np_params *params);

#endif
