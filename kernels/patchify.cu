/* Images cut into patches. The P rows of pixels that hold a row of patches, a band, are one run of memory, and so are
 * the patches that they become:
 *
 *     [P, W/P, P, C] bytes, as they lie ──→ shared memory ──→ [W/P, C, P, P] activations
 *        16 bytes a copy                     two pixels a load    four values of a channel a store
 *
 * A block takes band after band, and while it writes one the next is on its way. A thread keeps its four pixels' place
 * in a patch and goes from patch to patch, so that places are found once a band and a value costs little more than its
 * normalisation. */
#include "kernels/kernels.h"
#include "kernels/patches.cuh"
#include "kernels/vector.cuh"

/* A thread needs 40 registers, of 65536: so many threads are resident. */
enum { MOST_THREADS = 256, BLOCKS = 6, RESIDENT = 65536 / 40 };

/* ---- kernels ---- */

typedef struct bands {
  const uint8_t *bytes; /* [count, patch, row] */
  int64_t count;
  int patch, across; /* pixels along a patch, an even number; patches along a band */
  int row, pitch;    /* bytes from a row of pixels to the next, in memory and in shared memory */
  int groups;        /* patches under way in a block: threads / (patch²/4), or 1 */
  bool wide;         /* rows are multiples of 16 bytes, in address and size: else bands are of 4, and pitch is row */
  np_levels levels;
} bands;

/* Band i to shared memory. */
NP_DEVICE void fetch_band(const bands &b, int64_t i, np_shared<uint32_t> band) {
  const uint32_t *words = reinterpret_cast<const uint32_t *>(b.bytes + i * b.patch * b.row);
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  if (b.wide) {
    const int across = b.row / 16;
    for (int k = first; k < b.patch * across; k += step)
      np_copy_async(band + (k / across * (b.pitch / 4) + k % across * 4), words + 4 * k, true);
  } else {
    for (int k = first; k < b.patch * b.row / 4; k += step) band[k] = words[k];
  }
  np_copy_commit();
}

/* The patches of a band: [patch, pitch/2], bytes in pairs. */
template <class T, int C> NP_DEVICE void write_band(const bands &b, np_shared<const uint16_t> band, T *out) {
  const int P = b.patch, plane = P * P, quads = plane / 4;
  const int thread = static_cast<int>(threadIdx.x), group = thread / quads;
  if (group >= b.groups) return;
  for (int q = thread - group * quads; q < quads; q += static_cast<int>(blockDim.x)) {
    const int y = 4 * q / P, x = 4 * q - y * P;
    const int first = (y * b.pitch + x * C) / 2;
    const int second = first + (x + 2 < P ? C : (b.pitch - (P - 2) * C) / 2); /* the next pair of pixels */
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

template <class T, int C> NP_KERNEL_BLOCKS(MOST_THREADS, BLOCKS) patchify_bands(bands b, T *out) {
  const np_shared<uint16_t> room = np_shared_at<uint16_t>(0); /* two bands */
  const int size = b.patch * b.pitch / 2;
  int now = 0;
  fetch_band(b, blockIdx.x, np_shared_as<uint32_t>(room));
  for (int64_t i = blockIdx.x; i < b.count; i += gridDim.x) {
    np_copy_wait<0>();
    np_block_sync(); /* band i is there, and the one before is written: its room is free */
    if (i + gridDim.x < b.count) fetch_band(b, i + gridDim.x, np_shared_as<uint32_t>(room + (size - now)));
    write_band<T, C>(b, room + now, out + i * b.patch * b.row);
    now = size - now;
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

/* A row of pixels in shared memory: so long that the next row of a patch begins as many banks on as the row is long,
 * as if patches lay there by themselves. Lanes at different rows then meet at few banks. */
static int shared_pitch(int row, int patch_row) {
  int pitch = row;
  while ((pitch - patch_row) % 128 >= 16) pitch += 16;
  return pitch;
}

template <class T, int C> static np_status launch_bands(const np_gpu *gpu, const np_pixels *pixels, void *out) {
  const int P = pixels->patch, across = pixels->width / P, quads = P * P / 4, row = pixels->width * C;
  bands b = {pixels->u8, static_cast<int64_t>(pixels->batch) * (pixels->height / P), P, across, row, row, 1, false, {}};
  b.levels = np_levels_of(pixels);
  b.wide = row % 16 == 0 && np_aligned(pixels->u8, 16);
  if (b.wide) b.pitch = shared_pitch(row, P * C);
  if (quads <= MOST_THREADS) { /* as few rounds as 256 threads need, with as few threads as those rounds need */
    const int most = MOST_THREADS / quads, rounds = (across + most - 1) / most;
    b.groups = (across + rounds - 1) / rounds;
  }
  const int wanted = (quads * b.groups + NP_WARP - 1) / NP_WARP * NP_WARP;
  const int threads = wanted < MOST_THREADS ? wanted : MOST_THREADS;
  const size_t shared = 2 * static_cast<size_t>(P) * static_cast<size_t>(b.pitch);
  /* As many blocks as are resident at once, or a few less, so that all have the same number of bands, or one less. */
  const int64_t fit = static_cast<int64_t>(gpu->shared_limit / shared), most = RESIDENT / threads;
  const int64_t resident = gpu->processors * (fit < most ? fit : most), turns = (b.count + resident - 1) / resident;
  const int64_t blocks = turns > 0 ? (b.count + turns - 1) / turns : 0;
  return np_launch(gpu, "patchify", patchify_bands<T, C>, dim3(static_cast<unsigned>(blocks)), threads, shared, b,
                   static_cast<T *>(out));
}

template <class T> static np_status launch(const np_gpu *gpu, const np_pixels *pixels, void *out) {
  const int64_t row = static_cast<int64_t>(pixels->width) * pixels->channels;
  if (pixels->u8 && pixels->patch % 2 == 0 &&
      2 * pixels->patch * (row + 128) <= static_cast<int64_t>(gpu->shared_limit) && np_aligned(pixels->u8, 4) &&
      np_aligned(out, 16)) {
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
