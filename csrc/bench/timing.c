#include "bench/timing.h"

#include <stdlib.h>

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

np_timing np_timing_of(double *seconds, int count) {
  qsort(seconds, (size_t)count, sizeof *seconds, ascending);
  return (np_timing){.median = seconds[(int)(0.5 * (count - 1) + 0.5)],
                     .p99 = seconds[(int)(0.99 * (count - 1) + 0.5)],
                     .least = seconds[0],
                     .runs = count};
}

np_status np_bench_time(np_ops *ops, np_bench_body body, void *context, int warmup, int runs, double *seconds) {
  np_status st = NP_OK;
  for (int i = -warmup; i < runs; i++) {
    if (i >= 0) NP_TRY(ops->mark(ops, i));
    NP_TRY(body(context, i + warmup));
  }
  NP_TRY(ops->mark(ops, runs));
  for (int i = 0; i < runs; i++) NP_TRY(ops->elapsed(ops, i, i + 1, &seconds[i]));
out:
  return st;
}

int np_bench_sets(double rotation, double bytes) {
  double sets = bytes > 0 ? rotation / bytes + 1 : 2;
  return sets < 2 ? 2 : sets > 64 ? 64 : (int)sets;
}
