/* Which keys of a recipe decide the weights, and whether a run may go on from a checkpoint. */
#ifndef NP_TRAIN_GUARD_H
#define NP_TRAIN_GUARD_H

#include "checkpoint/checkpoint.h"
#include "recipe/recipe.h"
#include "util/dtype.h"
#include "util/status.h"

/* The recipe as YAML with everything that does not decide the weights (paths, logging, checkpoints, workers, backend)
 * at its default: what a weight file carries, so that equal weights are equal files wherever
 * they were made. The probe section is kept. malloc'ed. */
np_status np_guard_recipe(const np_recipe *recipe, char **out);

/* NP_ERR_ARGUMENT naming the keys that differ from the checkpoint's, or the data, when going on would train something
 * else. `state` is the present run's. */
np_status np_guard_check(const np_recipe *recipe, const np_checkpoint_state *state, const np_checkpoint *checkpoint);

/* Hardware, instruction sets, attention kernels, threads, ranks and micro-batch change bits only: a warning for what
 * differs from `old`, the checkpoint's. What one of the two does not know is not compared. */
void np_guard_warn(const np_checkpoint_state *state, const np_checkpoint_state *old);

#endif
