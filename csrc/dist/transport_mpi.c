/* MPI between CPU ranks; and, for GPUs, what brings NCCL's ranks together where mpirun started them. */
#include "dist/transport.h"

#include "np_build_config.h"

#include <stdlib.h>
#include <string.h>

bool np_mpi_serves(const np_launch *launch) {
  return NP_BUILD_MPI && (launch->mpi || getenv("PMIX_RANK") || getenv("PMI_RANK")); /* as srun --mpi= sets them */
}

#if NP_BUILD_MPI
#include <limits.h>
#include <mpi.h>

enum { PART = 1 << 28 }; /* elements of one call, which counts with an int */

static np_status failed(const char *call, int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return np_error(NP_ERR_LIBRARY, "%.*s: %s", (int)strcspn(call, "("), call, text);
}

#define MPI_TRY(call)                                                                                                  \
  do {                                                                                                                 \
    int np_mpi_code = (call);                                                                                          \
    if (np_mpi_code != MPI_SUCCESS) {                                                                                  \
      st = failed(#call, np_mpi_code);                                                                                 \
      goto out;                                                                                                        \
    }                                                                                                                  \
  } while (0)

np_status np_mpi_begin(const np_launch *launch) {
  np_status st = NP_OK;
  int begun = 0, world = 0, rank = 0, provided;
  MPI_TRY(MPI_Initialized(&begun));
  if (!begun) MPI_TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
  MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &world));
  MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
  if (world != launch->world || rank != launch->rank)
    st =
        np_error(NP_ERR_ARGUMENT,
                 "%s started this as rank %d of %d, and MPI sees rank %d of %d: the launcher is not that of the MPI in "
                 "this build (MPI %s); with srun try --mpi=pmix",
                 launch->launcher, launch->rank, launch->world, rank, world, NP_BUILD_MPI_VERSION);
out:
  return st;
}

np_status np_mpi_from_first(void *bytes, int count) {
  np_status st = NP_OK;
  MPI_TRY(MPI_Bcast(bytes, count, MPI_BYTE, 0, MPI_COMM_WORLD));
out:
  return st;
}

/* Alone a rank must not wait in MPI_Finalize: mpirun then finds it gone, and ends the others. */
void np_mpi_end(bool together) {
  int begun = 0, ended = 0;
  if (!together || MPI_Initialized(&begun) != MPI_SUCCESS || MPI_Finalized(&ended) != MPI_SUCCESS) return;
  if (begun && !ended) (void)MPI_Finalize();
}

/* ---- the transport ---- */

typedef struct ranks {
  np_transport table; /* first */
  int rank, world;
} ranks;

static np_status mpi_sum(np_transport *transport, int signal, void *slice, int64_t count, np_dtype type) {
  np_status st = NP_OK;
  (void)transport, (void)signal; /* operations of the CPU are done when they are queued */
  for (int64_t done = 0; done < count; done += PART) {
    int part = (int)(count - done < PART ? count - done : PART);
    void *at = (char *)slice + (size_t)done * np_dtype_size(type);
    MPI_TRY(MPI_Allreduce(MPI_IN_PLACE, at, part, type == NP_F32 ? MPI_FLOAT : MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD));
  }
out:
  return st;
}

/* All of it: Open MPI's MPI_Reduce_scatter_block takes longer than that, and on one rank more memory. */
static np_status mpi_scatter(np_transport *transport, int signal, float *slice, int64_t count) {
  return mpi_sum(transport, signal, slice, count * ((ranks *)transport)->world, NP_F32);
}

static np_status mpi_gather(np_transport *transport, const void *mine, void *all, size_t bytes) {
  np_status st = NP_OK;
  char *here = (char *)all + (size_t)((ranks *)transport)->rank * bytes;
  const bool words = bytes % sizeof(float) == 0; /* which MPI counts four times as many bytes of */
  const size_t count = words ? bytes / sizeof(float) : bytes;
  if (count > INT_MAX) return np_error(NP_ERR_ARGUMENT, "a piece of %zu bytes is more than MPI counts", bytes);
  if (mine != here) memcpy(here, mine, bytes);
  MPI_TRY(
      MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, all, (int)count, words ? MPI_FLOAT : MPI_BYTE, MPI_COMM_WORLD));
out:
  return st;
}

static np_status mpi_join(np_transport *transport) {
  (void)transport;
  return NP_OK;
}

static np_status mpi_reduce(np_transport *transport, np_reduction how, double *values, int count) {
  np_status st = NP_OK;
  (void)transport;
  MPI_TRY(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, how == NP_SUM ? MPI_SUM : MPI_MAX, MPI_COMM_WORLD));
out:
  return st;
}

static void mpi_close(np_transport *transport, bool together) {
  (void)transport;
  np_mpi_end(together);
}

np_status np_transport_mpi(const np_launch *launch, np_transport **out) {
  static ranks all = {.table = {.sum = mpi_sum,
                                .scatter = mpi_scatter,
                                .gather = mpi_gather,
                                .join = mpi_join,
                                .reduce = mpi_reduce,
                                .close = mpi_close}};
  np_status st = NP_OK;
  *out = NULL;
  if (!np_mpi_serves(launch))
    return np_error(
        NP_ERR_ARGUMENT,
        "%s started %d ranks on CPUs, which MPI brings together: start them with mpirun (or srun --mpi=pmix)",
        launch->launcher, launch->world);
  NP_TRY(np_mpi_begin(launch));
  all.rank = launch->rank, all.world = launch->world;
  *out = &all.table;
out:
  return st;
}

#else

static np_status absent(void) {
  return np_error(NP_ERR_ARGUMENT,
                  "this build has no MPI, which brings several CPU ranks together: install its headers "
                  "(Debian: libopenmpi-dev) and configure again, or start one process");
}

np_status np_mpi_begin(const np_launch *launch) {
  (void)launch;
  return absent();
}

np_status np_mpi_from_first(void *bytes, int count) {
  (void)bytes, (void)count;
  return absent();
}

void np_mpi_end(bool together) { (void)together; }

np_status np_transport_mpi(const np_launch *launch, np_transport **out) {
  (void)launch;
  *out = NULL;
  return absent();
}
#endif
