/* Who started this process, as which of how many, and where the first one is. */
#ifndef NP_DIST_LAUNCH_H
#define NP_DIST_LAUNCH_H

#include "util/status.h"

#include <stdbool.h>

typedef struct np_launch {
  const char *launcher;        /* "torchrun", "mpirun", "srun"; NULL: started by hand */
  bool mpi;                    /* the launcher is MPI's own */
  int rank, world;             /* 0 and 1 when started by hand */
  int local_rank, local_world; /* among the processes on this machine; 0 and 1 where the launcher does not tell */
} np_launch;

/* Read the environment that torchrun (RANK, WORLD_SIZE, …), Open MPI and MPICH's mpirun and srun (inside a step) give
 * their processes. NP_ERR_ARGUMENT when one of a pair is missing or makes no sense. */
np_status np_launch_detect(np_launch *out);

/* For commands that run in one process: NP_ERR_ARGUMENT when there is more than one, which would each do all the work
 * and write the same files. `command` stands in the message. */
np_status np_launch_single(const char *command);

/* The GPU of a rank among the `count` that it sees: `device` of the recipe when it is the only rank; else the one of
 * its place on the machine, or the only one that its launcher lets it see. NP_ERR_ARGUMENT when ranks would share one,
 * as far as the launcher lets them see that. */
np_status np_launch_device(const np_launch *launch, int device, int count, int *out);

/* "HOST:PORT" where ranks find the first one: MASTER_ADDR and MASTER_PORT. torchrun itself listens on that port, so
 * with it the port is the next. Ranks of one machine need neither. NP_ERR_ARGUMENT with what to set. */
enum { NP_LAUNCH_ADDRESS = 272 };
np_status np_launch_address(const np_launch *launch, char out[NP_LAUNCH_ADDRESS]);

#endif
