/* Attention backward on Hopper. The device code runs on sm_90a alone; other architectures get an empty kernel that
 * nobody launches. Its arithmetic, its layouts and its waits were proven on the host
 * (tests/simt/test_hopper_attention.cu), which says nothing of speed.
 *
 * With P = exp(S·scale - lse), dS = P∘(dP - dsum), dP = dO·Vᵀ and dsum = Σ dO∘O:
 *     dV = Pᵀ·dO      dK = scale·dSᵀ·Q      dQ = scale·dS·K
 * One block does a whole head (it takes heads one after the other), so that S and dP are computed once, five products
 * in all, and nothing is added up by several blocks:
 *
 *               keys ──►   pair 0    pair 1        for each pair of key tiles (128 keys: K, V in shared memory,
 *      queries  tile 0      ▓▓         .             dK, dV in registers, 64 keys to each of two warpgroups)
 *        │      tile 1      ▓▓         .               for each query tile that sees any of it:
 *        ▼      tile 2      ▓▓        ▓ .                both groups    Sᵀ = K·Qᵀ, dPᵀ = V·dOᵀ   [keys, queries]
 *               tile 3      ▓▓        ▓▓                               dV += Pᵀ·dO, dK += dSᵀ·Q  from registers
 *                                                                      dSᵀ → shared memory
 *                                                        both together  dQ = dS·K over the 128 keys, each 64 columns
 *
 * A query tile that sees several pairs carries dQ from one to the next as float32, in scratch of the block's own (which
 * a GPU's second-level cache holds): the same thread writes and reads it, in the order of the pairs.
 * With d = 64 dQ has but 64 columns: the groups take turns, one does the even query tiles, the other the odd ones.
 *
 * Within a group the next query tile's S is under way while this one's dQ is passed on, across pairs and heads too; dP
 * runs during the exponentials, dV during dS, and dK, which needs registers alone, while the other group's dS is waited
 * for and what is carried of dQ is fetched:
 *
 *      tensor cores   S0   dP0 ···   dV0 ····   dK0 ·········  dQ0   S1 ········   dP1 ···   dV1
 *      other units         P0 = exp  dS0, written, exchanged         dQ0 passed    P1 = exp  dS1 …
 *
 * A place of the rings is given back as soon as nobody needs it: dO's after dV, Q's and dS's after dK and dQ. ptxas
 * takes a wait for some of the products under way, but keeps them parallel only where the rest does not cross the end
 * of a loop or a condition; hence the order of issue, and the full waits, below.
 *
 * Threads: a producer (one thread of the first warpgroup) brings tiles by TMA, ahead of their use and across heads; two
 * more warps of that group make dsum and lse·log2(e) of a query tile; then the two warpgroups above.
 *
 *      K, V [2 pairs]    Q, dO [2 tiles]    O [1 tile]    dS [2 tiles of 64 × 64]    lse, dsum [2 × 64]
 *
 * At barriers one lane arrives for its warp. Only lse and dsum, which pass from threads to threads by plain stores and
 * loads, have every lane arrive for itself: full when statistics are made, free when all are done with the tile's dO.
 * It costs nothing that could be measured, and compute-sanitizer's racecheck, which follows each thread's own arrivals
 * alone, finds them in order.
 *
 * As in the forward pass, a hidden pair inside a partial tile contributes an exact zero times what is there. */
#include "kernels/hopper.cuh"
#include "kernels/kernels.h"
#include "ops/attention_tiles.h"

/* ---- kernels ---- */

enum {
  CONSUMERS = 2,
  THREADS = (1 + CONSUMERS) * NP_GROUP,
  SLOTS = 2,
  WARPS = NP_GROUP / NP_WARP, /* of a consumer */
  STATISTICIANS = NP_TILE_ROWS
};

typedef struct backward_task {
  int tokens, heads, items; /* items: B·h */
  const int32_t *prefix;    /* [B] or NULL */
  const float *lse;         /* [B, h, N] */
  np_bf16 *dqkv;            /* [B, N, 3, h, d] */
  float *carried;           /* [blocks, query tiles, 64·d]: dQ on its way from pair to pair */
  bool ordered;             /* images, by their prefixes */
} backward_task;

template <int width> struct backward_memory {
  static constexpr int TILE = np_tile_bytes(width), ELEMENTS = TILE / 2, PAIR = CONSUMERS * ELEMENTS;
  static constexpr int K = 0, V = K + SLOTS * 2 * TILE, Q = V + SLOTS * 2 * TILE, DO = Q + SLOTS * TILE,
                       O = DO + SLOTS * TILE;
  static constexpr int DS = O + TILE, STATISTICS = DS + CONSUMERS * NP_PANEL_BYTES;
  static constexpr int BARRIERS = STATISTICS + SLOTS * 2 * NP_TILE_ROWS * 4;
  static constexpr int PAIR_FULL = 0, PAIR_EMPTY = 2, QUERY_FULL = 4, QUERY_EMPTY = 6, STATISTICS_FULL = 8, O_FULL = 10,
                       O_EMPTY = 11, DS_FULL = 12, DS_EMPTY = 13, DO_FULL = 14, DO_EMPTY = 16;
  static constexpr int COUNT = 18, ORDER = BARRIERS + COUNT * 8, BYTES = ORDER + NP_ORDER_BYTES;
  np_shared<np_bf16> k = np_shared_at<np_bf16>(K), v = np_shared_at<np_bf16>(V); /* [SLOTS][2 tiles] */
  np_shared<np_bf16> q = np_shared_at<np_bf16>(Q), dout = np_shared_at<np_bf16>(DO), out = np_shared_at<np_bf16>(O);
  np_shared<np_bf16> ds = np_shared_at<np_bf16>(DS);             /* [2 tiles] rows keys, columns queries */
  np_shared<float> statistics = np_shared_at<float>(STATISTICS); /* [SLOTS][lse·log2(e) | dsum][64] */
  np_shared<uint64_t> barriers = np_shared_at<uint64_t>(BARRIERS);
  np_shared<uint16_t> order = np_shared_at<uint16_t>(ORDER); /* of images */
};

typedef struct backward_item {
  int number; /* image · h + head */
  np_attention_map map;
} backward_item;

#ifdef NP_HOPPER_CODE

/* Query tiles, and pairs of key tiles. */
NP_DEVICE int tiles_of(const backward_task *task) { return (task->tokens + NP_TILE_ROWS - 1) / NP_TILE_ROWS; }
NP_DEVICE int pairs_of(const backward_task *task) { return (tiles_of(task) + 1) / 2; }

NP_DEVICE backward_item item_of(const backward_task *task, np_shared<const uint16_t> order, int place) {
  int k = place / task->heads, image = np_image_at(k, order, task->ordered);
  int prefix = task->prefix ? task->prefix[image] : task->tokens;
  return {image * task->heads + place - k * task->heads, {task->tokens, prefix, NP_TILE_ROWS, NP_TILE_ROWS}};
}

/* The first query tile that sees something of key tile u; the number of tiles when there is no such key. */
NP_DEVICE int first_tile(const backward_task *task, const backward_item *it, int u) {
  int key = u * NP_TILE_ROWS;
  return key < it->map.tokens ? np_attention_first_query(&it->map, key) / NP_TILE_ROWS : tiles_of(task);
}

/* ---- the producer's warpgroup ---- */

/* One thread. pairs, queries: how many have been used. Of a query tile dO comes first: its place is free first, and
 * dsum is made of it before anybody needs the rest. */
template <int width>
NP_DEVICE void produce(const np_tensor_map *qkv, const np_tensor_map *out, const np_tensor_map *dout,
                       const backward_task *task) {
  typedef backward_memory<width> memory;
  memory m;
  int pairs = 0, queries = 0;
  for (int r = 0; r * static_cast<int>(gridDim.x) < task->items; r++) {
    int where = np_round_place(r);
    if (where >= task->items) break;
    backward_item it = item_of(task, m.order, where);
    int image = it.number / task->heads, head = it.number % task->heads;
    for (int pair = 0; pair < pairs_of(task); pair++, pairs++) {
      int slot = np_ring_slot<SLOTS>(pairs), tiles = 2 * pair + 1 < tiles_of(task) ? 2 : 1;
      np_shared<uint64_t> full = m.barriers + (memory::PAIR_FULL + slot);
      np_barrier_wait(m.barriers + (memory::PAIR_EMPTY + slot), 1 - np_ring_parity<SLOTS>(pairs));
      np_barrier_expect(full, 2 * tiles * memory::TILE);
      for (int u = 0; u < tiles; u++) {
        int at = slot * memory::PAIR + u * memory::ELEMENTS, key = (2 * pair + u) * NP_TILE_ROWS;
        np_tile_load<width>(m.k + at, qkv, task->heads + head, key, image, full);
        np_tile_load<width>(m.v + at, qkv, 2 * task->heads + head, key, image, full);
      }
#pragma unroll 1 /* or registers run out */
      for (int t = first_tile(task, &it, 2 * pair); t < tiles_of(task); t++, queries++) {
        int place = np_ring_slot<SLOTS>(queries), at = place * memory::ELEMENTS, query = t * NP_TILE_ROWS;
        int free = 1 - np_ring_parity<SLOTS>(queries);
        full = m.barriers + (memory::DO_FULL + place);
        np_barrier_wait(m.barriers + (memory::DO_EMPTY + place), free);
        np_barrier_expect(full, memory::TILE);
        np_tile_load<width>(m.dout + at, dout, head, query, image, full);
        np_barrier_wait(m.barriers + memory::O_EMPTY, (queries + 1) % 2);
        np_barrier_expect(m.barriers + memory::O_FULL, memory::TILE);
        np_tile_load<width>(m.out, out, head, query, image, m.barriers + memory::O_FULL);
        full = m.barriers + (memory::QUERY_FULL + place);
        np_barrier_wait(m.barriers + (memory::QUERY_EMPTY + place), free);
        np_barrier_expect(full, memory::TILE);
        np_tile_load<width>(m.q + at, qkv, head, query, image, full);
      }
    }
  }
}

/* Eight products of bf16, added in order. */
NP_DEVICE float dot(uint4 a, uint4 b, float sum) {
  const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    sum = fmaf(np_widen(static_cast<np_bf16>(x[i])), np_widen(static_cast<np_bf16>(y[i])), sum);
    sum = fmaf(np_widen(static_cast<np_bf16>(x[i] >> 16)), np_widen(static_cast<np_bf16>(y[i] >> 16)), sum);
  }
  return sum;
}

/* A thread for each row of a query tile. dO is there only when all were done with the last statistics in this place.
 * Rows beyond the last token get lse = inf: their probabilities are zero. */
template <int width> NP_DEVICE void make_statistics(const backward_task *task, int row) {
  typedef backward_memory<width> memory;
  memory m;
  int queries = 0;
  for (int r = 0; r * static_cast<int>(gridDim.x) < task->items; r++) {
    int where = np_round_place(r);
    if (where >= task->items) break;
    backward_item it = item_of(task, m.order, where);
    for (int pair = 0; pair < pairs_of(task); pair++)
      for (int t = first_tile(task, &it, 2 * pair); t < tiles_of(task); t++, queries++) {
        int place = np_ring_slot<SLOTS>(queries), i = t * NP_TILE_ROWS + row;
        float lse = INFINITY, sum[2] = {0.0f, 0.0f};
        if (i < task->tokens) lse = task->lse[static_cast<int64_t>(it.number) * task->tokens + i] * NP_LOG2_E;
        np_shared<const uint4> dout = np_shared_as<const uint4>(m.dout + place * memory::ELEMENTS);
        np_shared<const uint4> out = np_shared_as<const uint4>(m.out);
        np_barrier_wait(m.barriers + (memory::DO_FULL + place), np_ring_parity<SLOTS>(queries));
        np_barrier_wait(m.barriers + memory::O_FULL, queries % 2);
#pragma unroll 2
        for (int c = 0; c < width / 8; c++)
          sum[c % 2] = dot(dout[np_chunk(row, c) / 8], out[np_chunk(row, c) / 8], sum[c % 2]);
        np_barrier_release(m.barriers + memory::O_EMPTY);
        np_shared<float> to = m.statistics + place * 2 * NP_TILE_ROWS + row;
        to[0] = lse;
        to[NP_TILE_ROWS] = sum[0] + sum[1];
        np_barrier_arrive(m.barriers + (memory::STATISTICS_FULL + place));
      }
  }
}

/* ---- a consumer ---- */

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

/* Ends use n of the queries' ring: its products are waited for, then the next use's scores with keys k are under way.
 * Where they are not wanted (!ahead), scores of nothing are: ptxas bears no condition around them. */
template <int width>
NP_DEVICE void go_on(float (&s)[32], float (&dk)[np_tile_width(width) / 2], float (&dv)[np_tile_width(width) / 2],
                     np_shared<const np_bf16> k, int n, bool ahead) {
  typedef backward_memory<width> memory;
  memory m;
  int next = n + ahead;
  np_barrier_wait(m.barriers + (memory::QUERY_FULL + np_ring_slot<SLOTS>(next)), np_ring_parity<SLOTS>(next));
  np_wgmma_wait<0>();
  np_wgmma_hold(dk);
  np_wgmma_hold(dv);
  np_wgmma_forget(s);
  issue_pairs<width>(s, k, ahead ? m.q + np_ring_slot<SLOTS>(next) * memory::ELEMENTS : k);
  np_barrier_release(m.barriers + memory::DS_EMPTY);
  np_barrier_release(m.barriers + (memory::QUERY_EMPTY + np_ring_slot<SLOTS>(n)));
}

/* Use n of the queries' ring, tile t, by the warpgroup of keys that are hidden from it: columns of dQ, no more. */
template <int width>
NP_DEVICE void help(const backward_task *task, const backward_item *it, np_shared<const np_bf16> k, int pair, int t,
                    int w, int n) {
  typedef backward_memory<width> memory;
  memory m;
  np_barrier_wait(m.barriers + (memory::DO_FULL + np_ring_slot<SLOTS>(n)), np_ring_parity<SLOTS>(n));
  np_barrier_arrive(m.barriers + (memory::DO_EMPTY + np_ring_slot<SLOTS>(n)));
  np_barrier_wait(m.barriers + (memory::QUERY_FULL + np_ring_slot<SLOTS>(n)), np_ring_parity<SLOTS>(n));
  np_barrier_release(m.barriers + (memory::QUERY_EMPTY + np_ring_slot<SLOTS>(n)));
  np_barrier_wait(m.barriers + memory::DS_EMPTY, (n + 1) % 2);
  np_barrier_release(m.barriers + memory::DS_FULL);
  np_barrier_wait(m.barriers + memory::DS_FULL, n % 2);
  if (on_duty<width>(t, w)) {
    float dq[32];
    float4 before[8];
    fetch_dq<width>(task, pair, t, w, before);
    issue_dq<width>(dq, k, w, false);
    np_wgmma_wait<0>();
    np_wgmma_hold(dq);
    np_barrier_release(m.barriers + memory::DS_EMPTY);
    pass_dq<width>(task, it, pair, t, w, dq, before);
  } else {
    np_barrier_release(m.barriers + memory::DS_EMPTY);
  }
}

/* Whether what comes after the pair before `pair` (which may be the first of the block's next item) begins with keys
 * and queries of w's own, not with help; false at the end of all. */
NP_DEVICE bool begins_own(const backward_task *task, const backward_item *it, np_shared<const uint16_t> order,
                          int round, int pair, int w) {
  if (pair < pairs_of(task)) return first_tile(task, it, 2 * pair + w) == first_tile(task, it, 2 * pair);
  int where = np_round_place(round + 1);
  if (w == 0 || where >= task->items) return where < task->items;
  backward_item next = item_of(task, order, where);
  return first_tile(task, &next, w) == 0;
}

/* Warpgroup 1 + w. */
template <int width> NP_DEVICE void consume(const backward_task *task, int w) {
  typedef backward_memory<width> memory;
  memory m;
  constexpr float scale = np_score_scale<width>, scale2 = scale * NP_LOG2_E;
  int pairs = 0, n = 0; /* uses of the rings */
  bool ready = false;   /* s: the scores of the pair's first query tile */
  float s[32];
  for (int round = 0; round * static_cast<int>(gridDim.x) < task->items; round++) {
    int where = np_round_place(round);
    if (where >= task->items) break;
    backward_item it = item_of(task, m.order, where);
    for (int pair = 0; pair < pairs_of(task); pair++, pairs++) {
      int slot = np_ring_slot<SLOTS>(pairs), u = 2 * pair + w, t = first_tile(task, &it, 2 * pair);
      np_shared<const np_bf16> k = m.k + slot * memory::PAIR, v = m.v + slot * memory::PAIR + w * memory::ELEMENTS;
      float dk[np_tile_width(width) / 2], dv[np_tile_width(width) / 2];
      np_barrier_wait(m.barriers + (memory::PAIR_FULL + slot), np_ring_parity<SLOTS>(pairs));
      for (int own = first_tile(task, &it, u); t < own; t++, n++) help<width>(task, &it, k, pair, t, w, n);
#pragma unroll
      for (int i = 0; i < np_tile_width(width) / 2; i++) dk[i] = dv[i] = 0.0f;

      if (t < tiles_of(task)) {
        if (!ready) {
          np_barrier_wait(m.barriers + (memory::QUERY_FULL + np_ring_slot<SLOTS>(n)), np_ring_parity<SLOTS>(n));
          issue_pairs<width>(s, k + w * memory::ELEMENTS, m.q + np_ring_slot<SLOTS>(n) * memory::ELEMENTS);
          np_wgmma_wait<0>();
          np_wgmma_hold(s);
        }
        for (bool more = true; more; t++, n++) {
          int place = np_ring_slot<SLOTS>(n);
          np_shared<const np_bf16> q = m.q + place * memory::ELEMENTS, dout = m.dout + place * memory::ELEMENTS;
          np_shared<const float> statistics = m.statistics + place * 2 * NP_TILE_ROWS;
          float dp[32];
          uint32_t p[4][4], ds[4][4]; /* here, for products read them until go_on */
          np_barrier_wait(m.barriers + (memory::DO_FULL + place), np_ring_parity<SLOTS>(n));
          issue_pairs<width>(dp, v, dout);
          np_barrier_wait(m.barriers + (memory::STATISTICS_FULL + place), np_ring_parity<SLOTS>(n));
          probabilities(s, statistics, scale2, &it.map, t, u);
          np_sums_to_a(s, p);
          issue_sums(dv, p, dout);
          np_wgmma_wait<1>();
          np_wgmma_hold(dp);
          score_gradients(s, dp, statistics);
          np_sums_to_a(s, ds);
          np_barrier_wait(m.barriers + memory::DS_EMPTY, (n + 1) % 2);
          write_ds(m.ds + w * (NP_PANEL_BYTES / 2), ds);
          np_async_fence();
          np_barrier_release(m.barriers + memory::DS_FULL);
          issue_sums(dk, ds, q);
          np_wgmma_wait<1>();
          np_wgmma_hold(dv);
          np_barrier_arrive(m.barriers + (memory::DO_EMPTY + place));
          float4 before[8];
          if (on_duty<width>(t, w)) fetch_dq<width>(task, pair, t, w, before);
          more = t + 1 < tiles_of(task);
          ready = more || begins_own(task, &it, m.order, round, pair + 1, w);
          np_barrier_wait(m.barriers + memory::DS_FULL, n % 2);
          np_shared<const np_bf16> next = k + w * memory::ELEMENTS;
          if (ready && !more) {
            next = m.k + np_ring_slot<SLOTS>(pairs + 1) * memory::PAIR + w * memory::ELEMENTS;
            np_barrier_wait(m.barriers + (memory::PAIR_FULL + np_ring_slot<SLOTS>(pairs + 1)),
                            np_ring_parity<SLOTS>(pairs + 1));
          }
          if (on_duty<width>(t, w)) {
            float dq[32];
            issue_dq<width>(dq, k, w, np_attention_key_tiles(&it.map, t) - 2 * pair > 1);
            go_on<width>(s, dk, dv, next, n, ready);
            np_wgmma_hold(dq);
            pass_dq<width>(task, &it, pair, t, w, dq, before);
          } else {
            go_on<width>(s, dk, dv, next, n, ready);
          }
          np_wgmma_wait<0>();
          np_wgmma_hold(s);
        }
      }
      np_barrier_release(m.barriers + (memory::PAIR_EMPTY + slot));
      np_bf16 *row[2];
      rows_of<width>(task, &it, 1, u * NP_TILE_ROWS, row);
      np_rows_store<width>(dk, {scale, scale}, row);
      rows_of<width>(task, &it, 2, u * NP_TILE_ROWS, row);
      np_rows_store<width>(dv, {1.0f, 1.0f}, row);
    }
  }
}

#endif /* NP_HOPPER_CODE */

template <int width>
NP_KERNEL_BLOCKS(THREADS, 1)
hopper_backward(NP_MAP qkv, NP_MAP out, NP_MAP dout, const backward_task task) {
#ifdef NP_HOPPER_CODE
  typedef backward_memory<width> memory;
  memory m;
  if (threadIdx.x == 0) {
    constexpr int all = CONSUMERS * WARPS, rows = STATISTICIANS, lanes = CONSUMERS * NP_GROUP;
    static_assert(memory::COUNT == 18, "arrivals below");
    const int arrivals[memory::COUNT] = {1,    1, all, all, 1,   1, all, all,   rows,
                                         rows, 1, 2,   all, all, 1, 1,   lanes, lanes};
    for (int i = 0; i < memory::COUNT; i++) np_barrier_init(m.barriers + i, arrivals[i]);
    np_barrier_init_done();
  }
  if (task.ordered) np_order_images(m.order, task.prefix, task.items / task.heads);
  np_block_sync();
  int group = np_shuffle(static_cast<int>(threadIdx.x) / NP_GROUP, 0);
  if (group == 0) {
    np_registers_give<40>();
    if (threadIdx.x == 0) produce<width>(&qkv, &out, &dout, &task);
    int row = static_cast<int>(threadIdx.x) - NP_WARP;
    if (row >= 0 && row < STATISTICIANS) make_statistics<width>(&task, row);
  } else {
    np_registers_take<232>();
    consume<width>(&task, group - 1);
  }
#endif
}

/* ---- launchers ---- */

size_t np_kernel_attention_hopper_backward_scratch(const np_gpu *gpu, int batch, int tokens, int heads,
                                                   int head_width) {
  size_t tiles = static_cast<size_t>(tokens + NP_TILE_ROWS - 1) / NP_TILE_ROWS;
  size_t blocks = static_cast<size_t>(batch) * static_cast<size_t>(heads);
  if (blocks > static_cast<size_t>(gpu->processors)) blocks = static_cast<size_t>(gpu->processors);
  return blocks * tiles * NP_TILE_ROWS * static_cast<size_t>(np_tile_width(head_width)) * sizeof(float);
}

template <int width> static np_status launch(const np_gpu *gpu, const np_kernel_attention *a) {
  np_tensor_shape shapes[3] = {{a->qkv, a->batch, a->tokens, 3 * a->heads, width},
                               {a->out, a->batch, a->tokens, a->heads, width},
                               {a->dout, a->batch, a->tokens, a->heads, width}};
  np_tensor_map maps[3];
  for (int i = 0; i < 3; i++) {
    np_status st = np_tensor_map_encode(&maps[i], &shapes[i]);
    if (st != NP_OK) return st;
  }
  backward_task task = {a->tokens,
                        a->heads,
                        a->batch * a->heads,
                        a->prefix,
                        a->lse,
                        static_cast<np_bf16 *>(a->dqkv),
                        static_cast<float *>(a->scratch),
                        np_is_ordered(a->prefix, a->batch)};
  unsigned grid = static_cast<unsigned>(task.items < gpu->processors ? task.items : gpu->processors);
  return np_launch(gpu, "attention_hopper_backward", hopper_backward<width>, grid, THREADS,
                   backward_memory<width>::BYTES, maps[0], maps[1], maps[2], task);
}

np_status np_kernel_attention_hopper_backward(const np_gpu *gpu, const np_kernel_attention *a) {
  return np_hopper_launch("attention_hopper_backward", gpu, a, {launch<32>, launch<64>, launch<96>, launch<128>});
}
