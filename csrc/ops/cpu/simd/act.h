/* Loading and storing activations, and the exponential, in forms that compilers vectorise. `bf16` is a constant at each
 * use: the callers are inlined twice, once for each type. */
#ifndef NP_OPS_CPU_SIMD_ACT_H
#define NP_OPS_CPU_SIMD_ACT_H

#include "util/dtype.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NP_INLINE static inline __attribute__((always_inline))

NP_INLINE float np_act_load(bool bf16, const void *x, int64_t i) {
  return bf16 ? np_bf16_to_f32(((const np_bf16 *)x)[i]) : ((const float *)x)[i];
}

/* As np_bf16_from_f32, without a branch. */
NP_INLINE np_bf16 np_act_round(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x0040u;
  return (np_bf16)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

NP_INLINE void np_act_store(bool bf16, void *x, int64_t i, float value) {
  if (bf16) ((np_bf16 *)x)[i] = np_act_round(value);
  else ((float *)x)[i] = value;
}

/* e^x for x <= 88, relative error about 1e-7: x = n·ln2 + r, a polynomial in r, n into the exponent. Below -87 it is 0,
 * -inf included. NaN stays NaN. libm's expf is a call and would keep the loop scalar. One choice at the end and no
 * clamps before: compilers spread several over the whole loop as masks. */
NP_INLINE float np_exp(float x) {
  float shifted = x * 1.44269504089f + 12582912.0f; /* 1.5·2²³: the sum's low bits are n */
  float k = shifted - 12582912.0f;
  float r = x - k * 0.693359375f; /* ln2 in two parts; the first times n is exact */
  r = r + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f; /* Cephes expf */
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : p * power;
}

#endif
