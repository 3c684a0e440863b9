/* NCCL between emulated GPUs of one machine, as a libnccl.so.2 of its own: ranks meet in a file of shared memory, named
 * by NCCL_COMM_ID, which the first makes and all delete from the folder once they are there.
 *
 *   rank r   a part of its values ──▶ slot r │ Σ of the slots, in the order of ranks │ the next part
 *                                            all are there                           all have read
 *
 * It checks what NCCL would not forgive: that all ranks call the same, in the same order. */
#include <nccl.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16, PART = 1 << 16, VERSION = 22809 };

typedef struct call {
  size_t count;
  int type, how;
} call;

typedef struct meeting {
  atomic_int arrived, round, gone;
  call calls[MOST];
  unsigned char slots[MOST][PART];
} meeting;

struct ncclComm {
  meeting *m;
  int world, rank;
  const char *error;
};

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL); }

/* The last to come opens the round for all. */
static void wait_for_all(struct ncclComm *c) {
  const int round = atomic_load(&c->m->round);
  if (atomic_fetch_add(&c->m->arrived, 1) + 1 == c->world) {
    atomic_store(&c->m->arrived, 0);
    atomic_fetch_add(&c->m->round, 1);
  }
  while (atomic_load(&c->m->round) == round) nap();
}

ncclResult_t ncclGetVersion(int *version) { return *version = VERSION, ncclSuccess; }

const char *ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess ? "no error" : result == ncclRemoteError ? "remote process exited" : "invalid argument";
}

const char *ncclGetLastError(ncclComm_t c) { return c && c->error ? c->error : ""; }

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  const char *place = getenv("NCCL_COMM_ID");
  memset(id, 0, sizeof *id);
  if (place) snprintf(id->internal, sizeof id->internal, "%s", place);
  else snprintf(id->internal, sizeof id->internal, "process-%d", (int)getpid());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *out, int world, ncclUniqueId id, int rank) {
  char path[NCCL_UNIQUE_ID_BYTES + 16], made[sizeof path + 8];
  int fd;
  struct ncclComm *c = calloc(1, sizeof *c);
  *out = c;
  if (!c || world > MOST) return ncclInvalidArgument;
  *c = (struct ncclComm){.world = world, .rank = rank};
  snprintf(path, sizeof path, "/np-%s", id.internal);
  for (char *p = path + 1; *p; p++)
    if (*p == '/') *p = '-';
  snprintf(made, sizeof made, "%s.made", path);
  if (rank == 0) { /* what an earlier run left there is another's */
    (void)shm_unlink(made);
    (void)shm_unlink(path);
    fd = shm_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *c->m) != 0) return ncclSystemError;
    close(shm_open(made, O_RDWR | O_CREAT, 0600));
  } else {
    int there;
    while ((there = shm_open(made, O_RDWR, 0600)) < 0) nap();
    close(there);
    fd = shm_open(path, O_RDWR, 0600);
    if (fd < 0) return ncclSystemError;
  }
  c->m = mmap(NULL, sizeof *c->m, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (c->m == MAP_FAILED) return ncclSystemError;
  wait_for_all(c);
  (void)shm_unlink(path);
  (void)shm_unlink(made);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state) {
  *state = atomic_load(&c->m->gone) ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}

static ncclResult_t leave(ncclComm_t c) {
  munmap(c->m, sizeof *c->m);
  free(c);
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t c) {
  wait_for_all(c); /* as NCCL may */
  return leave(c);
}

ncclResult_t ncclCommAbort(ncclComm_t c) {
  if (c->m && c->m != MAP_FAILED) atomic_store(&c->m->gone, 1);
  return leave(c);
}

#define REDUCE(type)                                                                                                   \
  static void reduce_##type(struct ncclComm *c, type *out, size_t count, bool sum) {                                   \
    for (size_t i = 0; i < count; i++) {                                                                               \
      type value = ((const type *)c->m->slots[0])[i];                                                                  \
      for (int r = 1; r < c->world; r++) {                                                                             \
        type other = ((const type *)c->m->slots[r])[i];                                                                \
        value = sum ? value + other : other > value ? other : value;                                                   \
      }                                                                                                                \
      out[i] = value;                                                                                                  \
    }                                                                                                                  \
  }
REDUCE(float)
REDUCE(double)

/* Whether all ranks call the same; kind tells calls of one shape apart. */
static ncclResult_t agree(ncclComm_t c, size_t count, ncclDataType_t type, int kind) {
  c->m->calls[c->rank] = (call){count, (int)type, kind};
  wait_for_all(c);
  for (int r = 0; r < c->world; r++)
    if (memcmp(&c->m->calls[r], &c->m->calls[c->rank], sizeof(call)) != 0) {
      c->error = "the ranks' calls differ";
      return ncclInvalidArgument;
    }
  return ncclSuccess;
}

enum { SCATTER = 100, GATHER };

/* The stream's own work is done: everything on the emulated GPU is, when it has been queued. */
ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t how, ncclComm_t c,
                           cudaStream_t stream) {
  const size_t size = type == ncclFloat32 ? sizeof(float) : sizeof(double), part = PART / size;
  if ((type != ncclFloat32 && type != ncclFloat64) || !stream) return ncclInvalidArgument;
  const ncclResult_t same = agree(c, count, type, (int)how);
  if (same != ncclSuccess) return same;
  for (size_t at = 0; at < count; at += part) {
    const size_t n = count - at < part ? count - at : part;
    memcpy(c->m->slots[c->rank], (const char *)from + at * size, n * size);
    wait_for_all(c);
    if (type == ncclFloat32) reduce_float(c, (float *)to + at, n, how == ncclSum);
    else reduce_double(c, (double *)to + at, n, how == ncclSum);
    wait_for_all(c);
  }
  return ncclSuccess;
}

/* What a rank does not get back it no longer has, as NCCL may leave it: here it becomes NaN. */
ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t how,
                               ncclComm_t c, cudaStream_t stream) {
  const size_t part = PART / sizeof(float);
  float *all = (float *)to - count * (size_t)c->rank;
  if (type != ncclFloat32 || how != ncclSum || from != all || !stream) return ncclInvalidArgument;
  const ncclResult_t same = agree(c, count, type, SCATTER);
  if (same != ncclSuccess) return same;
  for (int owner = 0; owner < c->world; owner++)
    for (size_t at = 0; at < count; at += part) {
      const size_t n = count - at < part ? count - at : part;
      float *here = all + count * (size_t)owner + at;
      memcpy(c->m->slots[c->rank], here, n * sizeof(float));
      wait_for_all(c);
      if (owner == c->rank) reduce_float(c, here, n, true);
      else memset(here, 0xff, n * sizeof(float));
      wait_for_all(c);
    }
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream) {
  const char *mine = from, *all = to, *place = all + count * (size_t)c->rank;
  const bool outside = mine + count <= all || all + count * (size_t)c->world <= mine;
  if (type != ncclUint8 || !stream || (mine != place && !outside)) return ncclInvalidArgument;
  const ncclResult_t same = agree(c, count, type, GATHER);
  if (same != ncclSuccess) return same;
  for (size_t at = 0; at < count; at += PART) {
    const size_t n = count - at < PART ? count - at : PART;
    memcpy(c->m->slots[c->rank], (const char *)from + at, n);
    wait_for_all(c);
    for (int r = 0; r < c->world; r++) memcpy((char *)to + count * (size_t)r + at, c->m->slots[r], n);
    wait_for_all(c);
  }
  return ncclSuccess;
}
