/* How benches take times: by the device's own clock, queued ahead of it, and reported as median and tail. */
#ifndef NP_BENCH_TIMING_H
#define NP_BENCH_TIMING_H

#include "ops/ops.h"

typedef struct np_timing {
  double median, p99, least; /* seconds; with fewer than a hundred runs p99 is about the slowest of them */
  int runs;
} np_timing;

/* Of `count` >= 1 times; sorts them. */
np_timing np_timing_of(double *seconds, int count);

/* One run of what is measured: queues its operations. `turn` counts up from run to run, for buffers that rotate. */
typedef np_status (*np_bench_body)(void *context, int turn);

/* Queue `warmup` runs and then `runs` measured ones without waiting in between, so that the device never waits for the
 * host, with a mark between neighbours; then wait. seconds [runs]. Uses the marks 0 … runs. */
np_status np_bench_time(np_ops *ops, np_bench_body body, void *context, int warmup, int runs, double *seconds);

/* How many sets of `bytes` hold `rotation` bytes together, 2 … 64: when runs take turns on them, none finds its inputs
 * in a cache smaller than that. */
int np_bench_sets(double rotation, double bytes);

#endif
