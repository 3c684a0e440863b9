#include "dist/launch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_PORT = 29500 };

static const struct launcher {
  const char *name, *rank, *world, *local_rank, *local_world;
  bool mpi;
} launchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", false},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", true},
    {"mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", true},
    /* SLURM_NTASKS also stands in a batch script's environment, where the program runs once: only a step counts. */
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", NULL, false},
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

/* Of a list like "8(x3),4", processes on each machine in turn: those on machine `node`; 0: it does not say. */
static int tasks_on(const char *list, int node) {
  for (int first = 0; *list;) {
    char *end;
    long tasks = strtol(list, &end, 10), times = 1;
    if (end == list || tasks < 1 || tasks > INT_MAX) return 0;
    if (end[0] == '(' && end[1] == 'x') times = strtol(end + 2, &end, 10), end += *end == ')';
    if (node >= first && node < first + times) return (int)tasks;
    first += (int)times;
    list = end + (*end == ',');
    if (list == end && *end) return 0;
  }
  return 0;
}

/* The place among the processes of this machine, where it is told. */
static np_status local_place(const struct launcher *l, np_launch *out) {
  np_status st = NP_OK;
  const char *rank = getenv(l->local_rank), *world = l->local_world ? getenv(l->local_world) : NULL;
  const char *list = l->local_world ? NULL : getenv("SLURM_STEP_TASKS_PER_NODE"), *node = getenv("SLURM_NODEID");
  int machine = 0, tasks = 0;
  if (rank) NP_TRY(number(l->local_rank, rank, &out->local_rank));
  if (world) NP_TRY(number(l->local_world, world, &out->local_world));
  if (list && node) NP_TRY(number("SLURM_NODEID", node, &machine));
  if (list && node) tasks = tasks_on(list, machine);
  if (tasks > 0) out->local_world = tasks;
out:
  return st;
}

/* srun speaks PMI-2, too, to whoever listens: its ranks are not MPI's for that. */
static bool is_srun(const struct launcher *l, const char *world) {
  const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
  return !strcmp(l->world, "PMI_SIZE") && tasks && !strcmp(tasks, world) && !getenv("MPI_LOCALRANKID");
}

np_status np_launch_detect(np_launch *out) {
  np_status st = NP_OK;
  *out = (np_launch){.world = 1, .local_world = 1};
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    const struct launcher *l = &launchers[i];
    const char *rank = getenv(l->rank), *world = getenv(l->world);
    if (!world || is_srun(l, world)) continue;
    if (!rank)
      return np_error(NP_ERR_ARGUMENT, "environment: %s=%s without %s: not a process of a %s run", l->world, world,
                      l->rank, l->name);
    NP_TRY(number(l->rank, rank, &out->rank));
    NP_TRY(number(l->world, world, &out->world));
    if (out->rank >= out->world)
      return np_error(NP_ERR_ARGUMENT, "environment: %s=%s, %s=%s: expected a rank below the number of processes",
                      l->rank, rank, l->world, world);
    out->launcher = l->name;
    out->mpi = l->mpi;
    st = local_place(l, out);
    goto out;
  }
out:
  return st;
}

np_status np_launch_single(const char *command) {
  np_status st;
  np_launch launch;
  NP_TRY(np_launch_detect(&launch));
  if (launch.world > 1)
    st = np_error(NP_ERR_ARGUMENT, "%s started %d processes, and '%s' runs in one: start it once", launch.launcher,
                  launch.world, command);
out:
  return st;
}

np_status np_launch_device(const np_launch *launch, int device, int count, int *out) {
  *out = device;
  if (launch->world == 1) return NP_OK;
  if (device >= 0 && launch->local_world > 1)
    return np_error(NP_ERR_ARGUMENT,
                    "device: %d: the %d ranks of this machine would share that GPU; leave the key out, and each takes "
                    "its own",
                    device, launch->local_world);
  if (device >= 0) return NP_OK;
  if (count == 1 && launch->local_world > 1 && !getenv("CUDA_VISIBLE_DEVICES"))
    return np_error(NP_ERR_ARGUMENT, "%d ranks on a machine that shows 1 GPU: start one process a GPU",
                    launch->local_world);
  *out = count == 1 ? 0 : launch->local_rank; /* a launcher that hands out GPUs shows a rank its own alone */
  if (count > 1 && launch->local_rank >= count)
    return np_error(NP_ERR_ARGUMENT,
                    "rank %d is process %d of its machine, which shows %d GPUs: start one process a GPU", launch->rank,
                    launch->local_rank, count);
  return NP_OK;
}

/* Whether torchrun's own store listens where MASTER_PORT says, as it has since it gives its workers that store. */
static bool port_taken(const np_launch *launch) {
  const char *agent = getenv("TORCHELASTIC_USE_AGENT_STORE");
  return launch->launcher && !launch->mpi && getenv("TORCHELASTIC_RUN_ID") && (!agent || agent[0] != 'F');
}

np_status np_launch_address(const np_launch *launch, char out[NP_LAUNCH_ADDRESS]) {
  np_status st = NP_OK;
  const char *host = getenv("MASTER_ADDR"), *text = getenv("MASTER_PORT");
  int port = DEFAULT_PORT;
  if (text) NP_TRY(number("MASTER_PORT", text, &port));
  if (port < 1 || port + port_taken(launch) > 65535)
    return np_error(NP_ERR_ARGUMENT, "environment variable MASTER_PORT='%s': expected a port, 1 to 65535", text);
  if (!host && launch->local_world < launch->world)
    return np_error(NP_ERR_ARGUMENT,
                    "%d ranks on several machines: set MASTER_ADDR to the first one's name (and MASTER_PORT, %d else); "
                    "with Slurm: export MASTER_ADDR=$(scontrol show hostnames | head -n 1)",
                    launch->world, DEFAULT_PORT);
  if (!host) host = "127.0.0.1";
  const bool six = strchr(host, ':') && host[0] != '['; /* an IPv6 address as a number */
  int length =
      snprintf(out, NP_LAUNCH_ADDRESS, "%s%s%s:%d", six ? "[" : "", host, six ? "]" : "", port + port_taken(launch));
  if (length >= NP_LAUNCH_ADDRESS)
    st = np_error(NP_ERR_ARGUMENT, "environment variable MASTER_ADDR: longer than a host's name");
out:
  return st;
}
