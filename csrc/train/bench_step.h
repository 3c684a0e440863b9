/* How fast a training step is on this machine, without data: the loader's share is measured apart. */
#ifndef NP_TRAIN_BENCH_STEP_H
#define NP_TRAIN_BENCH_STEP_H

#include "recipe/recipe.h"
#include "util/status.h"

#include <stddef.h>

typedef struct np_step_timing {
  double median, p99;      /* seconds of one whole step: forward, loss, backward, norm, clip, AdamW */
  double passes, update;   /* medians: forward and backward; norm and AdamW */
  double flops, reference; /* of a step: as computed (loss tokens through the head), and with every token through it */
  double matrix_peak;      /* FLOP/s of a 2048 x 2048 x 2048 product, best of several: what oneDNN reaches here */
  double memory;           /* bytes the plan took */
  const char *precision;   /* "fp32", "bf16" */
  int threads;
} np_step_timing;

/* Time `steps` steps after `warmup` unmeasured ones, on random pixels and random prefixes of the recipe's range that
 * differ from step to step. Takes the memory of a run. */
np_status np_bench_step(const np_recipe *recipe, int steps, int warmup, np_step_timing *out);

#endif
