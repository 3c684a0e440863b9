/* Images cut into patches, a warp a patch: normalised bytes pass through shared memory from the order in which they lie
 * to (channel, row, column) order, so that both sides move neighbours. */
#include "kernels/kernels.h"
#include "kernels/patches.cuh"
#include "kernels/vector.cuh"

enum { MOST_THREADS = 256 };

/* ---- kernels ---- */

/* n divides the values of a patch. room: floats a patch takes. */
template <class T, int n> NP_KERNEL(MOST_THREADS) patchify(np_pixels pixels, int tokens, int room, T *out) {
  const np_shared<float> level = np_shared_at<float>(0); /* [3, 256] */
  const np_shared<float> patch =
      np_shared_at<float>((NP_LEVELS + static_cast<size_t>(np_warp() * room)) * sizeof(float));
  const int values = pixels.patch * pixels.patch * pixels.channels, warps = static_cast<int>(blockDim.x) / NP_WARP;
  const int64_t rows = static_cast<int64_t>(pixels.batch) * tokens, stride = static_cast<int64_t>(gridDim.x) * warps;
  np_fill_levels(pixels, level);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * warps + np_warp(); r < rows; r += stride) {
    np_read_patch(pixels, r / tokens, static_cast<int>(r % tokens), true, level, patch);
    np_warp_sync();
    for (int j = np_lane() * n; j < values; j += NP_WARP * n) {
      float value[n];
      np_shared_all<n>(patch + j, value);
      np_store_all(out + r * values + j, value);
    }
    np_warp_sync();
  }
}

/* ---- launchers ---- */

template <class T, int n> static np_status launch(const np_gpu *gpu, const np_pixels *pixels, void *out) {
  const int tokens = pixels->width / pixels->patch * (pixels->height / pixels->patch);
  const int warps = np_patch_warps(gpu, pixels), room = np_patch_room(pixels);
  const int64_t blocks = (static_cast<int64_t>(pixels->batch) * tokens + warps - 1) / warps;
  const int64_t most = static_cast<int64_t>(gpu->processors) * 4; /* resident: each fills a table of levels */
  return np_launch(gpu, "patchify", patchify<T, n>, dim3(static_cast<unsigned>(blocks < most ? blocks : most)),
                   warps * NP_WARP, (NP_LEVELS + static_cast<size_t>(warps * room)) * sizeof(float), *pixels, tokens,
                   room, static_cast<T *>(out));
}

extern "C" np_status np_kernel_patchify(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, void *out) {
  const np_status st = np_patch_check(gpu, pixels);
  if (st != NP_OK) return st;
  const bool four = pixels->patch * pixels->patch * pixels->channels % 4 == 0 && np_aligned(out, 16);
  if (act == NP_BF16) return four ? launch<np_bf16, 4>(gpu, pixels, out) : launch<np_bf16, 1>(gpu, pixels, out);
  return four ? launch<float, 4>(gpu, pixels, out) : launch<float, 1>(gpu, pixels, out);
}
