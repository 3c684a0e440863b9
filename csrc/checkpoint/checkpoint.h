/* Checkpoints of a run.
 *
 *   RUN/checkpoints/step-00001000/model.safetensors      weights, published names; the recipe in its metadata
 *                                 optimizer.safetensors  exp_avg.NAME, exp_avg_sq.NAME
 *                                 checkpoint.json        written last: step, counters, size and XXH3-128 of both files
 *
 * A checkpoint is written as a hidden folder, every file synced, and then renamed: whatever stands under its final name
 * is whole. One that is to go is first renamed to a hidden name. So at no moment does a kill or a full disk cost a
 * checkpoint that was there. */
#ifndef NP_CHECKPOINT_CHECKPOINT_H
#define NP_CHECKPOINT_CHECKPOINT_H

#include "model/params.h"
#include "util/safetensors.h"
#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

#define NP_CHECKPOINT_FOLDER   "checkpoints"
#define NP_CHECKPOINT_MODEL    "model.safetensors"
#define NP_CHECKPOINT_MOMENTS  "optimizer.safetensors"
#define NP_CHECKPOINT_ABOUT    "checkpoint.json"
#define NP_METADATA_RECIPE     "recipe" /* in model.safetensors: np_recipe_dump of what decides the weights */
#define NP_METADATA_STEP       "step"
#define NP_METADATA_WRITTEN_BY "nextpatch"

/* Everything of a run's state that is not an array. */
typedef struct np_checkpoint_state {
  int64_t step;                    /* steps behind us, whether applied or not */
  int64_t applied;                 /* of those, steps that changed the weights */
  int bad_in_row;                  /* non-finite steps since the last applied one */
  double seconds;                  /* spent training, over all starts of the run */
  np_dtype act;                    /* what the products ran in */
  int threads;                     /* of the operators: they decide bits, not mathematics */
  int micro_batch;                 /* likewise */
  int ranks;                       /* likewise; 1 where an older program wrote none */
  bool sharded;                    /* likewise: train.shard of several ranks */
  char hardware[80];               /* likewise: np_ops_choice.hardware; older programs wrote "cpu" alone */
  char attention[16];              /* likewise: which kernels of the CUDA backend; "": the CPU's, or an older program */
  int64_t images;                  /* in the training folder */
  uint64_t listing;                /* hash of their names */
  int64_t images_seen, images_bad; /* np_loader_stats by that step; 0 where an older program wrote none */
} np_checkpoint_state;

/* What is written; all of it the caller's. The arrays are fetched when they are needed, into one staging buffer, so
 * that a checkpoint costs two copies on the host and not three. */
typedef struct np_checkpoint_content {
  np_checkpoint_state state;
  const np_params *params;
  const char *recipe;                                               /* YAML */
  float *staging;                                                   /* [2, params->total] */
  np_status (*weights)(void *context, float *out);                  /* [total] */
  np_status (*moments)(void *context, float *first, float *second); /* [total] each */
  void *context;
} np_checkpoint_content;

/* Write RUN/checkpoints/step-N; durable when it returns NP_OK. On failure nothing but the hidden folder is touched, and
 * that is removed. */
np_status np_checkpoint_save(const char *run, const np_checkpoint_content *content);

/* Remove what `keep_last` newest and multiples of `keep_every` (0: none) do not cover. Call after a save. */
np_status np_checkpoint_prune(const char *run, int keep_last, int64_t keep_every);

/* Remove what killed programs left half-written or half-removed. */
np_status np_checkpoint_clean(const char *run);

/* Rename checkpoints behind `step` to step-N.damaged: they were found damaged and the run goes on from before them. */
np_status np_checkpoint_set_aside(const char *run, int64_t step);

typedef struct np_checkpoint {
  char *path; /* the step folder */
  np_checkpoint_state state;
  const char *recipe; /* YAML, of the model file's metadata */
  np_safetensors *model, *moments;
} np_checkpoint;

/* Open a step folder and verify all of it: sizes, checksums, headers. NP_ERR_FORMAT with the reason when anything is
 * missing or not as it was written: damage, and nothing else has that status. What the system does not let us read is
 * NP_ERR_IO, another program's format NP_ERR_ARGUMENT: such a checkpoint may be whole. */
np_status np_checkpoint_open(const char *folder, np_checkpoint **out);
void np_checkpoint_close(np_checkpoint *checkpoint); /* NULL is fine */

/* Verify a weight file against the checkpoint.json beside it; fine where there is none, for the file is then no
 * checkpoint's. */
np_status np_checkpoint_verify_model(const char *path);

/* The weight file behind `model`: a .safetensors file itself; a checkpoint folder's model.safetensors; that of a run's
 * newest checkpoint, NP_ERR_FORMAT where that lacks it. *out is malloc'ed. NP_ERR_ARGUMENT says what was looked for and
 * where. */
np_status np_checkpoint_locate(const char *model, char **out);

/* The newest checkpoint of a run; *out is NULL when there is none. A damaged one is an error, or with `fallback` a
 * warning and the one before it is tried. One that cannot be read for another reason is always an error. */
np_status np_checkpoint_newest(const char *run, bool fallback, np_checkpoint **out);

/* Steps of the checkpoints in a run folder, ascending; malloc'ed. No checkpoints folder: none. Folders count that are
 * named as np_checkpoint_path names them. */
np_status np_checkpoint_list(const char *run, int64_t **steps, int *count);
/* Path of the step folder, malloc'ed. */
char *np_checkpoint_path(const char *run, int64_t step);

/* Fill host arrays [params->total] (NULL: not that one) by name, gaps zeroed; names and shapes must be those of
 * `params`, else NP_ERR_FORMAT. */
np_status np_checkpoint_weights(const np_checkpoint *checkpoint, const np_params *params, float *weights);
np_status np_checkpoint_moments(const np_checkpoint *checkpoint, const np_params *params, float *first, float *second);

#endif
