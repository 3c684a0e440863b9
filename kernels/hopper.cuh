/* What sm_90a adds to device.cuh: matrix products of a warpgroup (wgmma), copies by tensor map (TMA), barriers in
 * shared memory that count bytes (mbarrier), registers handed from one warpgroup to another. As there, the GPU's half
 * is below and the host's half, for tests/simt, in tests/simt/hopper_emulation.h.
 *
 * Tiles. All matrices lie in shared memory as tiles of 64 rows (tokens) × d columns, cut into panels of 64 columns; of
 * a panel that is wider than what is left of a head (d = 32, 96) the rest is zeros, which TMA writes and does not
 * fetch:
 *
 *     panel 0 (8 KiB)        panel 1              a row of a panel is 128 bytes, eight chunks of 16; in row r chunk c
 *     ┌─── 64 columns ───┐   ┌────────────────┐   lies where chunk c ^ (r % 8) would: the 128-byte swizzle, by which
 * the │ row 0: 128 bytes │   │                │   tensor cores and ldmatrix find eight rows in eight different banks.
 *     │ …                │   │                │   TMA writes it so, wgmma reads it so; the pattern repeats every 8
 * rows, │ row 63           │   │                │   1024 bytes, and panels start at multiples of that.
 *     └──────────────────┘   └────────────────┘
 *
 * The same tile serves as either kind of operand. "K-major": the products run along a row (Q·Kᵀ: over d). "MN-major",
 * here `turned`: they run down the rows (P·V: over keys). Its descriptor says (PTX ISA, asynchronous warpgroup level
 * matrix shared memory layout):
 *     K-major    stride 1024: from 8 rows to the next 8; leading: not used; 16 further along K: start + 32 bytes
 *     MN-major   stride 1024: from 8 rows (of K) to the next 8; leading 8192: from panel to panel; 16 further along K:
 *                start + 2048 bytes */
#ifndef NP_KERNELS_HOPPER_CUH
#define NP_KERNELS_HOPPER_CUH

#include "kernels/device.cuh"
#include "kernels/kernels.h"

constexpr int NP_TILE_ROWS = 64;
constexpr int NP_PANEL_WIDTH = 64;                                /* columns */
constexpr int NP_PANEL_BYTES = NP_TILE_ROWS * NP_PANEL_WIDTH * 2; /* bf16 */
constexpr int NP_GROUP = 128;                                     /* threads of a warpgroup */
constexpr float NP_LOG2_E = 1.44269504088896341f;
/* Of heads d = width columns wide: 1 / sqrt(d), and columns and bytes of a tile. */
template <int width>
constexpr float np_score_scale = width == 32   ? 0.176776695296636881f
                                 : width == 64 ? 0.125f
                                 : width == 96 ? 0.102062072615965754f
                                               : 0.0883883476483184406f;
NP_HOST_DEVICE constexpr int np_tile_width(int width) {
  return (width + NP_PANEL_WIDTH - 1) / NP_PANEL_WIDTH * NP_PANEL_WIDTH;
}
NP_HOST_DEVICE constexpr int np_tile_bytes(int width) { return np_tile_width(width) / NP_PANEL_WIDTH * NP_PANEL_BYTES; }

/* A tensor that np_tensor_load reads tiles of: [images, tokens, slices, width] bf16, slices being 3·h or h. */
typedef struct np_tensor_shape {
  const void *base; /* 16-byte aligned */
  int images, tokens, slices, width;
} np_tensor_shape;

#if defined(NP_SIMT)
#include "hopper_emulation.h" /* tests/simt: everything below up to "common", on the host */
#else

#include <cuda.h> /* types alone: libcuda is not linked */

/* Whether this pass of the compiler makes code that can run: other architectures get empty kernels. */
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define NP_HOPPER_CODE 1
#endif

typedef CUtensorMap np_tensor_map;
/* A tensor map as a kernel's parameter: the hardware wants its address in parameter memory. */
#define NP_MAP const __grid_constant__ np_tensor_map

/* ---- barriers in shared memory ---- */
/* A phase ends when `count` arrivals and all expected bytes have come; phases alternate parity, the first has 0. */
NP_DEVICE void np_barrier_init(np_shared<uint64_t> barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(np_shared_address(barrier)), "r"(count) : "memory");
}
/* By the thread that initialised, before the block meets. */
NP_DEVICE void np_barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
NP_DEVICE void np_barrier_arrive(np_shared<uint64_t> barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(np_shared_address(barrier)) : "memory");
}
/* Arrive, and let the phase wait for so many bytes of np_tensor_load. */
NP_DEVICE void np_barrier_expect(np_shared<uint64_t> barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(np_shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
/* Until the phase of this parity is over; before the first phase ends parity 1 counts as over. */
NP_DEVICE void np_barrier_wait(np_shared<uint64_t> barrier, int parity) {
  asm volatile("{\n\t.reg .pred over;\n"
               "again:\n\tmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 over, [%0], %1;\n\t"
               "@!over bra again;\n\t}" ::"r"(np_shared_address(barrier)),
               "r"(parity)
               : "memory");
}
/* What this thread wrote to shared memory is seen by wgmma and TMA (after the barrier that follows). */
NP_DEVICE void np_async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* ---- copies by tensor map ---- */
/* A panel, rows token … token+63 and columns column … column+63 of one slice of one image, to `to`, swizzled; rows
 * beyond the image's tokens arrive as zeros. Counts NP_PANEL_BYTES at the barrier. One thread calls it. */
NP_DEVICE void np_tensor_load(np_shared<np_bf16> to, const np_tensor_map *map, int column, int slice, int token,
                              int image, np_shared<uint64_t> barrier) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
               "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(np_shared_address(to)),
               "l"(map), "r"(column), "r"(slice), "r"(token), "r"(image), "r"(np_shared_address(barrier))
               : "memory");
}

/* ---- products of a warpgroup ---- */
/* d [64, n] (+)= a [64, 16] · b [16, n]: warp w of the group holds rows 16w … 16w+15 of d and a, laid out like
 * np_mma_bf16's, eight columns of d after the other: d[4j], d[4j+1] (g, 8j+2t …), d[4j+2], d[4j+3] (g+8, 8j+2t …).
 * They run on their own from np_wgmma_fence (which comes after the last ordinary use of a and d) until np_wgmma_wait;
 * in between nobody touches a and d, nor writes the tiles. All 128 threads take part. */
NP_DEVICE void np_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
NP_DEVICE void np_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Keeps the compiler from moving uses of a register across this point. */
template <int n> NP_DEVICE void np_wgmma_hold(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int n> NP_DEVICE void np_wgmma_hold(uint32_t (&a)[n][4]) {
#pragma unroll
  for (int i = 0; i < 4 * n; i++) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}
/* What d held is not needed any more: np_wgmma, which adds to d or not by an operand, would keep it in registers. */
template <int n> NP_DEVICE void np_wgmma_forget(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "=f"(d[i]));
}
/* The value, with its past forgotten: keeps what is computed from it in a loop from being computed before the loop, and
 * held in registers all the time. */
NP_DEVICE int np_here(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
/* Until at most `left` of the committed groups are under way. Follow it by np_wgmma_hold of what was waited for. */
template <int left> NP_DEVICE void np_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

#define NP_REGISTERS_32                                                                                                \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"    \
  "%30,%31}"
#define NP_REGISTERS_64                                                                                                \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"    \
  "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,"   \
  "%58,%59,%60,%61,%62,%63}"
#define NP_SUMS_8(d, i)                                                                                                \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),          \
      "+f"(d[i + 7])
#define NP_SUMS_32(d, i) NP_SUMS_8(d, i), NP_SUMS_8(d, i + 8), NP_SUMS_8(d, i + 16), NP_SUMS_8(d, i + 24)

/* a from registers. */
template <bool turned_b> NP_DEVICE void np_wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %37, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NP_REGISTERS_32
               ", {%32,%33,%34,%35}, %36, add, 1, 1, %38;\n\t}"
               : NP_SUMS_32(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
                 "n"(static_cast<int>(turned_b)));
}
template <bool turned_b> NP_DEVICE void np_wgmma(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %69, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NP_REGISTERS_64
               ", {%64,%65,%66,%67}, %68, add, 1, 1, %70;\n\t}"
               : NP_SUMS_32(d, 0), NP_SUMS_32(d, 32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
                 "n"(static_cast<int>(turned_b)));
}
/* a from shared memory. */
template <bool turned_a, bool turned_b>
NP_DEVICE void np_wgmma(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %34, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NP_REGISTERS_32
               ", %32, %33, add, 1, 1, %35, %36;\n\t}"
               : NP_SUMS_32(d, 0)
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(static_cast<int>(turned_a)),
                 "n"(static_cast<int>(turned_b)));
}

/* ---- registers ---- */
/* A warpgroup keeps `count` registers a thread from here on; all of its threads call it. */
template <int count> NP_DEVICE void np_registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count> NP_DEVICE void np_registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

/* ---- tensor maps ---- */
/* The map by which panels of `shape` are loaded. The driver's encoder is asked for by name, so that the program starts
 * on machines without a driver. */
static np_status np_tensor_map_encode(np_tensor_map *map, const np_tensor_shape *shape) {
  typedef CUresult (*encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  void *found = nullptr;
  cudaDriverEntryPointQueryResult answer = cudaDriverEntryPointSymbolNotFound;
  cudaError_t failed =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &answer);
  if (failed != cudaSuccess || answer != cudaDriverEntryPointSuccess || !found)
    return np_error(NP_ERR_LIBRARY, "the CUDA driver has no cuTensorMapEncodeTiled (12.0 and later have it): update it, "
                                    "or set attention: portable");
  cuuint64_t slice = static_cast<cuuint64_t>(shape->width) * 2, token = slice * static_cast<cuuint64_t>(shape->slices);
  cuuint64_t sizes[4] = {static_cast<cuuint64_t>(shape->width), static_cast<cuuint64_t>(shape->slices),
                         static_cast<cuuint64_t>(shape->tokens), static_cast<cuuint64_t>(shape->images)};
  cuuint64_t strides[3] = {slice, token,
                           token * static_cast<cuuint64_t>(shape->tokens)}; /* bytes; elements are adjacent */
  cuuint32_t box[4] = {NP_PANEL_WIDTH, 1, NP_TILE_ROWS, 1}, steps[4] = {1, 1, 1, 1};
  CUresult refused =
      reinterpret_cast<encoder>(found)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void *>(shape->base), sizes,
                                       strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (refused == CUDA_SUCCESS) return NP_OK;
  return np_error(NP_ERR_LIBRARY, "cuTensorMapEncodeTiled refuses [%d, %d, %d, %d] at %p: error %d; attention: portable "
                                  "does without", shape->images, shape->tokens, shape->slices, shape->width, shape->base,
                  static_cast<int>(refused));
}

#endif /* NP_SIMT */

/* ---- common ---- */
/* wgmma's descriptor of a matrix that starts at p: see above. The swizzle pattern starts at a multiple of 1024 bytes.
 * Addresses of a block that runs together with others have its number in their high bits, which do not belong here. */
NP_DEVICE uint64_t np_matrix(np_shared<const np_bf16> p) {
  uint64_t start = (np_shared_address(p) & 0x3ffff) >> 4, leading = NP_PANEL_BYTES >> 4, stride = 1024 >> 4,
           swizzle = 1;
  return start | leading << 16 | stride << 32 | swizzle << 62;
}
/* Bytes to the matrix that starts 16 further along K: in a K-major tile … */
NP_DEVICE constexpr int np_along_row(int k) {
  return k * 16 / NP_PANEL_WIDTH * NP_PANEL_BYTES + k * 16 % NP_PANEL_WIDTH * 2;
}
/* … and in a turned one. */
NP_DEVICE constexpr int np_down_rows(int k) { return k * 16 * NP_PANEL_WIDTH * 2; }
/* The descriptor of a matrix so many bytes further. */
NP_DEVICE uint64_t np_matrix_at(uint64_t matrix, int bytes) { return matrix + static_cast<uint64_t>(bytes >> 4); }

/* Element number of row r, chunk c (8 columns) of a tile. */
NP_DEVICE int np_chunk(int r, int c) { return (c / 8 * NP_TILE_ROWS + r) * NP_PANEL_WIDTH + ((c % 8) ^ (r % 8)) * 8; }

/* A tile's panels, from row `token` on. */
template <int width>
NP_DEVICE void np_tile_load(np_shared<np_bf16> to, const np_tensor_map *map, int slice, int token, int image,
                            np_shared<uint64_t> barrier) {
  for (int column = 0; column < width; column += NP_PANEL_WIDTH)
    np_tensor_load(to + column * NP_TILE_ROWS, map, column, slice, token, image, barrier);
}

/* Sums as a's of the product that follows: columns 16k … 16k+15 of d become a[k]. */
template <int n> NP_DEVICE void np_sums_to_a(const float (&d)[n], uint32_t (&a)[n / 8][4]) {
#pragma unroll
  for (int k = 0; k < n / 8; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) a[k][i] = np_narrow2(d[8 * k + 2 * i], d[8 * k + 2 * i + 1]);
}

/* Write the first `columns` of rows of d · scale[row of the lane] as bf16, 16 bytes a lane. A quad holds a row in
 * pieces of two columns; it turns them round so that each lane has eight columns and the quad writes 64 bytes in a row:
 * lane t holds columns 8j+2t, +1 of blocks j = 0 … 3   →   lane t holds columns 8t … 8t+7 of block t. row[0], row[1]:
 * where rows g and g+8 of the warp start; NULL: beyond the last token. */
template <int columns, int n>
NP_DEVICE void np_rows_store(const float (&d)[n], const float (&scale)[2], np_bf16 *const (&row)[2]) {
  static_assert(columns % 32 == 0 && columns <= 2 * n, "lanes take blocks of eight columns, four at a time");
  int t = np_lane() % 4;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int j = 0; j < columns / 8; j += 4) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int at = 4 * (j + i) + 2 * half;
        v[i] = np_narrow2(d[at] * scale[half], d[at + 1] * scale[half]);
      }
#pragma unroll
      for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (i & bit) continue;
          uint32_t other = np_shuffle_xor(t & bit ? v[i] : v[i + bit], bit);
          if (t & bit) v[i] = other;
          else v[i + bit] = other;
        }
      if (row[half]) *reinterpret_cast<uint4 *>(row[half] + 8 * (j + t)) = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

/* ---- which block takes what ---- */
/* The longer an image's prefix, the more work its items are. So a block takes images with long prefixes first, and in
 * rows that run alternately forth and back: every block gets about the same work, and what it gets follows from the
 * prefixes alone.
 *
 *      images by prefix   ████████  ███████  ██████  █████  ████  ███  ██  █
 *      blocks                 0  →     1        2      2  ←   1     0   0  →
 *
 * Neighbours in memory are worked at together besides. Of more than NP_ORDERED images, or without prefixes, nothing is
 * ordered. */
constexpr int NP_ORDERED = 512;
constexpr int NP_ORDER_BYTES = NP_ORDERED * 2;

static inline bool np_is_ordered(const int32_t *prefix, int batch) { return prefix && batch <= NP_ORDERED; }

/* order[k] is the image with the k-th longest prefix, by all warps of the block; a block barrier must follow. Each warp
 * ranks 32 images: it loads all prefixes, a lane each, and hands them round. */
NP_DEVICE void np_order_images(np_shared<uint16_t> order, const int32_t *prefix, int batch) {
  for (int first = np_warp() * NP_WARP; first < batch; first += static_cast<int>(blockDim.x)) {
    int image = first + np_lane(), mine = image < batch ? prefix[image] : 0, before = 0;
    for (int others = 0; others < batch; others += NP_WARP) {
      int theirs = others + np_lane() < batch ? prefix[others + np_lane()] : -1; /* before nobody */
#pragma unroll
      for (int lane = 0; lane < NP_WARP; lane++) {
        int other = np_shuffle(theirs, lane);
        before += static_cast<int>(other > mine) |
                  (static_cast<int>(other == mine) & static_cast<int>(others + lane < image));
      }
    }
    if (image < batch) order[before] = static_cast<uint16_t>(image);
  }
}

/* Round r's place of this block among all items; may be one behind the last in the last round. */
NP_DEVICE int np_round_place(int r) {
  int blocks = static_cast<int>(gridDim.x), me = static_cast<int>(blockIdx.x);
  return r * blocks + (r % 2 ? blocks - 1 - me : me);
}

/* The image whose items are the k-th of all. ordered: by np_order_images. */
NP_DEVICE int np_image_at(int k, np_shared<const uint16_t> order, bool ordered) { return ordered ? order[k] : k; }

/* A ring of `slots` places: which one the n-th use takes, and the parity of its phase. */
template <int slots> NP_DEVICE int np_ring_slot(int n) { return n % slots; }
template <int slots> NP_DEVICE int np_ring_parity(int n) { return n / slots % 2; }

/* The warp is done with what `empty` guards. */
NP_DEVICE void np_barrier_release(np_shared<uint64_t> empty) {
  np_warp_sync();
  if (np_lane() == 0) np_barrier_arrive(empty);
}

/* ---- launchers ---- */
/* Launches the kernel for heads as wide as the call's; of: those for 32, 64, 96 and 128. */
typedef np_status (*np_hopper_launcher)(const np_gpu *, const np_kernel_attention *);
static inline np_status np_hopper_launch(const char *name, const np_gpu *gpu, const np_kernel_attention *a,
                                         const np_hopper_launcher (&of)[4]) {
  if (a->act != NP_BF16 || !np_kernel_attention_hopper_takes(gpu, a->tokens, a->head_width))
    return np_error(NP_ERR_ARGUMENT, "%s takes bf16 and heads of 32, 64, 96 or 128 on sm_90, not %d", name,
                    a->head_width);
  if (a->batch == 0 || a->heads == 0) return NP_OK; /* no tensor to map */
  return of[a->head_width / 32 - 1](gpu, a);
}

#endif
