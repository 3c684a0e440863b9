/* Values for what is measured: plain numbers, neither zeros (which cost less power, so that a GPU clocks higher) nor
 * anything that overflows. */
#ifndef NP_BENCH_FILL_H
#define NP_BENCH_FILL_H

#include "ops/ops.h"

/* Fill device memory with activations (ops->act), uniform in -1 … 1: a megabyte of them, repeated. */
np_status np_bench_fill(np_ops *ops, uint64_t seed, size_t bytes, void *device);

#endif
