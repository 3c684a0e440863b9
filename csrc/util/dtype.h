/* Element types of tensors in memory and in files. */
#ifndef NP_UTIL_DTYPE_H
#define NP_UTIL_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum np_dtype { NP_F64, NP_F32, NP_F16, NP_BF16, NP_I64, NP_I32, NP_I16, NP_I8, NP_U8, NP_BOOL } np_dtype;

/* A bfloat16 value: the upper half of a float's bits. */
typedef uint16_t np_bf16;

static inline size_t np_dtype_size(np_dtype type) {
  static const unsigned char size[] = {8, 4, 2, 2, 8, 4, 2, 1, 1, 1};
  return size[type];
}

static inline float np_bf16_to_f32(np_bf16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

/* Round to nearest even; NaN stays NaN. */
static inline np_bf16 np_bf16_from_f32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (np_bf16)((bits >> 16) | 0x0040u);
  return (np_bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
