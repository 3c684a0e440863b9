/* Randomness as a function: Philox4x32-10 (Salmon et al., SC 2011), keyed by the run's seed and counted by
 * (purpose, epoch, index, draw). Nothing is stored between draws but the counter, so any draw of any step of any
 * run can be made again, on any rank, in any order. */
#ifndef NP_UTIL_PHILOX_H
#define NP_UTIL_PHILOX_H

#include <stdint.h>

/* Who draws. A number here is part of what a seed means: never renumber. */
typedef enum np_purpose {
  NP_PURPOSE_INIT = 1,    /* weights; index = parameter's place in the table, draws = elements */
  NP_PURPOSE_ORDER = 2,   /* the order of an epoch; epoch */
  NP_PURPOSE_CROP = 3,    /* crop and flip of one sample; epoch, index = sample */
  NP_PURPOSE_JITTER = 4,  /* colour jitter of one sample; epoch, index = sample */
  NP_PURPOSE_PREFIX = 5,  /* prefix length of one sample; epoch, index = sample */
  NP_PURPOSE_SYNTH = 6,   /* the synthetic image set; index = image */
  NP_PURPOSE_PROBE = 7,   /* init of the probe's head */
} np_purpose;

/* One block: out = philox4x32-10(counter, key). */
void np_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A stream of draws for one (seed, purpose, epoch, index). */
typedef struct np_rng {
  uint32_t key[2];     /* seed, low word first */
  uint32_t counter[4]; /* [0] block of the stream, [1] purpose << 24 | high bits of index, [2] low word of index, [3] epoch */
  uint32_t block[4];
  int used;            /* words of `block` already handed out */
} np_rng;

np_rng np_rng_make(uint64_t seed, np_purpose purpose, uint32_t epoch, uint64_t index /* < 2^56 */);
uint32_t np_rng_u32(np_rng *rng);
/* Uniform in [0, 1), 53 bits: two words. */
double np_rng_uniform(np_rng *rng);
/* Uniform integer in [0, bound), without bias; bound >= 1. */
uint32_t np_rng_below(np_rng *rng, uint32_t bound);
/* Standard normal (Box-Muller, one of the pair is thrown away). */
double np_rng_normal(np_rng *rng);

#endif
