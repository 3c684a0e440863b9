#include "bench/fill.h"

#include "util/philox.h"

#include <stdlib.h>

np_status np_bench_fill(np_ops *ops, uint64_t seed, size_t bytes, void *device) {
  enum { PIECE = 1 << 20 };
  np_status st = NP_OK;
  size_t value = np_dtype_size(ops->act);
  unsigned char *piece = malloc(PIECE);
  np_rng rng = np_rng_make(seed, NP_PURPOSE_SYNTH, 0, 0);
  if (!piece) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  for (size_t i = 0; i < PIECE / value; i++) {
    float x = (float)(2 * np_rng_uniform(&rng) - 1);
    if (ops->act == NP_BF16) ((np_bf16 *)(void *)piece)[i] = np_bf16_from_f32(x);
    else ((float *)(void *)piece)[i] = x;
  }
  for (size_t at = 0; at < bytes; at += PIECE)
    NP_TRY(ops->upload(ops, (unsigned char *)device + at, piece, bytes - at < PIECE ? bytes - at : PIECE));
out:
  free(piece);
  return st;
}
