/* Which sample stands where in a run: position p = batch·B + i of the whole training is place p % n of epoch p / n,
 * and every epoch has a permutation of its own. A function of (seed, n, p): not of how the work is shared. */
#ifndef NP_DATA_SAMPLER_H
#define NP_DATA_SAMPLER_H

#include "data/loader.h"
#include "util/status.h"

#include <stdint.h>

typedef struct np_sampler {
  uint64_t seed;
  uint32_t count;  /* n */
  int64_t epoch;   /* whose permutation `order` holds; -1: none yet */
  uint32_t *order; /* [n] */
} np_sampler;

/* 1 <= count < 2^32. Takes the memory of one permutation. */
np_status np_sampler_open(np_sampler *sampler, uint64_t seed, int64_t count);
void np_sampler_close(np_sampler *sampler); /* a zeroed struct is fine */

/* The sample at `position`, and its epoch. Cheap as long as positions rise: an epoch is shuffled once (Fisher-Yates
 * over NP_PURPOSE_ORDER). */
int64_t np_sampler_at(np_sampler *sampler, int64_t position, uint32_t *epoch);

/* The prefix length drawn for one sample in one epoch: uniform in prefix_min..prefix_max. */
int32_t np_sampler_draw_prefix(const np_loader_options *options, uint32_t epoch, int64_t index);

#endif
