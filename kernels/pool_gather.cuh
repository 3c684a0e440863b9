/* Sums of tokens by weight: out[b, i, :] = Σ_n weight[b, i, n]·x[b, n, :]; the backward pass gathers by ds.
 *
 * A block takes 256 columns of an image, 32 a warp, and walks its tokens, whose weights lie in shared memory:
 *
 *      ◄─ 32 columns ─►
 *      ┌──────────────┬──────────────┬─        A warp copies squares of 16 tokens to shared memory for itself: lines
 *      │ warp 0       │ warp 1       │ …       of 128 bytes, and the warps, side by side, runs of 1 KiB. When a square
 *      │ 16 tokens    │ 16 tokens    │         has come it is computed and its place is filled anew: nearly two of
 *      │ ▼            │ ▼            │ ▼       them, 4 KiB, are under way all the time, 64 KiB a multiprocessor.
 *
 * A lane (g, t) takes columns 4g … 4g + 3 of tokens 2t, 2t + 1, 2t + 8, 2t + 9. Of lines 2t and 2t + 1 chunk c lies
 * where chunk c ^ 2t would, so that eight lanes, two g's and all t's, read from different banks.
 *
 * A warp keeps the sums of its columns and all heads through all tokens: x is read once and no sums have to meet. */
#ifndef NP_KERNELS_POOL_GATHER_CUH
#define NP_KERNELS_POOL_GATHER_CUH

#include "kernels/pool.cuh"

enum {
  NP_POOL_COLUMNS = 32 * NP_POOL_WARPS,
  NP_POOL_SQUARE = 16 * 32, /* floats; a warp has two */
  NP_POOL_TOKENS = 256      /* whose weights lie there at a time */
};

/* ---- x ---- */

/* Where a warp's next square begins; a lane copies a chunk of every fourth line. */
struct np_pool_walk {
  const float *x; /* the lane's first chunk */
  int left;       /* tokens from there on */
  bool inside;    /* the image has such columns */
};
/* Start copying the next square, if there is one; zeros for what is not there of it. */
NP_DEVICE void np_pool_next(np_shared<float> square, np_pool_walk &walk, int width) {
  const int lane = np_lane(), line = lane / 8;
  if (walk.left <= 0) return;
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    np_copy_async(square + (line + i) * 32 + ((lane % 8 ^ ((line + i) & 6)) << 2), walk.x,
                  walk.inside && line + i < walk.left);
    walk.x += 4 * width;
  }
  walk.left -= 16;
}
/* The lane's columns of a line. */
NP_DEVICE np_vec<float, 4> np_pool_line(np_shared<const float> mine, int line) {
  np_vec<float, 4> out;
  out.word = np_shared_as<const uint4>(mine + line * 32)[0];
  return out;
}

/* ---- weights ---- */

/* The right operands of tokens `from` … to shared memory, [tokens / 8, tiles, lane]: of eight tokens lane (g, t) has
 * 2t and 2t + 1 of head g; zeros for what is not there. A thread splits two tokens of every other head. */
template <int tiles>
NP_DEVICE void np_pool_stage(const np_pool_call &call, np_shared<np_split<2>> room, int64_t image, int from) {
  enum { PAIRS = NP_POOL_TOKENS / 2, AT_ONCE = NP_POOL_THREADS / PAIRS };
  const int thread = np_fresh(static_cast<int>(threadIdx.x)), pair = thread % PAIRS, token = from + 2 * pair;
  const float *weight = call.right + image * call.all_heads * call.tokens + token;
#pragma unroll 4
  for (int i = 0; i < 8 * tiles; i += AT_ONCE) {
    const int head = i + thread / PAIRS, left = head < call.heads ? call.tokens - token : 0;
    const float *two = weight + static_cast<int64_t>(head) * call.tokens;
    room[(pair / 4 * 8 * tiles + head) * 4 + pair % 4] =
        np_split_of<2>({left > 0 ? two[0] : 0.0f, left > 1 ? two[1] : 0.0f});
  }
}

/* sum[m][j], of columns 4g + 2m and 4g + 2m + 1 (rows g and g + 8 of a product) and heads 8j …, += those of eight
 * tokens, of which the lane has two. */
template <int tiles>
NP_DEVICE void np_pool_weigh(float (&sum)[2][tiles][4], const np_vec<float, 4> &one, const np_vec<float, 4> &two,
                             np_shared<const np_split<2>> weight) {
  np_split<2> b[tiles];
#pragma unroll
  for (int j = 0; j < tiles; j++) b[j] = weight[j * NP_WARP];
#pragma unroll
  for (int m = 0; m < 2; m++) {
    const np_split<4> a =
        np_split_of<4>({one.value[2 * m], one.value[2 * m + 1], two.value[2 * m], two.value[2 * m + 1]});
#pragma unroll
    for (int j = 0; j < tiles; j++) np_pool_product(sum[m][j], a, b[j]);
  }
}

/* ---- kernel and launcher ---- */

/* The grid: `strips` of 256 columns of each image, the last image first: what of x the scores have read last may still
 * lie in the second cache. */
template <int tiles>
NP_KERNEL_BLOCKS(NP_POOL_THREADS, NP_POOL_BLOCKS)
np_pool_gather_kernel(const np_pool_call call, int strips) {
  const np_shared<float> squares = np_shared_at<float>(0) + np_warp() * 2 * NP_POOL_SQUARE;
  const np_shared<np_split<2>> room = np_shared_at<np_split<2>>(2 * NP_POOL_WARPS * NP_POOL_SQUARE * sizeof(float));
  const int64_t image = call.batch - 1 - static_cast<int64_t>(blockIdx.x / static_cast<unsigned>(strips));
  const int first = static_cast<int>(blockIdx.x % static_cast<unsigned>(strips)) * NP_POOL_COLUMNS + np_warp() * 32;
  const int lane = np_lane(), g = lane / 4, t = lane % 4, line = lane / 8, chunk = lane % 8 * 4;

  np_pool_walk walk = {call.x + (image * call.tokens + line) * call.width + first + chunk, call.tokens,
                       first + chunk < call.width};
  for (int i = 0; i < 2; i++) {
    np_pool_next(squares + i * NP_POOL_SQUARE, walk, call.width);
    np_copy_commit();
  }
  const np_shared<const float> mine = squares + 2 * t * 32 + ((g ^ 2 * t) << 2);
  float sum[2][tiles][4] = {};
  for (int from = 0; from < call.tokens; from += NP_POOL_TOKENS) {
    np_block_sync(); /* the last weights are used */
    np_pool_stage<tiles>(call, room, image, from);
    np_block_sync();
    const int rest = first < call.width ? call.tokens - from : 0, left = rest < NP_POOL_TOKENS ? rest : +NP_POOL_TOKENS;
    np_shared<const np_split<2>> weight = room + lane;
    for (int token = 0, slot = 0; token < left;
         token += 16, slot = NP_POOL_SQUARE - slot, weight += 2 * tiles * NP_WARP) {
      np_copy_wait<1>(); /* this lane's copies are there */
      np_warp_sync();    /* so are the other lanes' */
#pragma unroll(tiles < 3 ? 2 : 1) /* more do not fit in registers */
      for (int s = 0; s < 2; s++)
        np_pool_weigh<tiles>(sum, np_pool_line(mine + slot, 8 * s), np_pool_line(mine + slot, 8 * s + 1),
                             weight + s * tiles * NP_WARP);
      np_warp_sync(); /* they have read it */
      np_pool_next(squares + slot, walk, call.width);
      np_copy_commit();
    }
  }

  const int column = first + 4 * g;
  if (column >= call.width) return;
#pragma unroll
  for (int j = 0; j < tiles; j++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int head = 8 * j + 2 * t + i;
      if (head < call.heads)
        np_store_all<4>(call.out + (image * call.all_heads + head) * call.width + column,
                        {sum[0][j][i], sum[0][j][2 + i], sum[1][j][i], sum[1][j][2 + i]});
    }
}

static np_status np_pool_gather(const np_gpu *gpu, const char *name, const np_pool_call &call) {
  void (*const kernels[])(np_pool_call, int) = {np_pool_gather_kernel<1>, np_pool_gather_kernel<2>,
                                                np_pool_gather_kernel<3>, np_pool_gather_kernel<4>};
  const int tiles = (call.heads + 7) / 8, strips = (call.width + NP_POOL_COLUMNS - 1) / NP_POOL_COLUMNS;
  return np_launch(gpu, name, kernels[tiles - 1],
                   dim3(static_cast<unsigned>(call.batch) * static_cast<unsigned>(strips)), NP_POOL_THREADS,
                   2 * NP_POOL_WARPS * NP_POOL_SQUARE * sizeof(float) +
                       static_cast<size_t>(NP_POOL_TOKENS / 8 * tiles * NP_WARP) * sizeof(np_split<2>),
                   call, strips);
}

#endif
