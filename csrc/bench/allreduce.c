#include "bench/allreduce.h"

#include <stdlib.h>

typedef struct run {
  const np_allreduce_bench *b;
  float *slice; /* device */
  int64_t count;
} run;

static np_status body(void *context, int turn) {
  const run *r = context;
  (void)turn;
  np_status st = np_comm_sum_f32(r->b->comm, -1, r->slice, r->count);
  return st == NP_OK ? np_comm_join(r->b->comm) : st;
}

/* Ones from every rank: as many as there are. *wrong: the first value that is something else; -1: none. Zeros are left,
 * which timed sums take over and over without leaving float32. */
static np_status sum_ones(const run *r, float *host, int64_t *wrong) {
  np_status st = NP_OK;
  const np_allreduce_bench *b = r->b;
  const size_t bytes = (size_t)r->count * sizeof *host;
  const float world = (float)np_comm_world(b->comm);
  for (int64_t i = 0; i < r->count; i++) host[i] = 1;
  NP_TRY(b->ops->upload(b->ops, r->slice, host, bytes));
  NP_TRY(body((void *)r, 0));
  NP_TRY(b->ops->download(b->ops, host, r->slice, bytes));
  NP_TRY(b->ops->zero(b->ops, r->slice, bytes));
  *wrong = -1;
  for (int64_t i = r->count - 1; i >= 0; i--)
    if (host[i] != world) *wrong = i;
out:
  return st;
}

static np_status measure(const run *r, float *host, double *seconds) {
  np_status st = NP_OK;
  const np_allreduce_bench *b = r->b;
  int64_t wrong;
  np_comm_wait_begin(b->comm, "the sum of a slice");
  NP_TRY(sum_ones(r, host, &wrong));
  if (wrong >= 0)
    st = np_error(NP_ERR_NUMERIC, "value %lld of %lld: the sum of ones over %d ranks is %g", (long long)wrong,
                  (long long)r->count, np_comm_world(b->comm), (double)host[wrong]);
  NP_TRY(np_comm_settle(b->comm, st));
  np_comm_wait_begin(b->comm, "the sums of a slice");
  NP_TRY(np_bench_time(b->ops, body, (void *)r, b->warmup, b->runs, seconds));
out:
  np_comm_wait_end(b->comm);
  return st;
}

/* Of numbers that decide how many sums a rank makes. */
static np_status compare(const np_allreduce_bench *b) {
  np_status st;
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
    r.count = bytes / (int64_t)sizeof(float);
    NP_TRY(measure(&r, host, seconds));
    np_allreduce_row out = {.bytes = (double)bytes, .time = np_timing_of(seconds, b->runs)};
    out.bus = 2.0 * (world - 1) / world * out.bytes / out.time.median;
    row(&out, context);
  }
  st = np_comm_part(b->comm, NP_OK);
out:
  b->ops->release(b->ops, r.slice);
  free(seconds);
  free(host);
  return st;
}
