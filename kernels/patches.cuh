/* Patches of images, read into shared memory: what patchify and the pixel loss have in common. */
#ifndef NP_KERNELS_PATCHES_CUH
#define NP_KERNELS_PATCHES_CUH

#include "kernels/device.cuh"
#include "ops/ops.h"

enum { NP_LEVELS = 3 * 256 };

/* level[c·256 + v] = (v/255 - mean[c]) / std[c], rounded once to float32, by all threads of the block. Float64 and a
 * table, for a patch of nearly one colour is standardised by a tiny deviation, which shows every other rounding. */
NP_DEVICE void np_fill_levels(const np_pixels &pixels, np_shared<float> level) {
  if (pixels.u8) {
    for (int i = static_cast<int>(threadIdx.x); i < pixels.channels * 256; i += static_cast<int>(blockDim.x)) {
      const double mean = static_cast<double>(pixels.mean[i / 256]), std = static_cast<double>(pixels.std[i / 256]);
      level[i] = static_cast<float>((i % 256 / 255.0 - mean) / std);
    }
  }
  np_block_sync();
}

/* Patch `token` of image `image` by one warp: its values go to `to`, in (row, column, channel) order or, `planar`, in
 * (channel, row, column) order. Lanes walk in the first order, in which bytes of a patch's row lie side by side.
 * Returns the sum of the values that this lane read. */
NP_DEVICE float np_read_patch(const np_pixels &pixels, int64_t image, int token, bool planar,
                              np_shared<const float> level, np_shared<float> to) {
  const int P = pixels.patch, C = pixels.channels, W = pixels.width, values = P * P * C, across = W / P;
  const int top = token / across * P, left = token % across * P;
  const int columns = NP_WARP / C; /* a step of 32 values: rows, columns and channels */
  const int step_y = columns / P, step_x = columns % P, step_c = NP_WARP % C;
  int c = np_lane() % C, x = np_lane() / C % P, y = np_lane() / C / P;
  float sum = 0.0f;
#pragma unroll 8
  for (int j = np_lane(); j < values; j += NP_WARP) {
    float value;
    if (pixels.u8) {
      const int64_t at = ((image * pixels.height + top + y) * W + left + x) * C + c;
      value = level[c * 256 + pixels.u8[at]];
    } else {
      value = pixels.f32[((image * C + c) * pixels.height + top + y) * W + left + x];
    }
    to[planar ? (c * P + y) * P + x : j] = value;
    sum += value;
    c += step_c;
    x += step_x;
    y += step_y;
    if (c >= C) {
      c -= C;
      x++;
    }
    if (x >= P) {
      x -= P;
      y++;
    }
  }
  return sum;
}

/* Floats of shared memory for a patch: whole vectors of four. */
static inline int np_patch_room(const np_pixels *pixels) {
  return (pixels->patch * pixels->patch * pixels->channels + 3) / 4 * 4;
}

/* Warps of a block that reads patches: eight, or as many as have room; 0 when a single patch has none. */
static inline int np_patch_warps(const np_gpu *gpu, const np_pixels *pixels) {
  const size_t levels = NP_LEVELS * sizeof(float);
  const size_t patch = static_cast<size_t>(np_patch_room(pixels)) * sizeof(float);
  const size_t warps = gpu->shared_limit > levels ? (gpu->shared_limit - levels) / patch : 0;
  return static_cast<int>(warps < 8 ? warps : 8);
}

static inline np_status np_patch_check(const np_gpu *gpu, const np_pixels *pixels) {
  if (pixels->channels < 1 || pixels->channels > 3)
    return np_error(NP_ERR_ARGUMENT, "an image has %d channels: expected 1 to 3", pixels->channels);
  if (np_patch_warps(gpu, pixels) < 1)
    return np_error(NP_ERR_ARGUMENT, "patches of %d pixels: more than the shared memory of %s holds", pixels->patch,
                    gpu->name);
  return NP_OK;
}

#endif
