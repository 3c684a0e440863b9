/* Elements: the low-precision copy of weights, and y += alpha·x. */
#include "kernels/kernels.h"
#include "kernels/vector.cuh"

/* ---- kernels ---- */

template <class T> struct to_act {
  enum { wide = 8 };
  template <int n> using held = np_vec<float, n>;
  const float *in;
  T *out;

  template <int n> NP_DEVICE held<n> load(const to_act &op, int64_t i) { return np_vec_load<n>(op.in + i); }
  template <int n> NP_DEVICE void finish(const to_act &op, int64_t i, const held<n> &in) {
    float value[n];
    np_vec_get(in, value);
    np_store_all(op.out + i, value);
  }
};

template <class T> struct axpy {
  enum { wide = 4 }; /* a warp writes y in whole lines: 16 bytes a thread */
  template <int n> struct held {
    np_vec<T, n> x;
    np_vec<float, n> y;
  };
  float alpha;
  const T *x;
  float *y;

  template <int n> NP_DEVICE held<n> load(const axpy &op, int64_t i) {
    return {np_vec_load<n>(op.x + i), np_vec_load<n>(op.y + i)};
  }
  template <int n> NP_DEVICE void finish(const axpy &op, int64_t i, const held<n> &in) {
    float x[n], y[n];
    np_vec_get(in.x, x);
    np_vec_get(in.y, y);
#pragma unroll
    for (int j = 0; j < n; j++) y[j] = fmaf(op.alpha, x[j], y[j]);
    np_store_all(op.y + i, y);
  }
};

/* ---- launchers ---- */

template <class T> static np_status launch_to_act(const np_gpu *gpu, int64_t count, const float *in, void *out) {
  const to_act<T> op = {in, static_cast<T *>(out)};
  return np_flat(gpu, "to_act", count, op, np_aligned(in, 16) && np_aligned(out, 16));
}

template <class T>
static np_status launch_axpy(const np_gpu *gpu, int64_t count, float alpha, const void *x, float *y) {
  const axpy<T> op = {alpha, static_cast<const T *>(x), y};
  return np_flat(gpu, "axpy", count, op, np_aligned(x, 16) && np_aligned(y, 16));
}

extern "C" np_status np_kernel_to_act(const np_gpu *gpu, np_dtype act, int64_t count, const float *in, void *out) {
  return act == NP_BF16 ? launch_to_act<np_bf16>(gpu, count, in, out) : launch_to_act<float>(gpu, count, in, out);
}

extern "C" np_status np_kernel_axpy(const np_gpu *gpu, np_dtype act, int64_t count, float alpha, const void *x,
                                    float *y) {
  return act == NP_BF16 ? launch_axpy<np_bf16>(gpu, count, alpha, x, y) : launch_axpy<float>(gpu, count, alpha, x, y);
}
