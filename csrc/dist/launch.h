/* Who started this process, and as which of how many. */
#ifndef NP_DIST_LAUNCH_H
#define NP_DIST_LAUNCH_H

#include "util/status.h"

typedef struct np_launch {
  const char *launcher; /* "torchrun", "mpirun", "srun"; NULL: started by hand */
  int rank, world;      /* 0 and 1 when started by hand */
} np_launch;

/* Read the environment that torchrun (RANK, WORLD_SIZE), Open MPI and MPICH's mpirun and srun (inside a step) give
 * their processes. NP_ERR_ARGUMENT when one of a pair is missing or makes no sense. */
np_status np_launch_detect(np_launch *out);

/* NP_ERR_ARGUMENT when there is more than one process: this program has no collectives yet, and each process alone
 * would compute something else than what was asked for. */
np_status np_launch_single(void);

#endif
