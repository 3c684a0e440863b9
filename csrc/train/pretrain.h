/* Pretraining: the loop, from a recipe to a run folder. */
#ifndef NP_TRAIN_PRETRAIN_H
#define NP_TRAIN_PRETRAIN_H

#include "recipe/recipe.h"
#include "util/status.h"

/* Train as the recipe says until its last step, going on from the run folder's newest checkpoint (run.resume). Size,
 * memory and precision are told before anything is allocated. `command` is what the user typed, for the record; NULL:
 * unknown.
 *
 * NP_ERR_INTERRUPTED after SIGTERM, SIGUSR1 or SIGINT: the step was finished and a checkpoint written. NP_ERR_NUMERIC
 * after train.max_bad_steps non-finite steps in a row. NP_ERR_MEMORY when the plan does not fit. On any error the
 * newest checkpoint written before stands. */
np_status np_pretrain(const np_recipe *recipe, const char *command);

#endif
