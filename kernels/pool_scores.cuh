/* Scores of the pooling: out[b, i, n] = x[b, n, :]·u[i, :], and with a u of each image's own, the slopes, backward.
 *
 * A block takes 128 rows of x, 16 a warp, and walks the columns, 64 at a time; the heads' columns travel with them:
 *
 *         64 columns
 *      ┌──────────────────┐ 0
 *      │ x: 16 rows a warp│                   Two such tiles: while one is computed the other is under way, and
 *      │ …                │                   most of the time both are, 64 KiB of x, in runs of 256 bytes.
 *      ├──────────────────┤ 128
 *      │ u: the heads     │                   From the second cache u costs h/128 of what x does.
 *      └──────────────────┘ 128 + 8·tiles
 *
 * Of each 16 columns lane (g, t) takes 4t … 4t + 3 of rows g and g + 8, and of head g. A line is 16 chunks of four; in
 * odd lines neighbouring fours of chunks change places, so that eight lanes, two g's and all t's, read from different
 * banks:
 *
 *      even line   0 1 2 3  4 5 6 7   8  9 10 11  12 13 14 15
 *      odd line    4 5 6 7  0 1 2 3  12 13 14 15   8  9 10 11
 *
 * A warp keeps the sums of its 16 rows and all heads through all columns, so x is read once and no sums have to meet.
 * With one u for all images their tokens are rows of one matrix, and a block may have some of two. */
#ifndef NP_KERNELS_POOL_SCORES_CUH
#define NP_KERNELS_POOL_SCORES_CUH

#include "kernels/pool.cuh"

enum { NP_POOL_ROWS = 16 * NP_POOL_WARPS, NP_POOL_SLICE = 64, NP_POOL_CHUNKS = NP_POOL_SLICE / 4 };

/* Where chunk `chunk` of a line lies in a tile, in floats. */
NP_DEVICE int np_pool_place(int line, int chunk) { return line * NP_POOL_SLICE + ((chunk ^ (line & 1) << 2) << 2); }

/* The lane's four of columns 16·i … of a line, from np_pool_place(line, t). */
NP_DEVICE np_vec<float, 4> np_pool_four(np_shared<const float> tile, int place, int i) {
  np_vec<float, 4> out;
  out.word = np_shared_as<const uint4>(tile + (place ^ i * 16))[0];
  return out;
}

/* Start copying columns `column` … of a block's rows and heads to a tile, if there are any; what is not there of them
 * becomes zeros. x, u: at the thread's own chunk of the first row and head it takes; threads lie along rows. */
template <int tiles>
NP_DEVICE void np_pool_fetch(const np_pool_call &call, np_shared<float> tile, const float *x, const float *u, int rows,
                             int column) {
  enum { AT_ONCE = NP_POOL_THREADS / NP_POOL_CHUNKS };
  if (column >= call.width) return;
  const int thread = np_fresh(static_cast<int>(threadIdx.x)), line = thread / NP_POOL_CHUNKS;
  const bool inside = column + thread % NP_POOL_CHUNKS * 4 < call.width;
  const int64_t step = static_cast<int64_t>(AT_ONCE) * call.width;
  const np_shared<float> to = tile + np_pool_place(line, thread % NP_POOL_CHUNKS); /* AT_ONCE is even */
  x += column;
  u += column;
#pragma unroll
  for (int i = 0; i < NP_POOL_ROWS; i += AT_ONCE, x += step)
    np_copy_async(to + i * NP_POOL_SLICE, x, inside && line + i < rows);
#pragma unroll
  for (int i = 0; i < 8 * tiles; i += AT_ONCE, u += step)
    if (line + i < 8 * tiles)
      np_copy_async(to + (NP_POOL_ROWS + i) * NP_POOL_SLICE, u, inside && line + i < call.heads);
}

/* The grid: groups of `rows` rows, a block for each 128 of them; u of a group begins u_group after the last one's. */
template <int tiles>
NP_KERNEL_BLOCKS(NP_POOL_THREADS, NP_POOL_BLOCKS)
np_pool_scores_kernel(const np_pool_call call, int64_t rows, int64_t u_group) {
  constexpr int SIZE = (NP_POOL_ROWS + 8 * tiles) * NP_POOL_SLICE;
  const int64_t blocks = (rows + NP_POOL_ROWS - 1) / NP_POOL_ROWS, group = blockIdx.x / blocks,
                first = blockIdx.x % blocks * NP_POOL_ROWS;
  const int left = static_cast<int>(rows - first < NP_POOL_ROWS ? rows - first : +NP_POOL_ROWS);
  const int lane = np_lane(), g = lane / 4, t = lane % 4, row = np_warp() * 16 + g;
  const int rows_at = np_pool_place(row, t), heads_at = np_pool_place(NP_POOL_ROWS + g, t);
  const np_shared<float> ring = np_shared_at<float>(0); /* [2] tiles */

  const int thread = static_cast<int>(threadIdx.x);
  const int64_t mine = static_cast<int64_t>(thread / NP_POOL_CHUNKS) * call.width + thread % NP_POOL_CHUNKS * 4;
  const float *x = call.x + (group * rows + first) * call.width + mine, *u = call.right + group * u_group + mine;
  np_pool_fetch<tiles>(call, ring, x, u, left, 0);
  np_copy_commit();
  np_pool_fetch<tiles>(call, ring + SIZE, x, u, left, NP_POOL_SLICE);
  np_copy_commit();

  float sum[tiles][4] = {};
  for (int column = 0, slot = 0; column < call.width; column += NP_POOL_SLICE, slot = SIZE - slot) {
    const np_shared<const float> tile = ring + slot;
    np_copy_wait<1>();
    np_block_sync();
#pragma unroll(tiles < 3 ? 4 : 2) /* more do not fit in registers */
    for (int k = 0; k < NP_POOL_SLICE / 16; k++) {
      const np_vec<float, 4> above = np_pool_four(tile, rows_at, k);
      const np_vec<float, 4> below = np_pool_four(tile + 8 * NP_POOL_SLICE, rows_at, k);
      np_split<4> a[2];
#pragma unroll
      for (int s = 0; s < 2; s++)
        a[s] = np_split_of<4>({above.value[2 * s], below.value[2 * s], above.value[2 * s + 1], below.value[2 * s + 1]});
#pragma unroll
      for (int j = 0; j < tiles; j++) {
        const np_vec<float, 4> query = np_pool_four(tile + 8 * j * NP_POOL_SLICE, heads_at, k);
#pragma unroll
        for (int s = 0; s < 2; s++)
          np_pool_product(sum[j], a[s], np_split_of<2>({query.value[2 * s], query.value[2 * s + 1]}));
      }
    }
    np_block_sync();
    np_pool_fetch<tiles>(call, ring + slot, x, u, left, column + 2 * NP_POOL_SLICE);
    np_copy_commit();
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (row + 8 * half >= left) continue;
    const int64_t at = group * rows + first + row + 8 * half, image = at / call.tokens;
    float *out = call.out + image * call.all_heads * call.tokens + at % call.tokens;
#pragma unroll
    for (int j = 0; j < tiles; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int to = 8 * j + 2 * t + i;
        if (to < call.heads) out[static_cast<int64_t>(to) * call.tokens] = sum[j][2 * half + i];
      }
  }
}

/* u [h, D] of all images, or of_image: [B, h, D]. */
static np_status np_pool_scores(const np_gpu *gpu, const char *name, const np_pool_call &call, bool of_image) {
  void (*const kernels[])(np_pool_call, int64_t, int64_t) = {np_pool_scores_kernel<1>, np_pool_scores_kernel<2>,
                                                             np_pool_scores_kernel<3>, np_pool_scores_kernel<4>};
  const int tiles = (call.heads + 7) / 8;
  const int64_t groups = of_image ? call.batch : 1, rows = (of_image ? int64_t{1} : call.batch) * call.tokens;
  const int64_t blocks = groups * ((rows + NP_POOL_ROWS - 1) / NP_POOL_ROWS);
  return np_launch(gpu, name, kernels[tiles - 1], dim3(static_cast<unsigned>(blocks)), NP_POOL_THREADS,
                   static_cast<size_t>(2 * (NP_POOL_ROWS + 8 * tiles) * NP_POOL_SLICE) * sizeof(float), call, rows,
                   of_image ? static_cast<int64_t>(call.all_heads) * call.width : 0);
}

#endif
