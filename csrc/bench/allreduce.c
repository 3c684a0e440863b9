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

/* Ones from every rank: as many as there are. They are where a mistake in cutting would show: at the ends. */
static np_status check(const run *r, float *host) {
  np_status st = NP_OK;
  const np_allreduce_bench *b = r->b;
  const size_t bytes = (size_t)r->count * sizeof *host;
  const float world = (float)np_comm_world(b->comm);
  for (int64_t i = 0; i < r->count; i++) host[i] = 1;
  NP_TRY(b->ops->upload(b->ops, r->slice, host, bytes));
  NP_TRY(body((void *)r, 0));
  NP_TRY(b->ops->download(b->ops, host, r->slice, bytes));
  for (int64_t i = 0; i < r->count && st == NP_OK; i++)
    if (host[i] != world)
      st = np_error(NP_ERR_NUMERIC, "value %lld of %lld: the sum of ones over %g ranks is %g", (long long)i,
                    (long long)r->count, (double)world, (double)host[i]);
  /* Zeros are what timed sums take, over and over, without leaving float32. */
  if (st == NP_OK) st = b->ops->zero(b->ops, r->slice, bytes);
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
  for (int64_t bytes = b->least; bytes <= b->most; bytes *= 4) {
    r.count = bytes / (int64_t)sizeof(float);
    NP_TRY(np_comm_settle(b->comm, check(&r, host)));
    NP_TRY(np_bench_time(b->ops, body, &r, b->warmup, b->runs, seconds));
    np_allreduce_row out = {.bytes = (double)bytes, .time = np_timing_of(seconds, b->runs)};
    out.bus = 2.0 * (world - 1) / world * out.bytes / out.time.median;
    row(&out, context);
    NP_TRY(np_comm_settle(b->comm, NP_OK));
  }
out:
  b->ops->release(b->ops, r.slice);
  free(seconds);
  free(host);
  return st;
}
