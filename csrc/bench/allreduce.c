#include "bench/allreduce.h"

#include <stdbool.h>
#include <stdlib.h>

typedef struct run {
  const np_allreduce_bench *b;
  float *slice; /* device */
  int64_t count;
} run;

/* Of this rank's piece. */
static int64_t each(const run *r) { return r->count / np_comm_world(r->b->comm); }
static float *mine(const run *r) { return r->slice + each(r) * np_comm_rank(r->b->comm); }

static np_status body(void *context, int turn) {
  const run *r = context;
  np_comm *comm = r->b->comm;
  np_status st = NP_OK;
  (void)turn;
  switch (r->b->what) {
  case NP_ALLREDUCE_SUM:
    st = np_comm_sum_f32(comm, -1, r->slice, r->count);
    break;
  case NP_ALLREDUCE_SCATTER:
    st = np_comm_scatter_f32(comm, -1, r->slice, each(r));
    break;
  case NP_ALLREDUCE_GATHER:
    st = np_comm_gather(comm, mine(r), r->slice, (size_t)each(r) * sizeof(float));
    break;
  }
  return st == NP_OK ? np_comm_join(comm) : st;
}

/* Ones from every rank, or in its piece alone: where they end up there are as many as ranks, or one. Zeros are left,
 * which timed sums take over and over without leaving float32. */
static np_status try_ones(const run *r, float *host) {
  np_status st = NP_OK;
  const np_allreduce_bench *b = r->b;
  const bool gather = b->what == NP_ALLREDUCE_GATHER, scatter = b->what == NP_ALLREDUCE_SCATTER;
  const int64_t given = gather ? each(r) : r->count, taken = scatter ? each(r) : r->count;
  const float want = gather ? 1 : (float)np_comm_world(b->comm);
  for (int64_t i = 0; i < given; i++) host[i] = 1;
  NP_TRY(b->ops->zero(b->ops, r->slice, (size_t)r->count * sizeof *host));
  NP_TRY(b->ops->upload(b->ops, gather ? mine(r) : r->slice, host, (size_t)given * sizeof *host));
  NP_TRY(body((void *)r, 0));
  NP_TRY(b->ops->download(b->ops, host, scatter ? mine(r) : r->slice, (size_t)taken * sizeof *host));
  NP_TRY(b->ops->zero(b->ops, r->slice, (size_t)r->count * sizeof *host));
  for (int64_t i = 0; i < taken; i++)
    if (host[i] != want)
      return np_error(NP_ERR_NUMERIC, "value %lld of %lld: of ones over %d ranks came %g, not %g", (long long)i,
                      (long long)taken, np_comm_world(b->comm), (double)host[i], (double)want);
out:
  return st;
}

static np_status measure(const run *r, float *host, double *seconds) {
  np_status st = NP_OK;
  const np_allreduce_bench *b = r->b;
  np_comm_wait_begin(b->comm, "the sum of a slice");
  NP_TRY(np_comm_settle(b->comm, try_ones(r, host)));
  np_comm_wait_begin(b->comm, "the sums of a slice");
  NP_TRY(np_bench_time(b->ops, body, (void *)r, b->warmup, b->runs, seconds));
out:
  np_comm_wait_end(b->comm);
  return st;
}

/* Of numbers that decide how many sums a rank makes. */
static np_status compare(const np_allreduce_bench *b) {
  np_status st;
  NP_TRY(np_comm_same(b->comm, "what", b->what));
  NP_TRY(np_comm_same(b->comm, "least_kb", b->least));
  NP_TRY(np_comm_same(b->comm, "most_mb", b->most));
  NP_TRY(np_comm_same(b->comm, "runs", b->runs));
  NP_TRY(np_comm_same(b->comm, "warmup", b->warmup));
out:
  return st;
}

np_status np_bench_allreduce(const np_allreduce_bench *b, void (*row)(const np_allreduce_row *row, void *context),
                             void *context) {
  np_status st = NP_OK;
  const int world = np_comm_world(b->comm);
  run r = {.b = b};
  float *host = malloc((size_t)b->most);
  double *seconds = malloc((size_t)b->runs * sizeof *seconds);
  if (!host || !seconds)
    st = np_error(NP_ERR_MEMORY, "not enough memory for a slice of %lld bytes", (long long)b->most);
  if (st == NP_OK) st = b->ops->alloc(b->ops, (size_t)b->most, (void **)&r.slice);
  NP_TRY(np_comm_settle(b->comm, st));
  NP_TRY(compare(b));
  for (int64_t bytes = b->least, last = 0; last < b->most; last = bytes, bytes *= 4) {
    if (bytes > b->most) bytes = b->most;
    r.count = bytes / (int64_t)sizeof(float) / world * world;
    NP_TRY(measure(&r, host, seconds));
    np_allreduce_row out = {.bytes = (double)r.count * sizeof(float), .time = np_timing_of(seconds, b->runs)};
    out.bus = (b->what == NP_ALLREDUCE_SUM ? 2.0 : 1.0) * (world - 1) / world * out.bytes / out.time.median;
    row(&out, context);
  }
  st = np_comm_part(b->comm, NP_OK);
out:
  b->ops->release(b->ops, r.slice);
  free(seconds);
  free(host);
  return st;
}
