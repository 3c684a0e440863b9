/* The folder of a run: one process at a time, and a record of what was started.
 *
 *   RUN/recipe.yaml                                  the whole recipe, defaults included
 *   RUN/run.json                                     version, commit, seed, command line, host, …
 *   RUN/lock                                         held while a process trains
 *   RUN/metrics.jsonl, RUN/events.out.tfevents.*     see metrics.h
 *   RUN/bad_images.txt                               damaged images, where there were any: a line each, added at every start
 *   RUN/bad_images.RANK.txt                          those of the ranks behind the first
 *   RUN/checkpoints/                                 see checkpoint/checkpoint.h
 */
#ifndef NP_TRAIN_RUN_FOLDER_H
#define NP_TRAIN_RUN_FOLDER_H

#include "recipe/recipe.h"
#include "util/dtype.h"
#include "util/status.h"

#include <stdint.h>

/* Make the folder and lock it. NP_ERR_IO when another process holds the lock. *descriptor is closed by np_run_unlock; a
 * killed process gives its lock back, too. */
np_status np_run_lock(const char *run, int *descriptor);
void np_run_unlock(int descriptor); /* -1 is fine */

typedef struct np_run_record {
  const char *command;  /* as the user typed it; NULL: unknown */
  const char *hardware; /* np_ops_choice.hardware */
  np_dtype act;
  int threads, ranks;
  const char *init;     /* the weight file that the run begins with; NULL: none, or the run goes on */
  uint64_t init_hash;   /* of these weights */
  int64_t step;         /* steps behind us at this start */
} np_run_record;

/* Write recipe.yaml and run.json. What a run began with stays in the latter when it goes on. */
np_status np_run_describe(const char *run, const np_recipe *recipe, const np_run_record *record);

#endif
