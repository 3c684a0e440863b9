/* The pixel loss of any pixels, patch and alignment, value by value: what pixel_loss.cu does not fit. */
#ifndef NP_KERNELS_PIXEL_LOSS_ANY_CUH
#define NP_KERNELS_PIXEL_LOSS_ANY_CUH

#include "kernels/pixel_loss.cuh"
#include "kernels/total.cuh"

/* A patch's pixels in (row, column, channel) order, by a warp: a lane goes 32 values at a time. */
typedef struct np_loss_walk {
  int c, x, y, step_c, step_x, step_y;
} np_loss_walk;
NP_DEVICE np_loss_walk np_loss_walk_from(const np_pixels &p, int lane) {
  const int columns = NP_WARP / p.channels;
  return {lane % p.channels,    lane / p.channels % p.patch, lane / p.channels / p.patch,
          NP_WARP % p.channels, columns % p.patch,           columns / p.patch};
}
NP_DEVICE void np_loss_walk_on(const np_pixels &p, np_loss_walk *at) {
  at->c += at->step_c;
  at->x += at->step_x + (at->c >= p.channels ? 1 : 0);
  at->c -= at->c >= p.channels ? p.channels : 0;
  at->y += at->step_y + (at->x >= p.patch ? 1 : 0);
  at->x -= at->x >= p.patch ? p.patch : 0;
}

/* f(value, channel, place in the patch) of this lane's pixels of a patch. */
template <class F> NP_DEVICE void np_loss_each_pixel(const np_loss_call &call, const np_place &p, F f) {
  np_loss_walk at = np_loss_walk_from(call.pixels, np_lane());
  for (int j = np_lane(); j < call.values; j += NP_WARP) {
    f(np_pixel_at(call.pixels, p.image, p.top + at.y, p.left + at.x, at.c), at.c, j);
    np_loss_walk_on(call.pixels, &at);
  }
}

/* Float pixels are standardised in float32: deviations from a rounded mean are exact for a patch of nearly one colour,
 * and their average, which is what rounding took from the mean, is taken off them again (as in norm_forward.cu). A patch of one
 * colour so gives 0. */
NP_DEVICE np_level np_loss_standardise_floats(const np_loss_call &call, const np_place &p) {
  const float n = static_cast<float>(call.values);
  float sum = 0.0f, missed = 0.0f, squares = 0.0f;
  np_loss_each_pixel(call, p, [&](float x, int, int) { sum += x; });
  const float mean = np_warp_sum(sum) / n;
  np_loss_each_pixel(call, p, [&](float x, int, int) {
    missed += x - mean;
    squares = fmaf(x - mean, x - mean, squares);
  });
  missed = np_warp_sum(missed) / n;
  const float var = (np_warp_sum(squares) - missed * missed * n) / (n - 1.0f), factor = 1.0f / sqrtf(var + 1e-6f);
  return {mean, factor, -missed * factor};
}

NP_DEVICE np_level np_loss_standardise_bytes(const np_loss_call &call, const np_place &p) {
  double sum[3] = {}, squares[3] = {};
  np_loss_each_pixel(call, p, [&](float x, int channel, int) {
#pragma unroll
    for (int c = 0; c < 3; c++) {
      const double v = channel == c ? static_cast<double>(x) - NP_BYTE_BASE : 0.0;
      sum[c] += v;
      squares[c] += v * v;
    }
  });
#pragma unroll
  for (int c = 0; c < 3; c++) {
    sum[c] = np_warp_sum(sum[c]);
    squares[c] = np_warp_sum(squares[c]);
  }
  const int c = np_lane() % call.pixels.channels;
  const double own = c == 0   ? sum[0]
                     : c == 1 ? sum[1]
                              : sum[2],
               own2 = c == 0   ? squares[0]
                      : c == 1 ? squares[1]
                               : squares[2];
  return np_standardise(call, call.pixels.channels, call.channel[c], sum, own,
                        static_cast<float>(call.each * own2 - own * own));
}

/* losses[block] is the sum over the block's rows, a warp a row. A single value has no variance (0/0), as in the
 * reference. */
template <class T> NP_KERNEL(NP_LOSS_THREADS) np_pixel_loss_any(np_loss_call call, const T *pred, T *dpred) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * NP_LOSS_WARPS;
  const float step = dpred ? 2.0f * *call.scale / static_cast<float>(call.values) : 0.0f;
  double loss = 0.0;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * NP_LOSS_WARPS + np_warp(); r < call.rows; r += stride) {
    const int token = call.index[r];
    const int64_t row = r * call.values;
    if (token < 0) {
      for (int j = np_lane(); dpred && j < call.values; j += NP_WARP) np_store(dpred + row + j, 0.0f);
      continue;
    }
    const np_place p = np_target_of(call, token);
    np_level level[3] = {call.levels.of[0], call.levels.of[1], call.levels.of[2]};
    if (call.normalize && call.pixels.u8) {
      const np_level own = np_loss_standardise_bytes(call, p);
      for (int c = 0; c < call.pixels.channels; c++) level[c] = np_level_from(own, c);
    } else if (call.normalize) {
      level[0] = level[1] = level[2] = np_loss_standardise_floats(call, p);
    }
    np_loss_each_pixel(call, p, [&](float x, int c, int j) {
      const float d = np_load(pred + row + j) - np_level_at(c == 0 ? level[0] : c == 1 ? level[1] : level[2], x);
      loss += static_cast<double>(d) * static_cast<double>(d);
      if (dpred) np_store(dpred + row + j, d * step);
    });
  }
  loss = np_block_sum(loss, NP_LOSS_THREADS, np_shared_at<double>(0));
  if (threadIdx.x == 0) call.losses[blockIdx.x] = loss / call.values;
}

#endif
