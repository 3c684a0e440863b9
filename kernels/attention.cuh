/* What the tensor-core kernels of prefix-causal attention share: tiles in shared memory, products of tiles, the map.
 *
 * A tile is 64 rows (queries or keys) of one head of one image, `wide` columns: the head width d rounded up to 32, 64,
 * 96 or 128. What lies beyond N rows or d columns is zeros in shared memory and is never stored. The tile map (full,
 * partial, hidden) is drawn in ops/attention_tiles.h; kernels here use its functions with 64 × 64 tiles.
 *
 * What "hidden keys are not read" means here: a pair of tiles of which no query sees a key is neither loaded nor
 * computed, whatever lies there, NaN included. Inside a partial tile a hidden pair gets the probability 0 by decision,
 * not by arithmetic, but the tensor core then multiplies that 0 with the key's value: 0 for any finite value, so
 * queries are exactly independent of hidden keys as long as numbers are finite; a NaN in a key reaches every query of
 * the query tiles that see a part of its tile. Such a NaN has already reached the loss through the key's own query.
 *
 * Four warps, each with 16 rows of a block's 64. Fragments as device.cuh lays them out: g = lane / 4, t = lane % 4, and
 * a lane's accumulators stand for rows g and g + 8, columns 8n + 2t and 8n + 2t + 1 of block n.
 *
 * Chunks of 16 bytes are permuted within a row so that the eight rows that one 8 × 8 matrix of ldmatrix takes, at the
 * same chunk, lie in eight different groups of banks (128 bytes are 8 groups):
 *
 *      wide 64, 128: chunk ^ (row % 8)             wide 32, 96: chunk ^ (row / 2 % 4)
 *      row 0   0 1 2 3 4 5 6 7                     rows 0, 1   0 1 2 3 | 0 1 2 3      (two rows of 64 bytes, or
 *          1   1 0 3 2 5 4 7 6                          2, 3   1 0 3 2 | 1 0 3 2       halves of rows of 192)
 *          2   2 3 0 1 6 7 4 5                          4, 5   2 3 0 1 | 2 3 0 1
 *          …                                            6, 7   3 2 1 0 | 3 2 1 0 */
#ifndef NP_KERNELS_ATTENTION_CUH
#define NP_KERNELS_ATTENTION_CUH

#include "kernels/attention_plan.h"
#include "kernels/device.cuh"
#include "ops/attention_tiles.h"

/* Loops over registers must be unrolled whole. Unrolled by two, a product keeps few operands under way: unrolled whole,
 * the compiler fetches so many ahead that the sums of the backward pass no longer fit beside them. */
#if defined(NP_SIMT)
#define NP_UNROLL
#define NP_UNROLL_TWO
#else
#define NP_UNROLL     _Pragma("unroll")
#define NP_UNROLL_TWO _Pragma("unroll 2")
#endif

static constexpr float NP_LOG2E = 1.44269504088896340736f, NP_LN2 = 0.69314718055994530942f;

/* What a kernel is told. */
struct np_att_call {
  int tokens, heads, width; /* N, h, d */
  int tiles;                /* ceil(N / 64) */
  float scale;              /* 1/sqrt(d) */
  const int32_t *prefix;    /* [B] or NULL */
  const np_bf16 *qkv;       /* [B, N, 3, h, d] */
  const np_bf16 *dout;      /* [B, N, h, d] */
  np_bf16 *to;              /* out [B, N, h, d]; backward: dqkv [B, N, 3, h, d] */
  float *lse;               /* [B, h, N]; forward: or NULL */
  const float2 *rows;       /* [B, h, 64·tiles]: see attention_backward.cu */
};

/* All but where results go. */
static inline np_att_call np_att_call_of(const np_kernel_attention *at) {
  np_att_call call = {};
  call.tokens = at->tokens;
  call.heads = at->heads;
  call.width = at->head_width;
  call.tiles = static_cast<int>(np_att_tiles(at->tokens, NP_ATT_TILE));
  call.scale = static_cast<float>(1.0 / sqrt(static_cast<double>(at->head_width)));
  call.prefix = at->prefix;
  call.qkv = static_cast<const np_bf16 *>(at->qkv);
  call.dout = static_cast<const np_bf16 *>(at->dout);
  call.lse = at->lse;
  return call;
}

NP_DEVICE np_attention_map np_att_map(const np_att_call &call, int image) {
  np_attention_map map;
  map.tokens = call.tokens;
  map.prefix = call.prefix ? call.prefix[image] : call.tokens;
  map.queries = map.keys = NP_ATT_TILE;
  return map;
}

/* Where q (which 0), k (1) or v (2) of a token begins in qkv; and a token's row of out. */
NP_DEVICE int64_t np_att_qkv(const np_att_call &call, int image, int token, int which, int head) {
  return (((static_cast<int64_t>(image) * call.tokens + token) * 3 + which) * call.heads + head) * call.width;
}
NP_DEVICE int64_t np_att_out(const np_att_call &call, int image, int token, int head) {
  return ((static_cast<int64_t>(image) * call.tokens + token) * call.heads + head) * call.width;
}
NP_DEVICE int np_att_qkv_row(const np_att_call &call) { return 3 * call.heads * call.width; }
NP_DEVICE int np_att_out_row(const np_att_call &call) { return call.heads * call.width; }

/* Rows of tile `tile` that exist. */
NP_DEVICE int np_att_rows(const np_att_call &call, int tile) {
  int left = call.tokens - tile * NP_ATT_TILE;
  return left < NP_ATT_TILE ? left : NP_ATT_TILE;
}

/* Whether no element of the pair needs a test: every key that the tile has room for exists and is seen. */
NP_DEVICE bool np_att_whole(const np_attention_map &map, int t, int u) {
  return np_attention_kind(&map, t, u) == NP_TILE_FULL && (u + 1) * NP_ATT_TILE <= map.tokens;
}

/* ---- tiles in shared memory ---- */

/* The element where `chunk` (8 columns) of a row lies in a tile. */
template <int wide> NP_DEVICE int np_att_at(int row, int chunk) {
  return row * wide + ((chunk ^ (wide % 64 == 0 ? row & 7 : (row >> 1) & 3)) << 3);
}

/* Where this thread's share of a tile's rows begins, from the tile's first element and the elements from row to row:
 * threads lie side by side along rows. Kept by a kernel that walks tiles, for it then costs no register to find it
 * again. */
template <int wide> NP_DEVICE int np_att_mine(int stride) {
  constexpr int chunks = wide / 8;
  return static_cast<int>(threadIdx.x) / chunks * stride + static_cast<int>(threadIdx.x) % chunks * 8;
}

/* Start copying the first `rows` rows of d = width elements, zeros elsewhere. `mine`: this thread's share of them. */
template <int wide>
NP_DEVICE void np_att_load(np_shared<np_bf16> tile, const np_bf16 *mine, int stride, int rows, int width) {
  constexpr int chunks = wide / 8, at_once = NP_ATT_THREADS / chunks; /* rows that the threads take at once */
  const int thread = np_fresh(static_cast<int>(threadIdx.x)), row = thread / chunks, chunk = thread % chunks;
  NP_UNROLL
  for (int i = 0; i < NP_ATT_TILE; i += at_once, mine += at_once * stride) { /* one address at a time: registers */
    if (NP_ATT_THREADS % chunks != 0 && (row == at_once || i + row >= NP_ATT_TILE))
      break; /* wide 96: 10 rows of 12 chunks */
    np_copy_async(tile + np_att_at<wide>(i + row, chunk), mine, i + row < rows && chunk * 8 < width);
  }
}

/* The warp's 16 rows of results, from its accumulators over its own rows of a tile that it alone still uses to global
 * memory, 16 bytes at a time. Rows g are multiplied by low, rows g + 8 by high. `to` is row 0 of the tile. */
template <int wide>
NP_DEVICE void np_att_store(np_shared<np_bf16> tile, const float (&sum)[wide / 8][4], float low, float high,
                            np_bf16 *to, int stride, int rows, int width) {
  const int lane = np_lane(), first = np_warp() * 16, g = lane / 4, t = lane % 4;
  np_warp_sync(); /* other lanes have read what stood here */
  NP_UNROLL
  for (int n = 0; n < wide / 8; n++) {
    np_shared<uint32_t> a = np_shared_as<uint32_t>(tile + np_att_at<wide>(first + g, n));
    np_shared<uint32_t> b = np_shared_as<uint32_t>(tile + np_att_at<wide>(first + g + 8, n));
    a[t] = np_narrow2(sum[n][0] * low, sum[n][1] * low);
    b[t] = np_narrow2(sum[n][2] * high, sum[n][3] * high);
  }
  np_warp_sync();
  constexpr int chunks = wide / 8;
  NP_UNROLL
  for (int i = 0; i < 16 * chunks / NP_WARP; i++) {
    int place = i * NP_WARP + lane, row = first + place / chunks, chunk = place % chunks;
    uint4 value = np_shared_as<const uint4>(np_shared<const np_bf16>(tile + np_att_at<wide>(row, chunk)))[0];
    if (row < rows && chunk * 8 < width) *reinterpret_cast<uint4 *>(to + row * stride + chunk * 8) = value;
  }
}

/* ---- products ---- */

/* The place in a tile that a lane gives ldmatrix for its first 16 rows and columns, whose four matrices are
 *
 *      0 2   np_att_columns: left operands and turned right ones want their registers in this order
 *      1 3
 *
 * or 0 1 over 2 3, np_att_lines: right operands as they lie, for a right operand is a pair of neighbouring registers.
 */
template <int wide> NP_DEVICE int np_att_columns() { return np_att_at<wide>(np_lane() & 15, np_lane() >> 4); }
template <int wide> NP_DEVICE int np_att_lines() {
  return np_att_at<wide>((np_lane() & 7) + (np_lane() >> 4) * 8, (np_lane() >> 3) & 1);
}
/* The same for rows 16i …, columns 16k …, from either. Places of a row are permuted by exclusive or, so this is one,
 * too. */
template <int wide> NP_DEVICE int np_att_square(int place, int i, int k) {
  constexpr int permuted = wide % 64 == 0 ? 8 : 4; /* chunks that change places among each other */
  return 16 * i * wide + 2 * k / permuted * permuted * 8 + (place ^ (2 * k % permuted * 8));
}
/* Columns 16k … 16k + 15 of the warp's 16 rows of a tile as the left operand. */
template <int wide> NP_DEVICE void np_att_left(uint32_t (&a)[4], np_shared<const np_bf16> tile, int place, int k) {
  np_ldmatrix4(a, tile + np_warp() * 16 * wide + np_att_square<wide>(place, 0, k));
}

/* score [16, 8·blocks] += a · tileᵀ over columns 16k … 16k + 15 of the tile's first 8·blocks rows. place: np_att_lines.
 */
template <int wide, int blocks>
NP_DEVICE void np_att_across(float (&score)[blocks][4], const uint32_t (&a)[4], np_shared<const np_bf16> tile,
                             int place, int k) {
  NP_UNROLL
  for (int n = 0; n < blocks / 2; n++) {
    uint32_t r[4];
    np_ldmatrix4(r, tile + np_att_square<wide>(place, n, k));
    const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
    np_mma_bf16(score[2 * n], a, b0);
    np_mma_bf16(score[2 * n + 1], a, b1);
  }
}

template <int blocks> NP_DEVICE void np_att_clear(float (&sum)[blocks][4]) {
  NP_UNROLL
  for (int n = 0; n < blocks; n++) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.0f;
}

/* score [16, 8·blocks] = (the warp's 16 rows of left) · (right's first 8·blocks rows)ᵀ. */
template <int wide, int blocks>
NP_DEVICE void np_att_scores(float (&score)[blocks][4], np_shared<const np_bf16> left, np_shared<const np_bf16> right) {
  const int columns = np_fresh(np_att_columns<wide>()), lines = np_fresh(np_att_lines<wide>());
  np_att_clear(score);
  NP_UNROLL_TWO
  for (int k = 0; k < wide / 16; k++) {
    uint32_t a[4];
    np_att_left<wide>(a, left, columns, k);
    np_att_across<wide>(score, a, right, lines, k);
  }
}

/* sum [16, wide] += weights [16, 64] · tile. The weights stand in accumulators, and those of blocks 2j, 2j + 1 are just
 * where the left operand of columns 16j … 16j + 15 wants them: narrowed, they need not move. */
template <int wide>
NP_DEVICE void np_att_weigh(float (&sum)[wide / 8][4], const float (&weight)[8][4], np_shared<const np_bf16> tile) {
  const int place = np_fresh(np_att_columns<wide>());
  NP_UNROLL
  for (int j = 0; j < 4; j++) {
    const float(&low)[4] = weight[2 * j], (&high)[4] = weight[2 * j + 1];
    const uint32_t a[4] = {np_narrow2(low[0], low[1]), np_narrow2(low[2], low[3]), np_narrow2(high[0], high[1]),
                           np_narrow2(high[2], high[3])};
    NP_UNROLL
    for (int n = 0; n < wide / 16; n++) {
      uint32_t r[4];
      np_ldmatrix4_turned(r, tile + np_att_square<wide>(place, j, n));
      const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
      np_mma_bf16(sum[2 * n], a, b0);
      np_mma_bf16(sum[2 * n + 1], a, b1);
    }
  }
}

#endif
