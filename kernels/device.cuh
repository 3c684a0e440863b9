/* Everything a kernel takes from the hardware, under names of our own, so that the same .cu file is compiled by nvcc for a
 * GPU and by the host's C++ compiler for tests/simt, which runs a block's threads as fibers and watches them.
 *
 * House rules that make this work, and that hold in every kernel:
 *   - a kernel is NP_KERNEL(threads) name(…), launched by np_launch (…_together, …_close) alone; its threads are
 *     threadIdx.x, 0 … threads-1;
 *   - shared memory is dynamic and reached through np_shared<T>, a plain pointer on a GPU, a checked one in tests/simt
 *     (bounds, reads of what nobody wrote, two threads at one place without a barrier between them);
 *   - barriers, shuffles, tensor-core and copy instructions are called by the names below, never by CUDA's;
 *   - no static or global device state, no atomics, no recursion, no printf.
 * threadIdx, blockIdx, blockDim, gridDim, float2, float4, uint2, uint4, dim3, fmaf, fmaxf, fminf, sqrtf, rsqrtf, expf, logf,
 * erff, exp, log, sqrt and pow are there in both worlds. */
#ifndef NP_KERNELS_DEVICE_CUH
#define NP_KERNELS_DEVICE_CUH

#include "kernels/gpu.h"
extern "C" {
#include "util/dtype.h"
#include "util/status.h"
}
#include "kernels/failure.h"

#if defined(NP_SIMT)
#include "simt.h" /* tests/simt: everything below up to "common", on the host */
#else

#include <cstdint>
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#define NP_KERNEL(threads)                static __global__ void __launch_bounds__(threads)
/* The same with the number of blocks a multiprocessor should hold, which bounds registers. */
#define NP_KERNEL_BLOCKS(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)
#define NP_DEVICE                         static __device__ __forceinline__
#define NP_HOST_DEVICE                    static __host__ __device__ __forceinline__

/* ---- shared memory ---- */
template <class T> using np_shared = T *;

/* The block's dynamic shared memory from byte `offset` on; offset is a multiple of T's alignment. */
template <class T> NP_DEVICE np_shared<T> np_shared_at(size_t offset) {
  extern __shared__ __align__(1024) unsigned char np_dynamic_shared[];
  return reinterpret_cast<T *>(np_dynamic_shared + offset);
}
/* The same place seen as another type. */
template <class U, class T> NP_DEVICE np_shared<U> np_shared_as(np_shared<T> p) { return reinterpret_cast<U *>(p); }
/* Its address as instructions take it. */
NP_DEVICE uint32_t np_shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

/* ---- memory ---- */
/* 16 bytes of what no thread writes, past the first cache. */
NP_DEVICE uint4 np_load_once(const uint4 *p) {
  uint4 out;
  asm("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
      : "l"(p));
  return out;
}

/* ---- threads ---- */
NP_DEVICE void np_block_sync() { __syncthreads(); }
NP_DEVICE void np_warp_sync() { __syncwarp(); }
/* A barrier of `threads` threads (a multiple of 32) that share `id`, 1 … 15: parts of a block that meet on their own. */
NP_DEVICE void np_named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/* All 32 lanes of the warp take part. T: int, unsigned, float or double. */
template <class T> NP_DEVICE T np_shuffle(T value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
template <class T> NP_DEVICE T np_shuffle_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
NP_DEVICE bool np_warp_any(bool value) { return __any_sync(0xffffffffu, value); }

/* ---- numbers ---- */
NP_DEVICE float np_widen(np_bf16 value) { return __uint_as_float(static_cast<unsigned>(value) << 16); }
/* Nearest even; NaN stays NaN. */
NP_DEVICE np_bf16 np_narrow(float value) {
  np_bf16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(value));
  return out;
}
/* Two of them in one register, `low` in the lower half. */
NP_DEVICE uint32_t np_narrow2(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
/* 2^x to about 2 units in the last place; -inf gives 0. */
NP_DEVICE float np_exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
/* 32768 + byte i (0: the lowest) of `word`, exactly, in one instruction: the byte becomes bits 8 to 15 of a float, which
 * else has the bits of `zero`, NP_BYTE_ZERO. Best from a kernel's arguments: a constant goes into the instruction, and
 * what says which byte then takes two more each time. */
NP_DEVICE float np_byte(uint32_t word, int i, uint32_t zero) {
  return __uint_as_float(__byte_perm(word, zero, 0x7404u | static_cast<unsigned>(i) << 4));
}
/* sum + Σ a_i·b_i over the four bytes of each. */
NP_DEVICE uint32_t np_dot4(uint32_t a, uint32_t b, uint32_t sum) { return __dp4a(a, b, sum); }
/* The warp's sum of whole numbers. */
NP_DEVICE uint32_t np_warp_count(uint32_t value) { return __reduce_add_sync(0xffffffffu, value); }
NP_DEVICE int np_ones(uint32_t value) { return __popc(value); }

/* The same number, of which the compiler does not know that it is. What is worked out from it is worked out anew, at an
 * instruction or two, where it would be held in registers all the way through a loop, and others spilled. */
NP_DEVICE int np_fresh(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

/* ---- tensor cores (sm_80) ---- */
/* d [16, 8] += a [16, 16] · b [16, 8], bf16 in, float32 sums: PTX mma.sync.aligned.m16n8k16.row.col. With g = lane / 4 and
 * t = lane % 4 a lane holds, two columns (rows of b) to a register, the lower index in the lower half:
 *   a: rows g, g+8 × columns 2t..2t+1, 2t+8..2t+9 as a0 (g, 2t), a1 (g+8, 2t), a2 (g, 2t+8), a3 (g+8, 2t+8)
 *   b: column g, rows 2t..2t+1 (b0) and 2t+8..2t+9 (b1);  d: d0 d1 (g, 2t..2t+1), d2 d3 (g+8, 2t..2t+1). */
NP_DEVICE void np_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* The nearest number of 10 bits behind the point, as tf32 has; half way: the larger. (cvt.rna.tf32.f32 looks for NaN besides, at
 * twice the price.) A NaN may become a zero, and what rounds to 2^128 becomes infinite: value - np_tf32(value) is then NaN or
 * infinite, too. */
NP_DEVICE float np_tf32(float value) { return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xffffe000u); }
/* d [16, 8] += a [16, 8] · b [8, 8] in tf32, float32 sums: PTX mma.sync.aligned.m16n8k8.row.col. Of a's and b's values the low
 * 13 bits are not read. A lane holds
 *   a: a0 (g, t), a1 (g+8, t), a2 (g, t+4), a3 (g+8, t+4);  b: b0 (t, g), b1 (t+4, g);  d: as np_mma_bf16's.
 * Products are exact. Their sum with d is not rounded but cut, as with all tensor cores: a long sum made in d leans to zero. */
NP_DEVICE void np_mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
/* Four 8×8 matrices of bf16 from shared memory: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes, aligned);
 * register m of lane i receives elements 2(i%4), 2(i%4)+1 of row i/4 of matrix m. `turned`: of the transposed matrix. */
NP_DEVICE void np_ldmatrix4(uint32_t (&r)[4], np_shared<const np_bf16> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(np_shared_address(row))
               : "memory");
}
NP_DEVICE void np_ldmatrix4_turned(uint32_t (&r)[4], np_shared<const np_bf16> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(np_shared_address(row))
               : "memory");
}

/* ---- copies that overlap (sm_80) ---- */
/* 16 or 8 bytes to shared memory, both addresses aligned to them; zeros, and `from` is not read, when !valid. */
template <int bytes = 16, class T> NP_DEVICE void np_copy_async(np_shared<T> to, const T *from, bool valid) {
  static_assert(bytes == 16 || bytes == 8, "what cp.async copies");
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(np_shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(np_shared_address(to)), "l"(from), "r"(valid ? 8 : 0)
                 : "memory");
}
NP_DEVICE void np_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most `left` of this thread's committed groups are under way. Other threads' copies are seen after a barrier. */
template <int left> NP_DEVICE void np_copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory"); }

/* ---- kernels that overlap (sm_90) ---- */
/* A kernel launched by np_launch_close may start before the one in front of it ends: np_previous_done, its first line, waits
 * until that one and all before are complete and their results are seen. Elsewhere nothing overlaps, and both do nothing. */
NP_DEVICE void np_previous_done() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* By the kernel in front: once all its blocks have come here, or ended, the next may take what room there is on the GPU. */
NP_DEVICE void np_next_may_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- launch ---- */
/* attribute: what is special about it, or NULL. */
template <class... P, class... A>
static np_status np_launch_how(const np_gpu *gpu, cudaLaunchAttribute *attribute, const char *name, void (*kernel)(P...),
                               dim3 grid, int threads, size_t shared_bytes, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return NP_OK;
  cudaError_t failed = cudaSuccess;
  nvtxRangePushA(name);
  if (shared_bytes > 48 * 1024)
    failed = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
  if (failed == cudaSuccess) {
    cudaLaunchConfig_t how = {};
    how.gridDim = grid;
    how.blockDim = dim3(static_cast<unsigned>(threads));
    how.dynamicSmemBytes = shared_bytes;
    how.stream = gpu->stream;
    how.attrs = attribute;
    how.numAttrs = attribute ? 1 : 0;
    failed = cudaLaunchKernelEx(&how, kernel, static_cast<P>(arguments)...);
  }
  nvtxRangePop();
  if (failed == cudaSuccess) return NP_OK;
  (void)cudaGetLastError(); /* told here; not again by the next call */
  return np_launch_failed(gpu, name, failed, cudaGetErrorString(failed));
}

template <class... P, class... A>
static np_status np_launch(const np_gpu *gpu, const char *name, void (*kernel)(P...), dim3 grid, int threads,
                           size_t shared_bytes, A... arguments) {
  return np_launch_how(gpu, nullptr, name, kernel, grid, threads, shared_bytes, arguments...);
}

/* together: so many consecutive blocks, which divide the grid, run at the same time on neighbouring multiprocessors, so
 * that what they both read comes to them over the same part of the second cache (sm_90; else 1). */
template <class... P, class... A>
static np_status np_launch_together(const np_gpu *gpu, const char *name, void (*kernel)(P...), dim3 grid, unsigned together,
                                    int threads, size_t shared_bytes, A... arguments) {
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {together, 1, 1};
  return np_launch_how(gpu, together > 1 ? &cluster : nullptr, name, kernel, grid, threads, shared_bytes, arguments...);
}

/* A kernel that begins with np_previous_done. */
template <class... P, class... A>
static np_status np_launch_close(const np_gpu *gpu, const char *name, void (*kernel)(P...), dim3 grid, int threads,
                                 size_t shared_bytes, A... arguments) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  return np_launch_how(gpu, gpu->major >= 9 ? &overlap : nullptr, name, kernel, grid, threads, shared_bytes, arguments...);
}

#endif /* NP_SIMT */

/* ---- common ---- */
enum { NP_WARP = 32 };
enum { NP_BYTE_BASE = 32768, NP_BYTE_ZERO = 0x47000000 }; /* np_byte's 0: the number, and its bits as a float */
NP_DEVICE int np_lane() { return static_cast<int>(threadIdx.x) % NP_WARP; }
NP_DEVICE int np_warp() { return static_cast<int>(threadIdx.x) / NP_WARP; }

NP_DEVICE float np_load(const float *p) { return *p; }
NP_DEVICE float np_load(const np_bf16 *p) { return np_widen(*p); }
NP_DEVICE void np_store(float *p, float value) { *p = value; }
NP_DEVICE void np_store(np_bf16 *p, float value) { *p = np_narrow(value); }

/* Sums and maxima over a warp; every lane gets the result, in an order that never changes. */
template <class T> NP_DEVICE T np_warp_sum(T value) {
  for (int mask = NP_WARP / 2; mask > 0; mask /= 2) value += np_shuffle_xor(value, mask);
  return value;
}
NP_DEVICE float np_warp_max(float value) {
  for (int mask = NP_WARP / 2; mask > 0; mask /= 2) value = fmaxf(value, np_shuffle_xor(value, mask));
  return value;
}

/* Sum over the block's `threads` threads; every thread gets it. `room` holds threads / 32 values and is free again at the
 * next barrier. */
template <class T> NP_DEVICE T np_block_sum(T value, int threads, np_shared<T> room) {
  value = np_warp_sum(value);
  if (np_lane() == 0) room[np_warp()] = value;
  np_block_sync();
  T sum = room[0];
  for (int w = 1; w < threads / NP_WARP; w++) sum += room[w];
  return sum;
}

#endif
