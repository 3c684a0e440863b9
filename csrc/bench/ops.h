/* The memory-bound operators alone, at the shapes of a training step: what `nextpatch bench ops` prints.
 * docs/benchmarks.md says what the numbers mean. */
#ifndef NP_BENCH_OPS_H
#define NP_BENCH_OPS_H

#include "bench/timing.h"
#include "recipe/recipe.h"

typedef struct np_ops_bench {
  np_ops *ops;  /* what is measured */
  np_ops *copy; /* a float32 table of the same backend: on a CPU its to_act is the copy that all are compared with */
  const np_recipe_model *model;
  int images;         /* of a pass: rows = images · N */
  int64_t parameters; /* elements of a slice that the optimiser takes */
  int warmup, runs;
  int calls;       /* of an operator in a run, a run's time is their mean; 0: as many as move a gigabyte */
  double rotation; /* bytes that the buffers of an operator hold together at least */
  uint64_t seed;
} np_ops_bench;

typedef struct np_ops_row {
  const char *name;
  int64_t rows; /* of the operator; elements where width is 0 */
  int width;
  double bytes;   /* of a call: inputs read once, outputs written once */
  int calls;      /* of a run */
  np_timing time; /* of a call */
  double share;   /* of the copy's rate */
} np_ops_row;

/* Calls `row` for the copy and then for every operator. */
np_status np_bench_ops(const np_ops_bench *bench, void (*row)(const np_ops_row *row, void *context), void *context);

#endif
