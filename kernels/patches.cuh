/* Pixels as numbers: what patchify and the pixel loss have in common. */
#ifndef NP_KERNELS_PATCHES_CUH
#define NP_KERNELS_PATCHES_CUH

#include "kernels/device.cuh"
#include "ops/ops.h"

/* What pixels pass through, a level to each channel: y = (x - middle)·factor + rest, where x is a float pixel, or
 * np_byte's 32768 + v for a byte v.
 *
 * A byte's difference is exact: `middle` is a multiple of 1/256 between 32768 and 65536, as np_byte's are, and what it
 * lacks of the true middle is in `rest`. So y is off by two roundings of itself, however close v is to the middle. The
 * obvious v·a + b would be off by a rounding of b, which a patch of nearly one colour, standardised by its tiny
 * deviation, would show. */
typedef struct np_level {
  float middle, factor, rest;
} np_level;
typedef struct np_levels {
  np_level of[3];
  uint32_t zero; /* for np_byte */
} np_levels;

NP_DEVICE float np_level_at(const np_level &level, float x) { return fmaf(x - level.middle, level.factor, level.rest); }

/* y = (x - middle)·factor */
NP_HOST_DEVICE np_level np_level_of(double middle, double factor) {
  const float near = static_cast<float>(middle);
  return {near, static_cast<float>(factor), static_cast<float>((static_cast<double>(near) - middle) * factor)};
}

/* Bytes v to (v/255 - mean)/std, float pixels to themselves. */
static inline np_levels np_levels_of(const np_pixels *pixels) {
  np_levels levels = {{}, NP_BYTE_ZERO};
  for (int c = 0; c < 3; c++) {
    levels.of[c] = {0.0f, 1.0f, 0.0f};
    if (pixels->u8 && c < pixels->channels)
      levels.of[c] = np_level_of(NP_BYTE_BASE + 255.0 * static_cast<double>(pixels->mean[c]),
                                 1.0 / (255.0 * static_cast<double>(pixels->std[c])));
  }
  return levels;
}

/* Pixel (y, x, c) of an image, as levels take it. */
NP_DEVICE float np_pixel_at(const np_pixels &pixels, int64_t image, int y, int x, int c) {
  const int64_t plane = static_cast<int64_t>(pixels.height) * pixels.width,
                at = static_cast<int64_t>(y) * pixels.width + x;
  if (pixels.u8) return static_cast<float>(NP_BYTE_BASE + pixels.u8[(image * plane + at) * pixels.channels + c]);
  return pixels.f32[(image * pixels.channels + c) * plane + at];
}

static inline np_status np_patch_check(const np_pixels *pixels) {
  if (pixels->channels < 1 || pixels->channels > 3)
    return np_error(NP_ERR_ARGUMENT, "an image has %d channels: expected 1 to 3", pixels->channels);
  return NP_OK;
}

#endif
