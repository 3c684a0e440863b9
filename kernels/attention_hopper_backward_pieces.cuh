/* The Hopper backward pass: the pieces that a consumer's loop is made of; products, what is done to their results in
 * registers, and dQ on its way from pair to pair. */
#ifndef NP_KERNELS_ATTENTION_HOPPER_BACKWARD_PIECES_CUH
#define NP_KERNELS_ATTENTION_HOPPER_BACKWARD_PIECES_CUH

#include "kernels/attention_hopper_backward.cuh"

#ifdef NP_HOPPER_CODE

/* ---- products and scores ---- */

/* d = a·bᵀ along the rows of two tiles: scores and their gradients, transposed. */
template <int width>
NP_DEVICE void issue_pairs(float (&d)[32], np_shared<const np_bf16> a, np_shared<const np_bf16> b) {
  uint64_t left = np_matrix(a), right = np_matrix(b);
  np_wgmma_fence();
#pragma unroll
  for (int i = 0; i < width / 16; i++)
    np_wgmma<false, false>(d, np_matrix_at(left, np_along_row(i)), np_matrix_at(right, np_along_row(i)), i > 0);
  np_wgmma_commit();
}

/* d += a·b down the 64 rows of tile b. */
template <int n> NP_DEVICE void issue_sums(float (&d)[n], uint32_t (&a)[4][4], np_shared<const np_bf16> b) {
  uint64_t matrix = np_matrix(b);
  np_wgmma_hold(a);
  np_wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; i++) np_wgmma<true>(d, a[i], np_matrix_at(matrix, np_down_rows(i)), true);
  np_wgmma_commit();
}

/* Whether warpgroup w makes dQ of query tile t: with 128 columns both do, half of them each. */
template <int width> NP_DEVICE bool on_duty(int t, int w) {
  return np_tile_width(width) > NP_PANEL_WIDTH || t % 2 == w;
}

/* Where the 64 columns of dQ that warpgroup w makes begin. */
template <int width> NP_DEVICE int dq_column(int w) {
  return np_tile_width(width) > NP_PANEL_WIDTH ? w * NP_PANEL_WIDTH : 0;
}

/* dq = dS·K of one key tile or both, warpgroup w's 64 columns. */
template <int width> NP_DEVICE void issue_dq(float (&dq)[32], np_shared<const np_bf16> k, int w, bool both) {
  backward_memory<width> m;
  uint64_t left = np_matrix(m.ds), right = np_matrix(k + dq_column<width>(w) * NP_TILE_ROWS);
  np_wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; i++)
    np_wgmma<true, true>(dq, np_matrix_at(left, np_down_rows(i)), np_matrix_at(right, np_down_rows(i)), i > 0);
  np_wgmma_commit();
  if (both) {
    np_wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++)
      np_wgmma<true, true>(dq, np_matrix_at(left, NP_PANEL_BYTES + np_down_rows(i)),
                           np_matrix_at(right, backward_memory<width>::TILE + np_down_rows(i)), true);
    np_wgmma_commit();
  }
}

/* Transposed scores of key tile u and query tile t become probabilities; pairs that are hidden, or of keys beyond the
 * last token, zero. */
NP_DEVICE void probabilities(float (&s)[32], np_shared<const float> statistics, float scale2,
                             const np_attention_map *map, int t, int u) {
  np_shared<const float2> lse = np_shared_as<const float2>(statistics);
#pragma unroll
  for (int i = 0; i < 32; i += 4) {
    float2 l = lse[i + np_lane() % 4];
#pragma unroll
    for (int e = 0; e < 4; e++) s[i + e] = np_exp2(fmaf(s[i + e], scale2, e % 2 ? -l.y : -l.x));
  }
  if (np_attention_kind(map, t, u) == NP_TILE_FULL && (u + 1) * NP_TILE_ROWS <= map->tokens) return;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int j = u * NP_TILE_ROWS + np_warp() % WARPS * 16 + np_lane() / 4 + 8 * r;
    int first = j < map->tokens ? np_attention_first_query(map, j) : INT32_MAX;
#pragma unroll
    for (int i = 2 * r; i < 32; i += 4)
#pragma unroll
      for (int e = 0; e < 2; e++)
        if (t * NP_TILE_ROWS + i / 4 * 8 + np_lane() % 4 * 2 + e < first) s[i + e] = 0.0f;
  }
}

/* p becomes dS = p·(dp - dsum). */
NP_DEVICE void score_gradients(float (&p)[32], const float (&dp)[32], np_shared<const float> statistics) {
  np_shared<const float2> dsum = np_shared_as<const float2>(statistics + NP_TILE_ROWS);
#pragma unroll
  for (int i = 0; i < 32; i += 4) {
    float2 sum = dsum[i + np_lane() % 4];
#pragma unroll
    for (int e = 0; e < 4; e++) p[i + e] *= dp[i + e] - (e % 2 ? sum.y : sum.x);
  }
}

/* dSᵀ, as it lies in registers, to its tile: rows keys, columns queries. */
NP_DEVICE void write_ds(np_shared<np_bf16> ds, const uint32_t (&a)[4][4]) {
  int row = np_here(np_warp() % WARPS * 16 + np_lane() / 4);
#pragma unroll
  for (int i = 0; i < 16; i++)
    *np_shared_as<uint32_t>(ds + (np_chunk(row + i % 2 * 8, i / 4 * 2 + i / 2 % 2) + np_lane() % 4 * 2)) =
        a[i / 4][i % 4];
}

/* Where a lane's rows g and g+8 of 64 tokens from `token` on start in dqkv. */
template <int width>
NP_DEVICE void rows_of(const backward_task *task, const backward_item *it, int which, int token, np_bf16 *(&row)[2]) {
  int number = np_here(it->number), image = number / task->heads, head = number % task->heads;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int i = token + np_warp() % WARPS * 16 + np_lane() / 4 + 8 * r;
    int64_t at = (static_cast<int64_t>(image) * task->tokens + i) * 3 + which;
    row[r] = i < task->tokens ? task->dqkv + (at * task->heads + head) * width : nullptr;
  }
}

/* Where this thread's part of dQ of query tile t, 64 columns of it, is carried. */
template <int width> NP_DEVICE float4 *carried_dq(const backward_task *task, int t, int w) {
  int64_t tile = static_cast<int64_t>(blockIdx.x) * tiles_of(task) + t;
  return reinterpret_cast<float4 *>(task->carried + tile * NP_TILE_ROWS * np_tile_width(width) +
                                    dq_column<width>(w) * NP_TILE_ROWS) +
         threadIdx.x % NP_GROUP;
}

/* dQ from earlier pairs, if there are any: asked for long before it is added. */
template <int width> NP_DEVICE void fetch_dq(const backward_task *task, int pair, int t, int w, float4 (&before)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) before[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (pair == 0) return;
  const float4 *from = carried_dq<width>(task, t, w);
#pragma unroll
  for (int i = 0; i < 8; i++) before[i] = from[i * NP_GROUP];
}

/* dQ of query tile t, from the pairs so far: to the next pair, or out. */
template <int width>
NP_DEVICE void pass_dq(const backward_task *task, const backward_item *it, int pair, int t, int w, float (&dq)[32],
                       const float4 (&before)[8]) {
  bool last = np_attention_key_tiles(&it->map, t) <= 2 * pair + 2;
  constexpr int rest = width % NP_PANEL_WIDTH; /* of the last panel */
  float4 *own = carried_dq<width>(task, t, w);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    dq[4 * i] += before[i].x;
    dq[4 * i + 1] += before[i].y;
    dq[4 * i + 2] += before[i].z;
    dq[4 * i + 3] += before[i].w;
  }
  if (!last) {
#pragma unroll
    for (int i = 0; i < 8; i++) own[i * NP_GROUP] = make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
    return;
  }
  np_bf16 *row[2];
  rows_of<width>(task, it, 0, t * NP_TILE_ROWS, row);
#pragma unroll
  for (int r = 0; r < 2; r++)
    if (row[r]) row[r] += dq_column<width>(w);
  constexpr float scale = np_score_scale<width>;
  if (rest > 0 && dq_column<width>(w) + NP_PANEL_WIDTH > width) np_rows_store<rest>(dq, {scale, scale}, row);
  else np_rows_store<NP_PANEL_WIDTH>(dq, {scale, scale}, row);
}

#endif /* NP_HOPPER_CODE */

#endif
