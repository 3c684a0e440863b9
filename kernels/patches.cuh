/* Patches of images, read into shared memory: what patchify and the pixel loss have in common. */
#ifndef NP_KERNELS_PATCHES_CUH
#define NP_KERNELS_PATCHES_CUH

#include "kernels/device.cuh"
#include "ops/ops.h"

enum { NP_LEVELS = 3 * 256 };

/* level[c·256 + v] = (v/255 - mean[c]) / std[c], rounded once to float32, by all threads of the block. Float64 and a
 * table, for a patch of nearly one colour is standardised by a tiny deviation, which shows every other rounding. */
NP_DEVICE void np_fill_levels(const np_pixels &pixels, np_shared<float> level) {
#pragma unroll
  for (int c = 0; c < 3; c++) {
    if (!pixels.u8 || c >= pixels.channels) continue;
    const double mean = static_cast<double>(pixels.mean[c]), std = static_cast<double>(pixels.std[c]);
#pragma unroll 1
    for (int v = static_cast<int>(threadIdx.x); v < 256; v += static_cast<int>(blockDim.x))
      level[c * 256 + v] = static_cast<float>((v / 255.0 - mean) / std);
  }
  np_block_sync();
}

enum { NP_PATCH_ROUND = 8 };

/* np_read_patch of images of bytes or of floats. The loads of a round are issued before the first is used. */
template <bool bytes>
NP_DEVICE float np_read_values(const np_pixels &pixels, int64_t image, int token, bool planar,
                               np_shared<const float> level, np_shared<float> to) {
  const int P = pixels.patch, C = pixels.channels, W = pixels.width, values = P * P * C, across = W / P;
  const int top = token / across * P, left = token % across * P;
  const int columns = NP_WARP / C; /* a step of 32 values: rows, columns and channels */
  const int step_y = columns / P, step_x = columns % P, step_c = NP_WARP % C;
  const int64_t plane = static_cast<int64_t>(pixels.height) * W;
  const int64_t start = image * plane * C + (static_cast<int64_t>(top) * W + left) * (bytes ? C : 1);
  int c = np_lane() % C, x = np_lane() / C % P, y = np_lane() / C / P;
  float sum = 0.0f;
  for (int first = np_lane(); first < values; first += NP_WARP * NP_PATCH_ROUND) {
    float value[NP_PATCH_ROUND];
    int place[NP_PATCH_ROUND], row[NP_PATCH_ROUND]; /* in `to`; in the table of levels */
#pragma unroll
    for (int u = 0; u < NP_PATCH_ROUND; u++) {
      const int j = first + u * NP_WARP;
      place[u] = planar ? (c * P + y) * P + x : j;
      row[u] = 0;
      value[u] = 0.0f;
      if (j < values) {
        if constexpr (bytes) row[u] = c * 256 + pixels.u8[start + static_cast<int64_t>(y * W + x) * C + c];
        else value[u] = pixels.f32[start + c * plane + y * W + x];
      }
      c += step_c;
      x += step_x + (c >= C ? 1 : 0);
      c -= c >= C ? C : 0;
      y += step_y + (x >= P ? 1 : 0);
      x -= x >= P ? P : 0;
    }
#pragma unroll
    for (int u = 0; u < NP_PATCH_ROUND; u++) {
      if (first + u * NP_WARP >= values) continue;
      if constexpr (bytes) value[u] = level[row[u]];
      to[place[u]] = value[u];
      sum += value[u];
    }
  }
  return sum;
}

/* Patch `token` of image `image` by one warp: its values go to `to`, in (row, column, channel) order or, `planar`, in
 * (channel, row, column) order. Lanes walk in the first order, in which the bytes of a patch's row lie side by side.
 * Returns the sum of the values that this lane read. */
NP_DEVICE float np_read_patch(const np_pixels &pixels, int64_t image, int token, bool planar,
                              np_shared<const float> level, np_shared<float> to) {
  return pixels.u8 ? np_read_values<true>(pixels, image, token, planar, level, to)
                   : np_read_values<false>(pixels, image, token, planar, level, to);
}

/* Floats of shared memory for a patch: whole vectors of four. */
static inline int np_patch_room(const np_pixels *pixels) {
  return (pixels->patch * pixels->patch * pixels->channels + 3) / 4 * 4;
}

/* Warps of a block that reads patches: eight, or as many as have room; 0 when a single patch has none. */
static inline int np_patch_warps(const np_gpu *gpu, const np_pixels *pixels) {
  const size_t levels = NP_LEVELS * sizeof(float) + 64; /* and what a kernel keeps besides */
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
