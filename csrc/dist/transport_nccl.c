/* NCCL between GPUs, on a stream beside the operations'. The library is opened when it is needed, as cuDNN is: a
 * program that was built with its header starts on machines without it. */
#include "dist/comm.h"
#include "dist/transport.h"

#include "np_build_config.h"

#ifdef NP_HAVE_NCCL
#include "ops/cuda.h"

#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the library ---- */

#define NCCL_FUNCTIONS(X)                                                                                              \
  X(ncclGetVersion)                                                                                                    \
  X(ncclGetErrorString)                                                                                                \
  X(ncclGetLastError)                                                                                                  \
  X(ncclGetUniqueId)                                                                                                   \
  X(ncclCommInitRank)                                                                                                  \
  X(ncclCommGetAsyncError)                                                                                             \
  X(ncclCommDestroy)                                                                                                   \
  X(ncclCommAbort)                                                                                                     \
  X(ncclAllReduce)                                                                                                     \
  X(ncclReduceScatter)                                                                                                 \
  X(ncclAllGather)

static struct {
#define MEMBER(name) __typeof__(name) *name;
  NCCL_FUNCTIONS(MEMBER)
#undef MEMBER
} nccl;
static bool found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_library(void) {
  static const char *const names[] = {"libnccl.so.2", NP_NCCL_LIBRARY_DIR "/libnccl.so.2"};
  void *handle = NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names && !handle; i++) handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!handle) return;
  found = true;
#define TAKE(name)                                                                                                     \
  *(void **)&nccl.name = dlsym(handle, #name);                                                                         \
  found = found && nccl.name;
  NCCL_FUNCTIONS(TAKE)
#undef TAKE
}

static np_status open_nccl(void) {
  pthread_once(&once, open_library);
  if (found) return NP_OK;
  return np_error(NP_ERR_LIBRARY,
                  "several GPUs need NCCL: libnccl.so.2 is not found or lacks a function; install it, or "
                  "set LD_LIBRARY_PATH");
}

int np_comm_nccl_version(void) {
  int version = 0;
  if (open_nccl() != NP_OK || nccl.ncclGetVersion(&version) != ncclSuccess) return 0;
  return version;
}

/* ---- the transport ---- */

typedef struct ranks {
  np_transport table; /* first */
  np_ops *ops;
  ncclComm_t comm;
  double *values; /* [NP_TRANSPORT_VALUES], device */
  int rank;
  bool mpi;
} ranks;

static np_status failed(const ranks *r, const char *call, ncclResult_t code) {
  const char *more = nccl.ncclGetLastError(r->comm);
  char text[400] = "";
  snprintf(text, sizeof text, "%s", more ? more : "");
  text[strcspn(text, "\n")] = 0;
  return np_error(NP_ERR_LIBRARY, "%.*s: %s%s%s; NCCL_DEBUG=INFO tells more", (int)strcspn(call, "("), call,
                  nccl.ncclGetErrorString(code), *text ? ": " : "", text);
}

#define NCCL_TRY(call)                                                                                                 \
  do {                                                                                                                 \
    ncclResult_t np_nccl_code = (nccl.call);                                                                           \
    if (np_nccl_code != ncclSuccess) {                                                                                 \
      st = failed(r, #call, np_nccl_code);                                                                             \
      goto out;                                                                                                        \
    }                                                                                                                  \
  } while (0)

static np_status all_reduce(ranks *r, int signal, void *slice, int64_t count, ncclDataType_t type, ncclRedOp_t how) {
  np_status st = NP_OK;
  void *stream;
  NP_TRY(np_cuda_beside_follow(r->ops, signal, &stream));
  NCCL_TRY(ncclAllReduce(slice, slice, (size_t)count, type, how, r->comm, stream));
out:
  return st;
}

static np_status nccl_sum(np_transport *transport, int signal, void *slice, int64_t count, np_dtype type) {
  return all_reduce((ranks *)transport, signal, slice, count, type == NP_F32 ? ncclFloat32 : ncclFloat64, ncclSum);
}

static np_status nccl_scatter(np_transport *transport, int signal, float *slice, int64_t count) {
  np_status st = NP_OK;
  ranks *r = (ranks *)transport;
  void *stream;
  NP_TRY(np_cuda_beside_follow(r->ops, signal, &stream));
  NCCL_TRY(ncclReduceScatter(slice, slice + r->rank * count, (size_t)count, ncclFloat32, ncclSum, r->comm, stream));
out:
  return st;
}

static np_status nccl_gather(np_transport *transport, const void *mine, void *all, size_t bytes) {
  np_status st = NP_OK;
  ranks *r = (ranks *)transport;
  void *stream;
  NP_TRY(np_cuda_beside_follow(r->ops, -1, &stream));
  NCCL_TRY(ncclAllGather(mine, all, bytes, ncclUint8, r->comm, stream));
out:
  return st;
}

static np_status nccl_join(np_transport *transport) { return np_cuda_beside_join(((ranks *)transport)->ops); }

static np_status nccl_reduce(np_transport *transport, np_reduction how, double *values, int count) {
  np_status st = NP_OK;
  ranks *r = (ranks *)transport;
  const size_t bytes = (size_t)count * sizeof *values;
  NP_TRY(r->ops->upload(r->ops, r->values, values, bytes));
  NP_TRY(all_reduce(r, -1, r->values, count, ncclFloat64, how == NP_SUM ? ncclSum : ncclMax));
  NP_TRY(nccl_join(transport));
  NP_TRY(r->ops->download(r->ops, values, r->values, bytes));
out:
  return st;
}

static np_status nccl_look(np_transport *transport) {
  np_status st = NP_OK;
  ranks *r = (ranks *)transport;
  ncclResult_t state = ncclSuccess;
  NCCL_TRY(ncclCommGetAsyncError(r->comm, &state));
  if (state != ncclSuccess && state != ncclInProgress) st = failed(r, "NCCL", state);
out:
  return st;
}

static void nccl_close(np_transport *transport, bool together) {
  ranks *r = (ranks *)transport;
  if (r->comm) (void)(together ? nccl.ncclCommDestroy(r->comm) : nccl.ncclCommAbort(r->comm));
  r->ops->release(r->ops, r->values);
  if (r->mpi) np_mpi_end(together);
  free(r);
}

/* Whoever comes before the first rank listens tries again, 0.1 s after the first time and 0.1 s longer after each.
 * NCCL's own patience is a minute. */
static void set_patience(int seconds) {
  char text[16];
  int tries = 1;
  while (tries < 10000 && (seconds == 0 || 0.05 * tries * tries < seconds)) tries++;
  snprintf(text, sizeof text, "%d", tries);
  setenv("NCCL_SOCKET_RETRY_CNT", text, 0);
}

/* NCCL's own meeting point. The first rank listens there, the others look for it; all read it from the environment. */
static np_status meet(ranks *r, const np_launch *launch, ncclUniqueId *id) {
  np_status st = NP_OK;
  char address[NP_LAUNCH_ADDRESS];
  if (r->mpi) {
    NP_TRY(np_mpi_begin(launch));
    if (launch->rank == 0) NCCL_TRY(ncclGetUniqueId(id));
    NP_TRY(np_mpi_from_first(id, sizeof *id));
    goto out;
  }
  if (!getenv("NCCL_COMM_ID")) {
    NP_TRY(np_launch_address(launch, address));
    setenv("NCCL_COMM_ID", address, 1);
  }
  NCCL_TRY(ncclGetUniqueId(id));
out:
  return st;
}

np_status np_transport_nccl(const np_launch *launch, np_ops *ops, int patience, np_transport **out) {
  np_status st = NP_OK;
  ncclUniqueId id;
  ranks *r = NULL;
  *out = NULL;
  NP_TRY(open_nccl());
  r = calloc(1, sizeof *r);
  if (!r) return np_error(NP_ERR_MEMORY, "not enough memory for the list of ranks");
  r->table = (np_transport){.sum = nccl_sum,
                            .scatter = nccl_scatter,
                            .gather = nccl_gather,
                            .join = nccl_join,
                            .reduce = nccl_reduce,
                            .look = nccl_look,
                            .close = nccl_close};
  r->rank = launch->rank;
  r->ops = ops;
  r->mpi = launch->mpi && np_mpi_serves(launch); /* of srun's ranks MPI may know nothing, and NCCL needs none */
  NP_TRY(ops->alloc(ops, NP_TRANSPORT_VALUES * sizeof *r->values, (void **)&r->values)); /* and makes its GPU current */
  set_patience(patience);
  NP_TRY(meet(r, launch, &id));
  NCCL_TRY(ncclCommInitRank(&r->comm, launch->world, id, launch->rank));
  *out = &r->table;
  r = NULL;
out:
  if (r) nccl_close(&r->table, false);
  return st;
}

#else

int np_comm_nccl_version(void) { return 0; }

np_status np_transport_nccl(const np_launch *launch, np_ops *ops, int patience, np_transport **out) {
  (void)launch, (void)ops, (void)patience;
  *out = NULL;
  return np_error(NP_ERR_ARGUMENT, "this build has no NCCL, which brings several GPUs together: install its header "
                                   "(libnccl-dev) beside the CUDA toolkit and configure again, or start one process");
}
#endif
