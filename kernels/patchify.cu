/* Images cut into patches. The P rows of pixels that hold a row of patches, a band, are one run of memory, and so are
 * the patches that they become:
 *
 *     [P, W/P, P, C] bytes, as they lie ──→ shared memory ──→ [W/P, C, P, P] activations
 *        16 bytes a copy                     two pixels a load    four values of a channel a store
 *
 * A block takes a band. A thread keeps its four pixels' place in a patch and goes from patch to patch, so that places
 * are found once and a value costs little more than its normalisation. */
#include "kernels/kernels.h"
#include "kernels/patches.cuh"
#include "kernels/vector.cuh"

enum { MOST_THREADS = 256 };

/* ---- kernels ---- */

typedef struct bands {
  const uint8_t *bytes; /* [bands, patch, pitch] */
  int patch, across;    /* pixels along a patch, an even number; patches along a band */
  int groups;           /* patches under way in a block: threads / (patch²/4), or 1 */
  bool wide;            /* bands are multiples of 16 bytes, in address and size: else of 4 */
  np_levels levels;
} bands;

/* The band of this block to shared memory. */
NP_DEVICE void fetch_band(const bands &b, const uint8_t *from, int size, np_shared<uint32_t> band) {
  const uint32_t *words = reinterpret_cast<const uint32_t *>(from);
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  if (b.wide) {
    for (int i = 4 * first; i < size / 4; i += 4 * step) np_copy_async(band + i, words + i, true);
    np_copy_commit();
  } else {
    for (int i = first; i < size / 4; i += step) band[i] = words[i];
  }
}

template <class T, int C> NP_KERNEL(MOST_THREADS) patchify_bands(bands b, T *out) {
  const np_shared<uint16_t> band = np_shared_at<uint16_t>(0); /* [patch, pitch/2]: bytes in pairs */
  const int P = b.patch, plane = P * P, pitch = b.across * P * C, quads = plane / 4, size = P * pitch;
  const int thread = static_cast<int>(threadIdx.x), group = thread / quads;
  fetch_band(b, b.bytes + static_cast<int64_t>(blockIdx.x) * size, size, np_shared_as<uint32_t>(band));
  out += static_cast<int64_t>(blockIdx.x) * size;
  np_copy_wait<0>();
  np_block_sync();
  if (group >= b.groups) return;
  for (int q = thread - group * quads; q < quads; q += static_cast<int>(blockDim.x)) {
    const int y = 4 * q / P, x = 4 * q - y * P;
    const int first = (y * pitch + x * C) / 2;
    const int second = first + (x + 2 < P ? C : (pitch - (P - 2) * C) / 2); /* the next pair of pixels */
    for (int p = group; p < b.across; p += b.groups) {
      uint32_t pair[2][C]; /* [pair of pixels][bytes 2k, 2k+1 of it] */
#pragma unroll
      for (int k = 0; k < C; k++) {
        pair[0][k] = band[p * (P * C / 2) + first + k];
        pair[1][k] = band[p * (P * C / 2) + second + k];
      }
#pragma unroll
      for (int c = 0; c < C; c++) {
        float value[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int byte = i % 2 * C + c;
          value[i] = np_level_at(b.levels.of[c], np_byte(pair[i / 2][byte / 2], byte % 2, b.levels.zero));
        }
        np_store_all(out + (p * C + c) * plane + 4 * q, value);
      }
    }
  }
}

/* Whatever the shape, address and type of pixels: a block a patch, a thread a value. */
template <class T> NP_KERNEL(MOST_THREADS) patchify_any(np_pixels pixels, np_levels levels, int64_t rows, T *out) {
  const int P = pixels.patch, plane = P * P, across = pixels.width / P, tokens = across * (pixels.height / P);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int token = static_cast<int>(r % tokens), top = token / across * P, left = token % across * P;
    for (int j = static_cast<int>(threadIdx.x); j < plane * pixels.channels; j += MOST_THREADS) {
      const int c = j / plane, y = j % plane / P, x = j % P;
      const np_level level = c == 0 ? levels.of[0] : c == 1 ? levels.of[1] : levels.of[2];
      np_store(out + r * plane * pixels.channels + j,
               np_level_at(level, np_pixel_at(pixels, r / tokens, top + y, left + x, c)));
    }
  }
}

/* ---- launchers ---- */

template <class T, int C> static np_status launch_bands(const np_gpu *gpu, const np_pixels *pixels, void *out) {
  const int P = pixels->patch, across = pixels->width / P, quads = P * P / 4, size = P * pixels->width * C;
  bands b = {pixels->u8, P, across, 1, size % 16 == 0 && np_aligned(pixels->u8, 16), np_levels_of(pixels)};
  if (quads <= MOST_THREADS) { /* as few rounds as 256 threads need, with as few threads as those rounds need */
    const int most = MOST_THREADS / quads, rounds = (across + most - 1) / most;
    b.groups = (across + rounds - 1) / rounds;
  }
  const int wanted = (quads * b.groups + NP_WARP - 1) / NP_WARP * NP_WARP;
  const int threads = wanted < MOST_THREADS ? wanted : MOST_THREADS;
  const int64_t count = static_cast<int64_t>(pixels->batch) * (pixels->height / P);
  return np_launch(gpu, "patchify", patchify_bands<T, C>, dim3(static_cast<unsigned>(count)), threads,
                   static_cast<size_t>(size), b, static_cast<T *>(out));
}

template <class T> static np_status launch(const np_gpu *gpu, const np_pixels *pixels, void *out) {
  const int64_t band = static_cast<int64_t>(pixels->patch) * pixels->width * pixels->channels;
  if (pixels->u8 && pixels->patch % 2 == 0 && band <= static_cast<int64_t>(gpu->shared_limit) &&
      np_aligned(pixels->u8, 4) && np_aligned(out, 16)) {
    if (pixels->channels == 1) return launch_bands<T, 1>(gpu, pixels, out);
    if (pixels->channels == 2) return launch_bands<T, 2>(gpu, pixels, out);
    return launch_bands<T, 3>(gpu, pixels, out);
  }
  const int tokens = pixels->width / pixels->patch * (pixels->height / pixels->patch);
  const int64_t rows = static_cast<int64_t>(pixels->batch) * tokens;
  return np_launch(gpu, "patchify", patchify_any<T>, dim3(np_grid(gpu, rows)), MOST_THREADS, 0, *pixels,
                   np_levels_of(pixels), rows, static_cast<T *>(out));
}

extern "C" np_status np_kernel_patchify(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, void *out) {
  const np_status st = np_patch_check(pixels);
  if (st != NP_OK) return st;
  return act == NP_BF16 ? launch<np_bf16>(gpu, pixels, out) : launch<float>(gpu, pixels, out);
}
