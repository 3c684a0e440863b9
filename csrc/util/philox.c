#include "util/philox.h"

#include <math.h>

/* Constants of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, table 2 and
 * section 4.3. */
enum { ROUNDS = 10 };
static const uint32_t MULTIPLIER_0 = 0xD2511F53u, MULTIPLIER_1 = 0xCD9E8D57u;
static const uint32_t WEYL_0 = 0x9E3779B9u, WEYL_1 = 0xBB67AE85u;

void np_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < ROUNDS; round++) {
    const uint64_t p0 = (uint64_t)MULTIPLIER_0 * c0;
    const uint64_t p1 = (uint64_t)MULTIPLIER_1 * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += WEYL_0;
    k1 += WEYL_1;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

np_rng np_rng_make(uint64_t seed, np_purpose purpose, uint32_t epoch, uint64_t index) {
  return (np_rng){
      .key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
      .counter = {0, (uint32_t)purpose << 24 | ((uint32_t)(index >> 32) & 0xffffffu), (uint32_t)index, epoch},
      .used = 4,
  };
}

uint32_t np_rng_u32(np_rng *rng) {
  if (rng->used == 4) {
    np_philox4x32(rng->counter, rng->key, rng->block);
    rng->counter[0]++;
    rng->used = 0;
  }
  return rng->block[rng->used++];
}

double np_rng_uniform(np_rng *rng) {
  const uint64_t low = np_rng_u32(rng);
  const uint64_t high = np_rng_u32(rng);
  return (double)((high << 32 | low) >> 11) * 0x1p-53;
}

uint32_t np_rng_below(np_rng *rng, uint32_t bound) {
  /* Lemire's multiply and reject: the low word must not fall into the 2^32 mod bound surplus values. */
  const uint32_t surplus = (0u - bound) % bound;
  uint64_t product;
  do product = (uint64_t)np_rng_u32(rng) * bound;
  while ((uint32_t)product < surplus);
  return (uint32_t)(product >> 32);
}

double np_rng_normal(np_rng *rng) {
  const double radius = sqrt(-2.0 * log(1.0 - np_rng_uniform(rng))); /* 1 - u is in (0, 1]: the logarithm is finite */
  return radius * cos(0x1.921fb54442d18p+2 * np_rng_uniform(rng));   /* 2 pi */
}
