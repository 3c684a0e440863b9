/* What the two products of the pooling share: float32 on tensor cores, without giving up float32.
 *
 * Both take x [tokens, D] from memory, which is what their time is made of, and let each of its values enter as many
 * products as there are heads, h. As FMAs those are more than a multiprocessor issues while the value comes; a tensor
 * core has room for them. x is the left operand of both, and the heads are the right one, in tiles of eight:
 *
 *      scores   x [16 tokens, k: columns] · u [8 heads, k]ᵀ
 *      gather   x [k: tokens, 16 columns]ᵀ · weight [8 heads, k]ᵀ
 *
 * so that what is made ready of x serves 8, 16, 24 or 32 heads as they come.
 *
 * A tensor core reads 11 bits of a number. So each float32 goes in as two, high, the nearest of 11 bits, and low, the
 * rest, of whose twelve bits it does not read the last:
 *
 *      value   1.bbbbbbbbbb bbbbbbbbbbbbb       a·b = high·high + (high·low + low·high) + low·low
 *      high    1.hhhhhhhhhh                           exact       2^-11 of it             at most 2^-22: left out
 *      low     ±            lllllllllll-                          but for 2^-23 each
 *
 * A product is off by 2^-21 at most, and mostly by less than 2^-23. In a chain of FMAs each term costs a rounding of
 * the sum, 2^-24 of it, so that only short chains are more exact. But a tensor core does not round its own sums,
 * it cuts them, and what is cut leans to zero. So none of them runs on: each eight k's start from zero, the small
 * products first, and an ordinary addition takes them to the sum.
 *
 * What is not finite stays so: with a NaN or an infinity high or low is one, too, and the result is not finite. Nor is
 * it with a value beyond 2^128·(1 - 2^-12), a hair below the largest float32, which rounds to infinity.
 *
 * The order of k's does not matter if it is the same left and right. So a lane (g = lane / 4, t = lane % 4), which has
 * k's t and t + 4 of each eight, takes for these any two that lie well: neighbours. */
#ifndef NP_KERNELS_POOL_CUH
#define NP_KERNELS_POOL_CUH

#include "kernels/vector.cuh"

enum {
  NP_POOL_THREADS = 256,
  NP_POOL_WARPS = NP_POOL_THREADS / NP_WARP,
  NP_POOL_BLOCKS = 2, /* a multiprocessor */
  NP_POOL_HEADS = 32  /* that one launch takes, in 1 to 4 tiles of eight */
};

/* What a launch is told. right: u or weights of the first of its heads; out: its results. */
struct np_pool_call {
  int batch, tokens, width;
  int heads;     /* of this launch, NP_POOL_HEADS at most … */
  int all_heads; /* … and of the model: strides of u of an image, weights and results */
  const float *x, *right;
  float *out;
};

/* n values as tensor cores take them. */
template <int n> struct alignas(8 * n) np_split {
  float high[n], low[n];
};
template <int n> NP_DEVICE np_split<n> np_split_of(const float (&value)[n]) {
  np_split<n> out;
#pragma unroll
  for (int i = 0; i < n; i++) {
    out.high[i] = np_tf32(value[i]);
    out.low[i] = value[i] - out.high[i];
  }
  return out;
}

/* sum [16, 8] += a [16, 8] · b [8, 8], fragments of np_mma_tf32. */
NP_DEVICE void np_pool_product(float (&sum)[4], const np_split<4> &a, const np_split<2> &b) {
  float part[4] = {};
  np_mma_tf32(part, a.low, b.high);
  np_mma_tf32(part, a.high, b.low);
  np_mma_tf32(part, a.high, b.high);
#pragma unroll
  for (int i = 0; i < 4; i++) sum[i] += part[i];
}

#endif
