/* Elements that lie side by side and travel as one load or store, up to 32 bytes; and kernels over flat tensors made of
 * them.
 *
 * A memory-bound kernel is as fast as the bytes it keeps under way: at 4.8 TB/s and some 700 ns to memory about 25 KiB
 * a multiprocessor. 2048 resident threads with one 16-byte load each hold 32 KiB; the kernels here have two or more. */
#ifndef NP_KERNELS_VECTOR_CUH
#define NP_KERNELS_VECTOR_CUH

#include "kernels/device.cuh"

/* The integer type that moves so many bytes. */
template <int bytes> struct np_word;
template <> struct np_word<2> { typedef uint16_t type; };
template <> struct np_word<4> { typedef uint32_t type; };
template <> struct np_word<8> { typedef uint2 type; };
template <> struct np_word<16> { typedef uint4 type; };
struct alignas(16) np_uint4x2 { /* two loads of 16 bytes */
  uint4 low, high;
};
template <> struct np_word<32> { typedef np_uint4x2 type; };

/* n values of T as memory has them: half the registers of n floats where T is bf16. */
template <class T, int n> struct np_vec {
  union {
    typename np_word<static_cast<int>(sizeof(T)) * n>::type word;
    uint32_t pair[(sizeof(T) * n + 3) / 4];
    T value[n];
  };
};

/* p is aligned to all n values, to 16 bytes at most. */
template <int n, class T> NP_DEVICE np_vec<T, n> np_vec_load(const T *p) {
  np_vec<T, n> out;
  out.word = *reinterpret_cast<const typename np_word<static_cast<int>(sizeof(T)) * n>::type *>(p);
  return out;
}
/* The same of what is read once, so that the first cache keeps what is not. */
template <int n> NP_DEVICE np_vec<float, n> np_vec_load_once(const float *p) {
  static_assert(n == 1 || n == 4, "a word, or four");
  np_vec<float, n> out;
  if constexpr (n == 4) out.word = np_load_once(reinterpret_cast<const uint4 *>(p));
  else out.word = *reinterpret_cast<const uint32_t *>(p);
  return out;
}
template <class T, int n> NP_DEVICE void np_vec_store(T *p, const np_vec<T, n> &vec) {
  *reinterpret_cast<typename np_word<static_cast<int>(sizeof(T)) * n>::type *>(p) = vec.word;
}

template <int n> NP_DEVICE void np_vec_get(const np_vec<float, n> &vec, float (&out)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) out[i] = vec.value[i];
}
template <int n> NP_DEVICE void np_vec_get(const np_vec<np_bf16, n> &vec, float (&out)[n]) {
  if constexpr (n == 1) {
    out[0] = np_widen(vec.value[0]);
  } else {
#pragma unroll
    for (int i = 0; i < n; i++) out[i] = np_widen(static_cast<np_bf16>(vec.pair[i / 2] >> (i % 2 * 16)));
  }
}

template <int n> NP_DEVICE void np_vec_set(np_vec<float, n> &vec, const float (&in)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) vec.value[i] = in[i];
}
template <int n> NP_DEVICE void np_vec_set(np_vec<np_bf16, n> &vec, const float (&in)[n]) {
  if constexpr (n == 1) {
    vec.value[0] = np_narrow(in[0]);
  } else {
#pragma unroll
    for (int i = 0; i < n; i += 2) vec.pair[i / 2] = np_narrow2(in[i], in[i + 1]);
  }
}

/* n values from memory as floats, and n floats to memory. */
template <int n, class T> NP_DEVICE void np_load_all(const T *p, float (&out)[n]) {
  np_vec_get(np_vec_load<n>(p), out);
}
template <int n, class T> NP_DEVICE void np_store_all(T *p, const float (&in)[n]) {
  np_vec<T, n> vec;
  np_vec_set(vec, in);
  np_vec_store(p, vec);
}

/* Whether p is a multiple of `bytes`, a power of two; so is NULL. */
static inline bool np_aligned(const void *p, size_t bytes) {
  return (reinterpret_cast<uintptr_t>(p) & (bytes - 1)) == 0;
}

/* Blocks for `work` pieces of work: one each while that is no more than 64 to a multiprocessor; kernels go round again.
 */
static inline unsigned np_grid(const np_gpu *gpu, int64_t work) {
  const int64_t most = static_cast<int64_t>(gpu->processors) * 64;
  return static_cast<unsigned>(work < most ? work : most);
}

/* ---- flat tensors ----
 *
 * An operation on every element of flat tensors is a struct of its pointers and numbers with
 *   enum { wide }              elements a thread takes at a time where all pointers are aligned for it,
 *   template <int n> held      what n elements' loads leave in registers,
 *   load<n>(op, i), finish<n>(op, i, held)   elements i … i+n-1; finish stores.
 * All loads of a round are issued before its first store, which the compiler could not do itself: tensors may alias. */

enum { NP_FLAT_THREADS = 256, NP_FLAT_ROUND = 2 };

template <class Op, int n> NP_KERNEL(NP_FLAT_THREADS) np_flat_kernel(int64_t count, Op op) {
  const int64_t tile = NP_FLAT_THREADS * NP_FLAT_ROUND, vectors = count / n;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t first = blockIdx.x * tile; first < vectors; first += gridDim.x * tile) {
    typename Op::template held<n> held[NP_FLAT_ROUND];
#pragma unroll
    for (int u = 0; u < NP_FLAT_ROUND; u++) {
      const int64_t v = first + u * NP_FLAT_THREADS + thread;
      if (v < vectors) held[u] = Op::template load<n>(op, v * n);
    }
#pragma unroll
    for (int u = 0; u < NP_FLAT_ROUND; u++) {
      const int64_t v = first + u * NP_FLAT_THREADS + thread;
      if (v < vectors) Op::template finish<n>(op, v * n, held[u]);
    }
  }
  const int64_t rest = vectors * n + thread; /* fewer than n are left */
  if (blockIdx.x == 0 && rest < count) Op::template finish<1>(op, rest, Op::template load<1>(op, rest));
}

/* `aligned`: every pointer of op is aligned to Op::wide of its elements, or to 16 bytes. */
template <class Op>
static np_status np_flat(const np_gpu *gpu, const char *name, int64_t count, const Op &op, bool aligned) {
  const int64_t tile = static_cast<int64_t>(NP_FLAT_THREADS) * NP_FLAT_ROUND * (aligned ? Op::wide : 1);
  const unsigned blocks = np_grid(gpu, (count + tile - 1) / tile);
  if (aligned) return np_launch(gpu, name, np_flat_kernel<Op, Op::wide>, dim3(blocks), NP_FLAT_THREADS, 0, count, op);
  return np_launch(gpu, name, np_flat_kernel<Op, 1>, dim3(blocks), NP_FLAT_THREADS, 0, count, op);
}

#endif
