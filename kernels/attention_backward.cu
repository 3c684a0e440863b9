/* Prefix-causal attention, backward, on tensor cores: bf16 in and out, float32 in between, no atomics.
 *
 * With p = exp(scale·q·kᵀ - lse), dp = dout·vᵀ, D = Σ dout·out of a query and ds = p·(dp - D):
 *
 *   dv = pᵀ·dout     dk = scale·dsᵀ·q     dq = scale·ds·k
 *
 * dk and dv are sums over queries, dq is a sum over keys. A block owns one tile of either side, keeps the sums in
 * registers and walks the visible tiles of the other side in order; p is computed again from lse by both:
 *
 *            keys 0   1   2   3      owner of key tile 1: down its column, from the first query tile that sees it
 *   queries 0     #   :   .   .        s = k·qᵀ, dp = v·doutᵀ, dv += p·dout, dk += ds·q
 *           1     #   #   .   .
 *           2   ──#───#───#─► .      owner of query tile 2: along its row, to the last key tile that it sees
 *           3     #   ▼   #   #        s = q·kᵀ, dp = dout·vᵀ, dq += ds·k
 *
 * Both are one loop: two tiles A0, A1 of the own side stay in shared memory, pairs X, Y of the other side pass by, a
 * warp holds 16 own rows, so p and ds become left operands of the next product without leaving their registers:
 *
 *   own keys:    A0 = k, A1 = v,    X = q, Y = dout        own queries: A0 = q, A1 = dout, X = k, Y = v
 *
 *   step i   wait for X, load the next X   s = A0·Xᵀ, p   wait for Y   (dv += p·Y)   dp = A1·Yᵀ, ds
 *            load the next Y into Y's place   sum += ds·X
 *
 * Seven products where five would do, if one block did a whole head: then dq would be summed over key tiles too, in 128
 * KiB of shared memory at N = 256, d = 128, which with the tiles is more than the 163 KiB of an A100, or through the
 * second cache; and a head would be one block, with no other to fill its waits. Counted, not measured: both take at N =
 * 256 about as long as the 512 kB that a head reads and writes, which are the same, for owners of one head are
 * neighbours in the grid and meet in the cache. Sums of 64 rows × 128 columns, twice, take 128 of a thread's 255
 * registers: two blocks of 81 KiB a multiprocessor.
 *
 * First a small pass puts lse·log2(e) and D of each query beside each other, zeros where the last tile sticks out: such
 * queries have q = dout = 0, so they add p·0 and 1·(0 - 0)·0: nothing, without a test. */
#include "kernels/attention.cuh"

/* ---- kernels ---- */

enum { ROWS_THREADS = 256, ROWS_LANES = 16 };

/* rows[b, head, i] = (lse·log2(e), Σ dout·out) for i < 64·tiles. 16 threads a row, in the order of out. */
NP_KERNEL(ROWS_THREADS)
attention_backward_rows(const np_att_call call, int64_t count, const np_bf16 *out, float2 *rows) {
  const int lane = static_cast<int>(threadIdx.x) % ROWS_LANES, padded = call.tiles * NP_ATT_TILE;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (ROWS_THREADS / ROWS_LANES) + threadIdx.x / ROWS_LANES;
  const int head = static_cast<int>(row % call.heads);
  const int64_t token = row / call.heads, image = token / padded;
  const int i = static_cast<int>(token % padded);
  const bool valid = row < count && i < call.tokens;
  float sum = 0.0f;
  if (valid && lane * 8 < call.width) {
    const int64_t at = np_att_out(call, static_cast<int>(image), i, head) + lane * 8;
    const uint4 a = *reinterpret_cast<const uint4 *>(out + at), b = *reinterpret_cast<const uint4 *>(call.dout + at);
    const unsigned left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
    NP_UNROLL
    for (int j = 0; j < 4; j++) {
      sum = fmaf(np_widen(static_cast<np_bf16>(left[j] & 0xffff)), np_widen(static_cast<np_bf16>(right[j] & 0xffff)),
                 sum);
      sum = fmaf(np_widen(static_cast<np_bf16>(left[j] >> 16)), np_widen(static_cast<np_bf16>(right[j] >> 16)), sum);
    }
  }
  for (int mask = ROWS_LANES / 2; mask > 0; mask /= 2) sum += np_shuffle_xor(sum, mask);
  if (lane != 0 || row >= count) return;
  float2 value = make_float2(0.0f, 0.0f);
  const int64_t pair = image * call.heads + head;
  if (valid) value = make_float2(call.lse[pair * call.tokens + i] * NP_LOG2E, sum);
  rows[pair * padded + i] = value;
}

/* The block's shared memory. */
template <int wide> struct backward_room {
  static constexpr int tile = NP_ATT_TILE * wide;
  static constexpr size_t rows_at = 5 * np_att_tile_bytes(wide);
  np_shared<np_bf16> own0, own1, x, y; /* x: two tiles */
  np_shared<float2> rows;              /* [2, 64] of the queries in x; owners of keys alone */
};

template <int wide> NP_DEVICE backward_room<wide> backward_room_at() {
  backward_room<wide> room;
  room.own0 = np_shared_at<np_bf16>(0);
  room.own1 = room.own0 + room.tile;
  room.x = room.own1 + room.tile;
  room.y = room.x + 2 * room.tile;
  room.rows = np_shared_at<float2>(room.rows_at);
  return room;
}

/* Start copying the numbers of a query tile: 64 of 8 bytes, two to a copy. */
NP_DEVICE void load_rows(np_shared<float2> to, const float2 *from) {
  const int i = static_cast<int>(threadIdx.x) * 2;
  if (i < NP_ATT_TILE) np_copy_async(to + i, from + i, true);
}

/* Scores [16 keys, 64 queries] become p. `rows`: the queries'. */
NP_DEVICE void weigh_keys(float (&score)[8][4], np_shared<const float2> rows, float scale_log2) {
  NP_UNROLL
  for (int n = 0; n < 8; n++) {
    NP_UNROLL
    for (int e = 0; e < 2; e++) {
      const float lse = rows[8 * n + np_lane() % 4 * 2 + e].x;
      score[n][e] = np_exp2(fmaf(score[n][e], scale_log2, -lse));
      score[n][2 + e] = np_exp2(fmaf(score[n][2 + e], scale_log2, -lse));
    }
  }
}

/* Pairs hidden by the mask get p = 0: rows are keys. key, query: the first of their tiles. */
NP_DEVICE void hide_keys(float (&p)[8][4], const np_attention_map &map, int key, int query) {
  const int thread = np_fresh(static_cast<int>(threadIdx.x)), column = thread % 4 * 2;
  key += thread / NP_WARP * 16 + thread % NP_WARP / 4;
  const int low = np_attention_first_query(&map, key) - query, high = np_attention_first_query(&map, key + 8) - query;
  NP_UNROLL
  for (int n = 0; n < 8; n++) {
    NP_UNROLL
    for (int e = 0; e < 2; e++) {
      if (8 * n + column + e < low) p[n][e] = 0.0f;
      if (8 * n + column + e < high) p[n][2 + e] = 0.0f;
    }
  }
}

/* What a block owns: dk and dv of a key tile, or dq of a query tile. grid: [B, h, 2·tiles]: key tiles from the first
 * and query tiles from the last on by turns, for those walk longest. */
struct place {
  bool keys;
  int image, head, tile;
};
NP_DEVICE place place_of(const np_att_call &call, int block) {
  const int pair = block / (2 * call.tiles), owner = block % (2 * call.tiles), turn = owner / 2;
  const bool keys = owner % 2 == 0;
  return {keys, pair / call.heads, pair % call.heads, keys ? turn : call.tiles - 1 - turn};
}
/* The same when all is summed: worked out again, for in between registers are scarce. */
NP_DEVICE place place_again(const np_att_call &call) {
  return place_of(call, np_fresh(static_cast<int>(blockIdx.x)));
}

/* dk and dv of key tile u. */
template <int wide> NP_DEVICE void own_keys(const np_att_call &call, int image, int head, int u) {
  const backward_room<wide> room = backward_room_at<wide>();
  const np_attention_map map = np_att_map(call, image);
  const int first = u * NP_ATT_TILE, have = np_att_rows(call, u);
  const int begin = np_attention_first_query(&map, first) / NP_ATT_TILE;
  const int stride = np_att_qkv_row(call), out_stride = np_att_out_row(call);
  const int mine = np_att_mine<wide>(stride), out_mine = np_att_mine<wide>(out_stride);
  const np_bf16 *q = call.qkv + np_att_qkv(call, image, begin * NP_ATT_TILE, 0, head) + mine;
  const np_bf16 *dout = call.dout + np_att_out(call, image, begin * NP_ATT_TILE, head) + out_mine;
  const np_bf16 *k = call.qkv + np_att_qkv(call, image, first, 1, head) + mine;
  const float2 *rows =
      call.rows + ((static_cast<int64_t>(image) * call.heads + head) * call.tiles + begin) * NP_ATT_TILE;

  np_att_load<wide>(room.own0, k, stride, have, call.width);
  np_att_load<wide>(room.own1, k + out_stride, stride, have, call.width);
  np_att_load<wide>(room.x, q, stride, np_att_rows(call, begin), call.width);
  load_rows(room.rows, rows);
  np_copy_commit();
  np_att_load<wide>(room.y, dout, out_stride, np_att_rows(call, begin), call.width);
  np_copy_commit();

  float dk[wide / 8][4], dv[wide / 8][4];
  np_att_clear(dk);
  np_att_clear(dv);
  int now = 0; /* which half of x and rows */
  for (int t = begin; t < call.tiles; t++, now ^= 1) {
    const bool more = t + 1 < call.tiles;
    const np_shared<np_bf16> x = room.x + now * room.tile;
    const np_shared<const float2> numbers = room.rows + now * NP_ATT_TILE;
    float p[8][4];
    np_copy_wait<1>(); /* q is here; dout may be on its way */
    np_block_sync();
    q += static_cast<int64_t>(stride) * NP_ATT_TILE;
    rows += NP_ATT_TILE;
    if (more) {
      np_att_load<wide>(room.x + (now ^ 1) * room.tile, q, stride, np_att_rows(call, t + 1), call.width);
      load_rows(room.rows + (now ^ 1) * NP_ATT_TILE, rows);
    }
    np_copy_commit();
    np_att_scores<wide>(p, room.own0, x);
    weigh_keys(p, numbers, call.scale * NP_LOG2E);
    if (np_attention_kind(&map, t, u) != NP_TILE_FULL) hide_keys(p, map, first, t * NP_ATT_TILE);
    np_copy_wait<1>(); /* dout is here */
    np_block_sync();
    np_att_weigh<wide>(dv, p, room.y);
    NP_UNROLL
    for (int half = 0; half < 2; half++) { /* ds takes p's place; 32 queries at a time, for registers */
      float dp[4][4];
      np_att_scores<wide>(dp, room.own1, room.y + 32 * half * wide);
      NP_UNROLL
      for (int n = 0; n < 4; n++) {
        NP_UNROLL
        for (int e = 0; e < 2; e++) {
          float(&ds)[4] = p[4 * half + n];
          const float mean = numbers[32 * half + 8 * n + np_lane() % 4 * 2 + e].y;
          ds[e] *= dp[n][e] - mean;
          ds[2 + e] *= dp[n][2 + e] - mean;
        }
      }
    }
    np_block_sync(); /* all are done with dout */
    dout += static_cast<int64_t>(out_stride) * NP_ATT_TILE;
    if (more) np_att_load<wide>(room.y, dout, out_stride, np_att_rows(call, t + 1), call.width);
    np_copy_commit();
    np_att_weigh<wide>(dk, p, x);
  }
  const place at = place_again(call);
  np_bf16 *to = call.to + np_att_qkv(call, at.image, at.tile * NP_ATT_TILE, 1, at.head);
  np_att_store<wide>(room.own0, dk, call.scale, call.scale, to, stride, np_att_rows(call, at.tile), call.width);
  np_att_store<wide>(room.own1, dv, 1.0f, 1.0f, to + out_stride, stride, np_att_rows(call, at.tile), call.width);
}

/* Scores [16 queries, 64 keys] become p. lse: of queries g and g + 8. */
NP_DEVICE void weigh_queries(float (&score)[8][4], float low_lse, float high_lse, float scale_log2) {
  NP_UNROLL
  for (int n = 0; n < 8; n++) {
    NP_UNROLL
    for (int e = 0; e < 2; e++) {
      score[n][e] = np_exp2(fmaf(score[n][e], scale_log2, -low_lse));
      score[n][2 + e] = np_exp2(fmaf(score[n][2 + e], scale_log2, -high_lse));
    }
  }
}

/* The same, rows are queries; and keys that do not exist. */
NP_DEVICE void hide_queries(float (&p)[8][4], const np_attention_map &map, int query, int key) {
  const int thread = np_fresh(static_cast<int>(threadIdx.x)), column = thread % 4 * 2;
  query += thread / NP_WARP * 16 + thread % NP_WARP / 4;
  const int low = np_attention_limit(&map, query) - key, high = np_attention_limit(&map, query + 8) - key;
  NP_UNROLL
  for (int n = 0; n < 8; n++) {
    NP_UNROLL
    for (int e = 0; e < 2; e++) {
      if (8 * n + column + e >= low) p[n][e] = 0.0f;
      if (8 * n + column + e >= high) p[n][2 + e] = 0.0f;
    }
  }
}

/* dq of query tile t. */
template <int wide> NP_DEVICE void own_queries(const np_att_call &call, int image, int head, int t) {
  const backward_room<wide> room = backward_room_at<wide>();
  const np_attention_map map = np_att_map(call, image);
  const int first = t * NP_ATT_TILE, have = np_att_rows(call, t), row = first + np_warp() * 16 + np_lane() / 4;
  const int key_tiles = np_attention_key_tiles(&map, t);
  const int stride = np_att_qkv_row(call), out_stride = np_att_out_row(call);
  const int mine = np_att_mine<wide>(stride);
  const np_bf16 *k = call.qkv + np_att_qkv(call, image, 0, 1, head) + mine;
  const float2 *rows = call.rows + (static_cast<int64_t>(image) * call.heads + head) * call.tiles * NP_ATT_TILE;
  const float2 low = rows[row], high = rows[row + 8];

  np_att_load<wide>(room.own0, call.qkv + np_att_qkv(call, image, first, 0, head) + mine, stride, have, call.width);
  np_att_load<wide>(room.own1, call.dout + np_att_out(call, image, first, head) + np_att_mine<wide>(out_stride),
                    out_stride, have, call.width);
  np_att_load<wide>(room.x, k, stride, np_att_rows(call, 0), call.width);
  np_copy_commit();
  np_att_load<wide>(room.y, k + out_stride, stride, np_att_rows(call, 0), call.width);
  np_copy_commit();

  float dq[wide / 8][4];
  np_att_clear(dq);
  int now = 0;
  for (int u = 0; u < key_tiles; u++, now ^= 1) {
    const bool more = u + 1 < key_tiles;
    const np_shared<np_bf16> x = room.x + now * room.tile;
    float p[8][4];
    np_copy_wait<1>(); /* k is here; v may be on its way */
    np_block_sync();
    k += static_cast<int64_t>(stride) * NP_ATT_TILE;
    if (more) np_att_load<wide>(room.x + (now ^ 1) * room.tile, k, stride, np_att_rows(call, u + 1), call.width);
    np_copy_commit();
    np_att_scores<wide>(p, room.own0, x);
    weigh_queries(p, low.x, high.x, call.scale * NP_LOG2E);
    if (!np_att_whole(map, t, u)) hide_queries(p, map, first, u * NP_ATT_TILE);
    np_copy_wait<1>(); /* v is here */
    np_block_sync();
    NP_UNROLL
    for (int half = 0; half < 2; half++) {
      float dp[4][4];
      np_att_scores<wide>(dp, room.own1, room.y + 32 * half * wide);
      NP_UNROLL
      for (int n = 0; n < 4; n++) {
        NP_UNROLL
        for (int e = 0; e < 2; e++) {
          float(&ds)[4] = p[4 * half + n];
          ds[e] *= dp[n][e] - low.y;
          ds[2 + e] *= dp[n][2 + e] - high.y;
        }
      }
    }
    np_block_sync(); /* all are done with v */
    if (more) np_att_load<wide>(room.y, k + out_stride, stride, np_att_rows(call, u + 1), call.width);
    np_copy_commit();
    np_att_weigh<wide>(dq, p, x);
  }
  const place at = place_again(call);
  np_bf16 *to = call.to + np_att_qkv(call, at.image, at.tile * NP_ATT_TILE, 0, at.head);
  np_att_store<wide>(room.own0, dq, call.scale, call.scale, to, stride, np_att_rows(call, at.tile), call.width);
}

template <int wide>
NP_KERNEL_BLOCKS(NP_ATT_THREADS, np_att_backward_blocks(wide))
attention_backward(const np_att_call call) {
  const place at = place_of(call, static_cast<int>(blockIdx.x));
  if (at.keys) own_keys<wide>(call, at.image, at.head, at.tile);
  else own_queries<wide>(call, at.image, at.head, at.tile);
}

/* ---- launchers ---- */

template <int wide> static np_status launch(const np_gpu *gpu, const np_att_plan *plan, const np_att_call &call) {
  return np_launch(gpu, plan->kernel, attention_backward<wide>, dim3(static_cast<unsigned>(plan->blocks)),
                   plan->threads, plan->shared, call);
}

extern "C" size_t np_kernel_attention_backward_scratch(const np_gpu *gpu, int batch, int tokens, int heads,
                                                       int head_width) {
  (void)gpu, (void)head_width;
  return static_cast<size_t>(np_att_scratch_rows(batch, tokens, heads, NP_ATT_TILE)) * sizeof(float2);
}

extern "C" np_status np_kernel_attention_backward(const np_gpu *gpu, const np_kernel_attention *attention) {
  const np_att_plan plan = np_att_plan_of(attention, true);
  np_status st = np_att_check(gpu, attention, &plan);
  if (st != NP_OK) return st;
  np_att_call call = np_att_call_of(attention);
  float2 *rows = static_cast<float2 *>(attention->scratch);
  call.to = static_cast<np_bf16 *>(attention->dqkv);
  call.rows = rows;
  const int64_t count = np_att_scratch_rows(attention->batch, attention->tokens, attention->heads, NP_ATT_TILE);
  const int64_t blocks = (count * ROWS_LANES + ROWS_THREADS - 1) / ROWS_THREADS;
  st = np_launch(gpu, "attention_backward_rows", attention_backward_rows, dim3(static_cast<unsigned>(blocks)),
                 ROWS_THREADS, 0, call, count, static_cast<const np_bf16 *>(attention->out), rows);
  if (st != NP_OK) return st;
  switch (plan.columns) {
  case 32:
    return launch<32>(gpu, &plan, call);
  case 64:
    return launch<64>(gpu, &plan, call);
  case 96:
    return launch<96>(gpu, &plan, call);
  default:
    return launch<128>(gpu, &plan, call);
  }
}
