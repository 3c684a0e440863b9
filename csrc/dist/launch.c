#include "dist/launch.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

static const struct launcher {
  const char *name, *rank, *world;
} launchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE"},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"mpirun", "PMI_RANK", "PMI_SIZE"},
    /* SLURM_NTASKS also stands in a batch script's environment, where the program runs once: only a step counts. */
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
};

static np_status number(const char *name, const char *text, int *out) {
  char *end;
  errno = 0;
  long value = strtol(text, &end, 10);
  if (errno || end == text || *end || value < 0 || value > INT_MAX)
    return np_error(NP_ERR_ARGUMENT, "environment variable %s='%s': expected a whole number from 0", name, text);
  *out = (int)value;
  return NP_OK;
}

np_status np_launch_detect(np_launch *out) {
  np_status st = NP_OK;
  *out = (np_launch){.rank = 0, .world = 1};
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    const struct launcher *l = &launchers[i];
    const char *rank = getenv(l->rank), *world = getenv(l->world);
    if (!world) continue;
    if (!rank)
      return np_error(NP_ERR_ARGUMENT, "environment: %s=%s without %s: not a process of a %s run", l->world, world,
                      l->rank, l->name);
    NP_TRY(number(l->rank, rank, &out->rank));
    NP_TRY(number(l->world, world, &out->world));
    if (out->rank >= out->world)
      return np_error(NP_ERR_ARGUMENT, "environment: %s=%s, %s=%s: expected a rank below the number of processes",
                      l->rank, rank, l->world, world);
    out->launcher = l->name;
    return NP_OK;
  }
out:
  return st;
}

np_status np_launch_single(void) {
  np_status st;
  np_launch launch;
  NP_TRY(np_launch_detect(&launch));
  if (launch.world > 1)
    st = np_error(NP_ERR_ARGUMENT,
                  "%s started %d processes: this build trains in one process (collectives are not built in); start one",
                  launch.launcher, launch.world);
out:
  return st;
}
