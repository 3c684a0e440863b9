/* Sums over many rows, in two steps without atomics: each of a fixed number of parts, ranges of rows or every so
 * many-th, leaves its sums in scratch; then the parts are added in a fixed order. How many parts there are follows from the shape and
 * the GPU alone, so equal inputs give equal bits. Both steps split a long chain of additions into many short ones,
 * which is what keeps float32 sums over 10^5 rows accurate. */
#ifndef NP_KERNELS_PARTS_CUH
#define NP_KERNELS_PARTS_CUH

#include "kernels/device.cuh"

/* The first row of part `part` of `parts`. */
NP_DEVICE int64_t np_part_begin(int64_t rows, int parts, int part) { return rows * part / parts; }

enum { NP_PARTS_THREADS = 512 };

/* out[j] (+)= Σ_p from[p·stride + j], j < width. A lane takes a column, a warp every 16th part. */
NP_KERNEL(NP_PARTS_THREADS)
np_add_parts_kernel(int parts, int64_t width, int64_t stride, const float *from, float *out, bool accumulate) {
  const np_shared<float> room = np_shared_at<float>(0); /* [16, 32] */
  const int64_t column = static_cast<int64_t>(blockIdx.x) * NP_WARP + np_lane();
  float sum = 0.0f;
  np_previous_done();
  if (column < width) {
#pragma unroll 8
    for (int p = np_warp(); p < parts; p += NP_PARTS_THREADS / NP_WARP) sum += from[p * stride + column];
  }
  room[static_cast<int>(threadIdx.x)] = sum;
  np_block_sync();
  if (np_warp() > 0 || column >= width) return;
  for (int w = 1; w < NP_PARTS_THREADS / NP_WARP; w++) sum += room[w * NP_WARP + np_lane()];
  out[column] = accumulate ? out[column] + sum : sum;
}

static inline np_status np_add_parts(const np_gpu *gpu, const char *name, int parts, int64_t width, int64_t stride,
                                     const float *from, float *out, bool accumulate) {
  const int64_t blocks = (width + NP_WARP - 1) / NP_WARP;
  return np_launch_close(gpu, name, np_add_parts_kernel, dim3(static_cast<unsigned>(blocks)), NP_PARTS_THREADS,
                         NP_PARTS_THREADS * sizeof(float), parts, width, stride, from, out, accumulate);
}

#endif
