/* Sums over the ranks of a run: what `nextpatch bench allreduce` prints. */
#ifndef NP_BENCH_ALLREDUCE_H
#define NP_BENCH_ALLREDUCE_H

#include "bench/timing.h"
#include "dist/comm.h"

typedef enum np_allreduce_what {
  NP_ALLREDUCE_SUM,     /* to all */
  NP_ALLREDUCE_SCATTER, /* the sum, each rank its piece */
  NP_ALLREDUCE_GATHER   /* each rank's piece to all */
} np_allreduce_what;

typedef struct np_allreduce_bench {
  np_ops *ops;
  np_comm *comm;
  np_allreduce_what what;
  int64_t least, most; /* bytes of a slice: from one to the other, each four times the one before, and the last */
  int warmup, runs;
} np_allreduce_bench;

typedef struct np_allreduce_row {
  double bytes;   /* of the slice: of all pieces, which are equal */
  np_timing time; /* of this rank; on the first to the last of the sum */
  double bus; /* bytes/s that each rank's link carries at least, 2(n-1)/n of the slice for a sum and half of that for
                 the others: comparable over numbers of ranks, and with nccl-tests' busbw */
} np_allreduce_row;

/* Every rank calls it. Calls `row` for each size on each rank. NP_ERR_NUMERIC where a sum is not what it must be. */
np_status np_bench_allreduce(const np_allreduce_bench *bench, void (*row)(const np_allreduce_row *row, void *context),
                             void *context);

#endif
