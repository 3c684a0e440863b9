/* Images cut into patches. The P rows of pixels that hold a row of patches, a band, are one run of memory, and so are
 * the patches that they become:
 *
 *     [P, W/P, P, C] bytes, as they lie ──→ shared memory ──→ shared memory [W/P, C, P, P] ──→ activations, as they lie
 *        16 bytes a copy                a thread a row of a patch, two pixels at a time           16 bytes a copy
 *
 * A block takes a band. Neighbouring threads take neighbouring patches, and both of its strides meet the banks of
 * shared memory evenly, or nearly. */
#include "kernels/kernels.h"
#include "kernels/patches.cuh"
#include "kernels/vector.cuh"

enum { MOST_THREADS = 256 };

/* ---- kernels ---- */

typedef struct bands {
  const uint8_t *bytes; /* [bands, patch, across, patch, C] */
  int patch, across;    /* pixels along a patch, an even number; patches along a band */
  bool wide_in,
      wide_out; /* bands of bytes, and of activations, are multiples of 16 bytes in address and size: else of 4 */
  np_levels levels;
} bands;

/* `size` bytes, a multiple of 16 if wide, else of 4, by the whole block. */
NP_DEVICE void fetch_band(const uint8_t *from, int size, bool wide, np_shared<uint32_t> band) {
  const uint32_t *words = reinterpret_cast<const uint32_t *>(from);
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  if (wide) {
    for (int i = 4 * first; i < size / 4; i += 4 * step) np_copy_async(band + i, words + i, true);
    np_copy_commit();
    np_copy_wait<0>();
  } else {
    for (int i = first; i < size / 4; i += step) band[i] = words[i];
  }
}

NP_DEVICE void write_band(np_shared<const uint32_t> patches, int size, bool wide, void *to) {
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  if (wide) {
    const np_shared<const uint4> from = np_shared_as<const uint4>(patches);
    for (int i = first; i < size / 16; i += step) static_cast<uint4 *>(to)[i] = from[i];
  } else {
    for (int i = first; i < size / 4; i += step) static_cast<uint32_t *>(to)[i] = patches[i];
  }
}

NP_DEVICE void put_two(np_shared<np_bf16> to, float low, float high) {
  *np_shared_as<uint32_t>(to) = np_narrow2(low, high);
}
NP_DEVICE void put_two(np_shared<float> to, float low, float high) {
  *np_shared_as<float2>(to) = make_float2(low, high);
}

template <class T, int C> NP_KERNEL(MOST_THREADS) patchify_bands(bands b, T *out) {
  const int P = b.patch, plane = P * P, size = P * b.across * P * C; /* values of a band */
  const np_shared<uint16_t> band = np_shared_at<uint16_t>(0);        /* bytes in pairs */
  const np_shared<T> patches = np_shared_at<T>((static_cast<size_t>(size) + 15) / 16 * 16);
  fetch_band(b.bytes + static_cast<int64_t>(blockIdx.x) * size, size, b.wide_in, np_shared_as<uint32_t>(band));
  np_block_sync();
  for (int i = static_cast<int>(threadIdx.x); i < b.across * P; i += static_cast<int>(blockDim.x)) {
    const int y = i / b.across, p = i - y * b.across;
    const np_shared<const uint16_t> from = band + (y * b.across + p) * (P * C / 2);
    const np_shared<T> to = patches + p * C * plane + y * P;
#pragma unroll 7
    for (int x = 0; x < P / 2; x++) { /* pixels 2x and 2x + 1 */
      uint32_t pair[C];
#pragma unroll
      for (int k = 0; k < C; k++) pair[k] = from[x * C + k];
#pragma unroll
      for (int c = 0; c < C; c++) {
        const float low = np_level_at(b.levels.of[c], np_byte(pair[c / 2], c % 2, b.levels.zero));
        const int byte = C + c;
        const float high = np_level_at(b.levels.of[c], np_byte(pair[byte / 2], byte % 2, b.levels.zero));
        put_two(to + c * plane + 2 * x, low, high);
      }
    }
  }
  np_block_sync();
  write_band(np_shared_as<const uint32_t>(patches), size * static_cast<int>(sizeof(T)), b.wide_out,
             out + static_cast<int64_t>(blockIdx.x) * size);
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

/* Shared memory of a block, for a band of so many values. */
template <class T> static size_t band_bytes(int64_t values) {
  return static_cast<size_t>((values + 15) / 16 * 16) + static_cast<size_t>(values) * sizeof(T);
}

template <class T, int C> static np_status launch_bands(const np_gpu *gpu, const np_pixels *pixels, void *out) {
  const int P = pixels->patch, across = pixels->width / P, size = P * pixels->width * C;
  const bands b = {pixels->u8,
                   P,
                   across,
                   size % 16 == 0 && np_aligned(pixels->u8, 16),
                   size * sizeof(T) % 16 == 0 && np_aligned(out, 16),
                   np_levels_of(pixels)};
  const int wanted = (P * across + NP_WARP - 1) / NP_WARP * NP_WARP,
            threads = wanted < MOST_THREADS ? wanted : MOST_THREADS;
  const int64_t count = static_cast<int64_t>(pixels->batch) * (pixels->height / P);
  return np_launch(gpu, "patchify", patchify_bands<T, C>, dim3(static_cast<unsigned>(count)), threads,
                   band_bytes<T>(size), b, static_cast<T *>(out));
}

template <class T> static np_status launch(const np_gpu *gpu, const np_pixels *pixels, void *out) {
  const int64_t band = static_cast<int64_t>(pixels->patch) * pixels->width * pixels->channels;
  if (pixels->u8 && pixels->patch % 2 == 0 && band_bytes<T>(band) <= gpu->shared_limit && np_aligned(pixels->u8, 4) &&
      np_aligned(out, 8)) {
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
