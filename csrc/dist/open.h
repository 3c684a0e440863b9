/* A process as one of several: its part of the machine, its operators, and the way to the others. */
#ifndef NP_DIST_OPEN_H
#define NP_DIST_OPEN_H

#include "dist/comm.h"
#include "ops/choose.h"
#include "recipe/recipe.h"

/* Chooses and opens the operators that the recipe asks for, on this rank's part of the machine (cores where their
 * launcher has not given each rank its own; a GPU each), then the ranks, with run.patience. From here on warnings and
 * errors name the rank, and only the first says more than those. *ops and *comm are the caller's, also after an error,
 * NULL where they were not reached; comm is closed first. */
np_status np_ranks_open(const np_recipe *recipe, const np_launch *launch, np_ops_choice *choice, np_ops **ops,
                        np_comm **comm);

/* NP_ERR_ARGUMENT unless all ranks have the same recipe, but for the places and processors that each may have of its
 * own, and compute in the same precision. */
np_status np_ranks_compare(np_comm *comm, const np_recipe *recipe, np_dtype act);

#endif
