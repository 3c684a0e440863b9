/* kernels/device.cuh on the host: the same names, for g++ instead of nvcc, and with eyes open.
 *
 *    kernels/NAME.cu ── -x c++ -DNP_SIMT ──► device.cuh ──► simt.h      what a kernel may call (this file)
 *                                                             │
 *                         np_shared<T>, every access ◄────────┼────────► a thread is a fiber; it leaves its fiber
 *                         checked and noted   shared.h        │          where it has to wait for others    block.h
 *                                  │                          │                        │
 *                                  ▼                          ▼                        ▼
 *                         who wrote, who read,         vectors, arithmetic     meetings of a warp, barriers,
 *                         who is on its way  shadow.h     (this file)          clocks: who has seen what   block.h
 *
 * What is found, and fails the launch with kernel, block and thread in the message:
 *   - shared memory: outside, misaligned, read before it was written, two threads at one place of which one writes and
 * no barrier lies between, touched while an asynchronous copy is on its way there;
 *   - barriers: not reached by all, some threads gone, different barriers at once, nobody able to go on;
 *   - warp operations (shuffle, mma, ldmatrix, np_warp_sync): not all 32 lanes, or lanes at different ones.
 * As on a GPU a shuffle, an mma and an ldmatrix make lanes meet, and do not order their accesses to memory: that takes
 * np_warp_sync. Global memory is host memory, watched by nobody here (a build with the address sanitizer sees its
 * bounds; its alignment is always checked, by the compiler).
 *
 * Not as on a GPU: no speed, arithmetic in the host's order (an mma of bf16 adds its 16 products one by one in float32,
 * one of tf32 cuts its sums as the least exact tensor core known), and a kernel must not hold objects with destructors
 * across a barrier: fibers of a failed launch are dropped. */
#ifndef NP_SIMT_H
#define NP_SIMT_H

#include <math.h>

#include <cstdint>
#include <cstring>
#include <tuple>

#include "block.h"
#include "queue.h"
#include "shadow.h"
#include "shared.h"

#define NP_KERNEL(threads)                [[maybe_unused]] static void
#define NP_KERNEL_BLOCKS(threads, blocks) [[maybe_unused]] static void
#define NP_DEVICE                         [[maybe_unused]] static inline
#define NP_HOST_DEVICE                    [[maybe_unused]] static inline

/* ---- CUDA's names ---- */
#define threadIdx (simt::here.self->index)
#define blockIdx  (simt::here.at)
#define blockDim  (simt::here.size)
#define gridDim   (simt::here.grid)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
NP_DEVICE float2 make_float2(float x, float y) { return {x, y}; }
NP_DEVICE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
NP_DEVICE uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
NP_DEVICE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
NP_DEVICE int2 make_int2(int x, int y) { return {x, y}; }
NP_DEVICE int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
NP_DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }

/* ---- threads ---- */
NP_DEVICE uint4 np_load_once(const uint4 *p) { return *p; }
NP_DEVICE void np_block_sync() { simt::block_barrier("np_block_sync", 0, static_cast<int>(simt::here.threads)); }
NP_DEVICE void np_warp_sync() { simt::warp_barrier(); }
NP_DEVICE void np_named_sync(int id, int threads) { simt::block_barrier("np_named_sync", id, threads); }

namespace simt {
template <class T> struct parcel {
  T value, got;
  int from;
};
/* Every lane gets the value of lane `from`. */
template <class T> inline T exchange(const char *what, T value, int from) {
  parcel<T> mine = {value, value, from & (LANES - 1)};
  together(what, static_cast<int>(sizeof(T)), mine, [](parcel<T> *const *lanes) {
    for (int i = 0; i < LANES; i++) lanes[i]->got = lanes[lanes[i]->from]->value;
  });
  return mine.got;
}
void mma_bf16(float *const *d, const uint32_t *const *a, const uint32_t *const *b);
void mma_tf32(float *const *d, const float *const *a, const float *const *b);
void ldmatrix4(uint32_t (&r)[4], const unsigned char *row, bool turned);
void copy_async(unsigned char *to, const void *from, size_t bytes, bool valid);
void copy_commit();
void copy_wait(int left);
} // namespace simt

template <class T> NP_DEVICE T np_shuffle(T value, int lane) { return simt::exchange("np_shuffle", value, lane); }
template <class T> NP_DEVICE T np_shuffle_xor(T value, int mask) {
  return simt::exchange("np_shuffle_xor", value, static_cast<int>(threadIdx.x % simt::LANES) ^ mask);
}
NP_DEVICE bool np_warp_any(bool value) {
  for (int mask = 1; mask < simt::LANES; mask *= 2)
    value = simt::exchange("np_warp_any", value, static_cast<int>(threadIdx.x % simt::LANES) ^ mask) || value;
  return value;
}

/* ---- numbers ---- */
NP_DEVICE float np_widen(np_bf16 value) { return np_bf16_to_f32(value); }
NP_DEVICE np_bf16 np_narrow(float value) { return np_bf16_from_f32(value); }
NP_DEVICE uint32_t np_narrow2(float low, float high) {
  return static_cast<uint32_t>(np_narrow(high)) << 16 | np_narrow(low);
}
NP_DEVICE float np_exp2(float x) {
  float value = exp2f(x);
  return value < 0x1p-126f ? 0.0f : value; /* NaN stays */
}
NP_DEVICE float np_byte(uint32_t word, int i, uint32_t zero) {
  uint32_t bits = (zero & 0xffff00ffu) | (word >> 8 * i & 0xff) << 8;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
NP_DEVICE uint32_t np_dot4(uint32_t a, uint32_t b, uint32_t sum) {
  for (int i = 0; i < 32; i += 8) sum += (a >> i & 0xff) * (b >> i & 0xff);
  return sum;
}
NP_DEVICE uint32_t np_warp_count(uint32_t value) {
  for (int mask = simt::LANES / 2; mask > 0; mask /= 2) value += np_shuffle_xor(value, mask);
  return value;
}
NP_DEVICE int np_fresh(int value) { return value; }
NP_DEVICE int np_ones(uint32_t value) { return __builtin_popcount(value); }

/* ---- tensor cores ---- */
namespace simt {
/* A lane's operands of a product and, of all lanes, `product` of them. */
template <class T> inline void multiply(const char *what, float *d, const T *a, const T *b,
                                        void (*product)(float *const *, const T *const *, const T *const *)) {
  struct fragments {
    float *d;
    const T *a, *b;
  } mine = {d, a, b};
  together(what, 0, mine, [product](fragments *const *lanes) {
    float *all_d[LANES];
    const T *all_a[LANES], *all_b[LANES];
    for (int i = 0; i < LANES; i++) {
      all_d[i] = lanes[i]->d;
      all_a[i] = lanes[i]->a;
      all_b[i] = lanes[i]->b;
    }
    product(all_d, all_a, all_b);
  });
}
} // namespace simt

NP_DEVICE void np_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simt::multiply<uint32_t>("np_mma_bf16", d, a, b, simt::mma_bf16);
}
NP_DEVICE float np_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x1000u) & 0xffffe000u;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
NP_DEVICE void np_mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  simt::multiply<float>("np_mma_tf32", d, a, b, simt::mma_tf32);
}
NP_DEVICE void np_ldmatrix4(uint32_t (&r)[4], np_shared<const np_bf16> row) { simt::ldmatrix4(r, row.raw(), false); }
NP_DEVICE void np_ldmatrix4_turned(uint32_t (&r)[4], np_shared<const np_bf16> row) {
  simt::ldmatrix4(r, row.raw(), true);
}

/* ---- copies that overlap ---- */
template <int bytes = 16, class T> NP_DEVICE void np_copy_async(np_shared<T> to, const T *from, bool valid) {
  static_assert(bytes == 16 || bytes == 8, "what cp.async copies");
  simt::copy_async(to.raw(), from, bytes, valid);
}
NP_DEVICE void np_copy_commit() { simt::copy_commit(); }
template <int left> NP_DEVICE void np_copy_wait() { simt::copy_wait(left); }

/* ---- kernels that overlap: here none does ---- */
NP_DEVICE void np_previous_done() {}
NP_DEVICE void np_next_may_start() {}

/* ---- launch ---- */
namespace simt {
/* What the machine at hand (machine.h) says to a launch; and whether the kernel breaks when it runs. */
np_status admit(const np_gpu *gpu, const char *kernel);
bool breaks(const char *kernel);
} // namespace simt

template <class... P, class... A>
static np_status np_launch(const np_gpu *gpu, const char *name, void (*kernel)(P...), dim3 grid, int threads,
                           size_t shared_bytes, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return NP_OK;
  if (shared_bytes > gpu->shared_limit)
    return np_error(NP_ERR_LIBRARY, "kernel %s: %zu bytes of shared memory, %s has %zu", name, shared_bytes, gpu->name,
                    gpu->shared_limit);
  if (np_status st = simt::admit(gpu, name)) return st;
  std::tuple<P...> values(static_cast<P>(arguments)...);
  return simt::submit([=] {
    if (simt::breaks(name)) return NP_OK; /* seen by the next call */
    const std::function<void()> body = [&] { std::apply(kernel, values); };
    return simt::run({name, grid, threads, shared_bytes, &body});
  });
}
template <class... P, class... A>
static np_status np_launch_close(const np_gpu *gpu, const char *name, void (*kernel)(P...), dim3 grid, int threads,
                                 size_t shared_bytes, A... arguments) {
  return np_launch(gpu, name, kernel, grid, threads, shared_bytes, arguments...);
}

template <class... P, class... A>
static np_status np_launch_together(const np_gpu *gpu, const char *name, void (*kernel)(P...), dim3 grid, unsigned together,
                                    int threads, size_t shared_bytes, A... arguments) {
  if (grid.x % together != 0)
    return np_error(NP_ERR_LIBRARY, "kernel %s: %u blocks are not in groups of %u", name, grid.x, together);
  return np_launch(gpu, name, kernel, grid, threads, shared_bytes, arguments...);
}

#endif
