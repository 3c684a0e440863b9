/* What both kernels of the pixel loss share: their operands and what follows from them, where a token's target is, and
 * the levels by which a patch is standardised. pixel_loss.cu is for bytes and patches of usual sizes,
 * pixel_loss_any.cuh for all others. */
#ifndef NP_KERNELS_PIXEL_LOSS_CUH
#define NP_KERNELS_PIXEL_LOSS_CUH

#include "kernels/kernels.h"
#include "kernels/patches.cuh"

enum { NP_LOSS_THREADS = 256, NP_LOSS_WARPS = NP_LOSS_THREADS / NP_WARP, NP_LOSS_WIDE = 4 };

typedef struct np_divisor { /* n / d = n·factor >> shift, 0 ≤ n < 2^31 */
  uint32_t factor;
  int shift;
} np_divisor;

typedef struct np_loss_channel {
  double back, zero;  /* of which byte a normalised y is: back·y + zero */
  float slope, share; /* 1/back; what bytes² over the patch are to the variance: slope²/n_c/(P·P·C - 1) */
} np_loss_channel;

typedef struct np_loss_call { /* the operands of the operator, and what follows from them */
  np_pixels pixels;
  np_levels levels; /* of targets that are not standardised */
  np_loss_channel channel[3];
  double weight[3], start;                 /* the mean: start + Σ_c weight_c·Σ v */
  np_divisor by_tokens, by_across, by_run; /* run: values of a row of a patch */
  int64_t rows, on;                        /* on: values from a warp's row to its next */
  int values, groups, tokens, across, run; /* groups: of NP_LOSS_WIDE values */
  uint32_t area, pitch;                    /* n_c = P·P; bytes of a row of an image */
  double each;                             /* n_c */
  bool normalize;
  const int32_t *index;
  const float *scale;
  double *losses; /* [blocks] */
} np_loss_call;

NP_DEVICE int np_divide(int n, const np_divisor &by) {
  return static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * by.factor >> by.shift);
}

/* The levels that standardise a patch by its mean and unbiased variance, from Σ v of its channels:
 *     Σ (y - mean)² = Σ_c slope_c²/n_c·(n_c·Σ v² - (Σ v)² + (Σ v - n_c·middle_c)²),
 * where middle_c is the mean in bytes of channel c. What does not depend on the mean is a whole number, `scatter`: a
 * patch of one colour has a variance of exactly 0, and one of nearly one colour that of its few other bytes. Each lane
 * works for one channel, lane mod C: own, own_sum, scatter. */
NP_DEVICE np_level np_standardise(const np_loss_call &call, int C, const np_loss_channel &own, const double (&sum)[3],
                                  double own_sum, float scatter) {
  double mean = call.start;
#pragma unroll
  for (int c = 0; c < 3; c++)
    if (c < C) mean += call.weight[c] * sum[c];
  const double middle = mean * own.back + own.zero;
  const float off = static_cast<float>(own_sum - call.each * middle), spread = own.share * fmaf(off, off, scatter);
  float var = 1e-6f;
  for (int c = 0; c < C; c++) var += np_shuffle(spread, c);
  float inverse = rsqrtf(var); /* to two units in the last place; one of Newton's steps better */
  inverse = fmaf(0.5f * inverse, fmaf(-var * inverse, inverse, 1.0f), inverse);
  const float near = static_cast<float>(middle + NP_BYTE_BASE), factor = own.slope * inverse;
  return {near, factor, static_cast<float>(static_cast<double>(near - NP_BYTE_BASE) - middle) * factor};
}

NP_DEVICE np_level np_level_from(const np_level &level, int lane) {
  return {np_shuffle(level.middle, lane), np_shuffle(level.factor, lane), np_shuffle(level.rest, lane)};
}

/* The first pixel of the target of a token. */
typedef struct np_place {
  int image, top, left;
} np_place;
NP_DEVICE np_place np_target_of(const np_loss_call &call, int token) {
  const int image = np_divide(token, call.by_tokens), target = token - image * call.tokens + 1,
            row = np_divide(target, call.by_across);
  return {image, row * call.pixels.patch, (target - row * call.across) * call.pixels.patch};
}

/* ---- host ---- */

/* n·factor is off by less than n·d, and that by less than 2^shift: d is at most 2^(shift - 31). */
static inline np_divisor np_divisor_of(int n) {
  const int64_t d = n > 0 ? n : 1; /* 0: no row either */
  int shift = 31;
  while (INT64_C(1) << (shift - 31) < d) shift++;
  return {static_cast<uint32_t>(((INT64_C(1) << shift) + d - 1) / d), shift};
}

/* All that follows from the pixels alone. */
static inline np_loss_call np_loss_call_of(const np_pixels *pixels) {
  const int across = pixels->width / pixels->patch, each = pixels->patch * pixels->patch;
  np_loss_call call = {};
  call.pixels = *pixels, call.levels = np_levels_of(pixels);
  call.values = each * pixels->channels, call.each = each, call.area = static_cast<uint32_t>(each);
  call.run = pixels->patch * pixels->channels;
  call.pitch = static_cast<uint32_t>(pixels->width * pixels->channels);
  call.across = across, call.tokens = across * (pixels->height / pixels->patch);
  call.by_tokens = np_divisor_of(call.tokens), call.by_across = np_divisor_of(across),
  call.by_run = np_divisor_of(call.run);
  for (int c = 0; c < pixels->channels; c++) {
    const double mean = static_cast<double>(pixels->mean[c]), std = static_cast<double>(pixels->std[c]);
    const double slope = 1.0 / (255.0 * std);
    call.channel[c] = {255.0 * std, 255.0 * mean, static_cast<float>(slope),
                       static_cast<float>(slope * slope / each / (call.values - 1))};
    call.weight[c] = slope / call.values, call.start -= mean / std / pixels->channels;
  }
  call.groups = call.values / NP_LOSS_WIDE;
  return call;
}

#endif
