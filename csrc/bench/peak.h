/* What a device's matrix units can do: measured, and as the maker says. */
#ifndef NP_BENCH_PEAK_H
#define NP_BENCH_PEAK_H

#include "ops/ops.h"

/* FLOP/s of the fastest of some products large enough to hide everything else (8192³ on a GPU, 2048³ on a CPU), in the
 * table's activation type, on random values. */
np_status np_measured_peak(np_ops *ops, double *out);

/* Dense bf16 FLOP/s of the GPU of this name as its maker states them; 0 when it is none of those known. */
double np_nominal_peak(const char *name);

#endif
