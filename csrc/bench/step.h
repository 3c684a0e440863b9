/* How fast a training step is on this machine, without data: the loader's share is measured apart. What
 * `nextpatch bench step` prints; docs/benchmarks.md says what the numbers mean. */
#ifndef NP_BENCH_STEP_H
#define NP_BENCH_STEP_H

#include "bench/timing.h"
#include "ops/profile.h"
#include "recipe/recipe.h"

#include <stdio.h>

typedef struct np_step_bench {
  const np_recipe *recipe;
  int steps, warmup; /* timed steps, and steps before them */
  int profile;       /* steps of the pass that takes the times by family; 0: none */
  FILE *plans;       /* NULL, or where to print which attention and which algorithm of each matrix product ran */
} np_step_bench;

typedef struct np_step_timing {
  const char *backend, *precision; /* "cpu", "cuda"; "fp32", "bf16" */
  char device[64];                 /* the GPU's or the processor's name */
  int threads;                     /* of the CPU backend */
  np_timing whole;                 /* one step: forward, loss, backward, norm, clip, AdamW */
  double passes, update;           /* medians: forward and backward; norm and AdamW */
  double flops, reference;         /* of a step: as the model needs them (loss tokens through the head), and with every
                                      token through it */
  double computed;       /* as the operators really computed them: padding and recomputation, too; 0 without profile */
  double measured_peak;  /* FLOP/s of one large matrix product here */
  double nominal_peak;   /* dense bf16, by the maker; 0: not known */
  double planned, taken; /* bytes: as planned, and as seen; 0: not known */
  np_family_sum family[NP_FAMILIES]; /* of one profiled step */
  double profiled;                   /* seconds of that step */
} np_step_timing;

/* Time `steps` steps after `warmup` unmeasured ones, on random pixels and random prefixes of the recipe's range that
 * differ from step to step. Takes the memory of a run. */
np_status np_bench_step(const np_step_bench *bench, np_step_timing *out);

#endif
