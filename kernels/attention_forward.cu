/* Prefix-causal attention, forward, on tensor cores: bf16 in and out, float32 in between.
 *
 * A block owns one tile of 64 queries of one head and walks its visible key tiles with an online softmax; four warps
 * take 16 queries each, whose q fragments, running maximum, sum and unnormalised output stay in registers. Keys and
 * values come through a ring of three tiles, so that two copies are always under way while one tile is used, at one
 * barrier a tile:
 *
 *      step     1 scores K0   2 values V0   3 scores K1   4 values V1   …
 *      slot 0   K0            V1 arrives    V1 arrives    V1               a slot is refilled by the step after the one
 *           1   V0 arrives    V0            K2 arrives    …                that used it, whose barrier has just passed
 *           2   (q) K1 arr.   K1 arrives    K1            …
 *
 * Why these sizes. With N = 256, d = 128 an average image (S uniform) has 2/3 of its pairs visible: 22 MFLOP a head
 * beside 260 kB of q, k, v and out, 85 operations a byte: fewer than the 200 at which an A100 or the 300 at which an
 * H100 turns from memory to arithmetic. So what counts is loads under way, not operands a warp can reuse: two blocks of
 * 48 KiB and some 200 registers live on a multiprocessor, with up to 64 KiB under way; three or four where d is
 * smaller. A tile of 128 queries would halve the reads of k and v, but those come from the second cache: the tiles of a
 * head are neighbours in the grid. Within a head the longest walk (the last tile) starts first; ordering the whole grid
 * so would throw that locality away and gain one short tail in many waves.
 *
 * Softmax in base 2: with c = log2(e)/sqrt(d), p = 2^(c·s - m), m the running maximum of c·s. Tile 0 holds key 0, which
 * every query sees, so m is finite after it unless the numbers are not. */
#include "kernels/attention.cuh"

/* ---- kernels ---- */

/* What a block owns. grid: [B, h, tiles], the last query tile of a head first. */
struct place {
  int image, head, tile;
};
NP_DEVICE place place_of(const np_att_call &call, int block) {
  const int pair = block / call.tiles;
  return {pair / call.heads, pair % call.heads, call.tiles - 1 - block % call.tiles};
}

/* What a warp keeps of its 16 queries; index 0 is row g, 1 is row g + 8. */
template <int wide> struct forward_state {
  float out[wide / 8][4];
  float top[2], sum[2]; /* sum: of this lane's columns alone */
};

/* Pairs hidden by the mask, and keys that do not exist, get -inf. query, key: the first of their tiles. */
NP_DEVICE void hide(float (&score)[8][4], const np_attention_map &map, int query, int key) {
  const int thread = np_fresh(static_cast<int>(threadIdx.x)), column = thread % 4 * 2;
  query += thread / NP_WARP * 16 + thread % NP_WARP / 4;
  const int low = np_attention_limit(&map, query) - key, high = np_attention_limit(&map, query + 8) - key;
  NP_UNROLL
  for (int n = 0; n < 8; n++) {
    NP_UNROLL
    for (int e = 0; e < 2; e++) {
      if (8 * n + column + e >= low) score[n][e] = -INFINITY;
      if (8 * n + column + e >= high) score[n][2 + e] = -INFINITY;
    }
  }
}

/* Scores become unnormalised probabilities; what is kept of earlier tiles shrinks to the new maximum. */
template <int wide> NP_DEVICE void soften(forward_state<wide> &state, float (&score)[8][4], float scale_log2) {
  NP_UNROLL
  for (int half = 0; half < 2; half++) {
    float top = score[0][2 * half];
    NP_UNROLL
    for (int n = 0; n < 8; n++) top = fmaxf(top, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
    top = fmaxf(top, np_shuffle_xor(top, 1));
    top = fmaxf(top, np_shuffle_xor(top, 2));
    top = fmaxf(state.top[half], top * scale_log2);
    const float shrink = np_exp2(state.top[half] - top);
    state.top[half] = top;
    float sum = 0.0f;
    NP_UNROLL
    for (int n = 0; n < 8; n++) {
      NP_UNROLL
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        score[n][e] = np_exp2(fmaf(score[n][e], scale_log2, -top));
        sum += score[n][e];
      }
    }
    state.sum[half] = state.sum[half] * shrink + sum;
    NP_UNROLL
    for (int n = 0; n < wide / 8; n++) {
      state.out[n][2 * half] *= shrink;
      state.out[n][2 * half + 1] *= shrink;
    }
  }
}

/* Divide by the sums, store the warp's rows of out and lse. `tile` is free to use. */
template <int wide>
NP_DEVICE void finish(const np_att_call &call, forward_state<wide> &state, np_shared<np_bf16> tile, const place &at) {
  const int first = at.tile * NP_ATT_TILE, rows = np_att_rows(call, at.tile);
  float inverse[2];
  NP_UNROLL
  for (int half = 0; half < 2; half++) {
    float sum = state.sum[half];
    sum += np_shuffle_xor(sum, 1);
    sum += np_shuffle_xor(sum, 2);
    inverse[half] = 1.0f / sum;
    const int row = np_warp() * 16 + np_lane() / 4 + 8 * half;
    if (call.lse && np_lane() % 4 == 0 && row < rows)
      call.lse[(static_cast<int64_t>(at.image) * call.heads + at.head) * call.tokens + first + row] =
          state.top[half] * NP_LN2 + logf(sum);
  }
  np_att_store<wide>(tile, state.out, inverse[0], inverse[1], call.to + np_att_out(call, at.image, first, at.head),
                     np_att_out_row(call), rows, call.width);
}

template <int wide>
NP_KERNEL_BLOCKS(NP_ATT_THREADS, np_att_forward_blocks(wide))
attention_forward(const np_att_call call) {
  const np_shared<np_bf16> ring = np_shared_at<np_bf16>(0);
  constexpr int slot = NP_ATT_TILE * wide;
  const place at = place_of(call, static_cast<int>(blockIdx.x));
  const int tile = at.tile, first = tile * NP_ATT_TILE;
  const np_attention_map map = np_att_map(call, at.image);
  const int key_tiles = np_attention_key_tiles(&map, tile), rows = np_att_rows(call, tile);
  const int stride = np_att_qkv_row(call);
  const int to_values = np_att_out_row(call); /* elements from a key to its value */
  const int mine = np_att_mine<wide>(stride);
  const np_bf16 *k = call.qkv + np_att_qkv(call, at.image, 0, 1, at.head) + mine; /* in the newest key tile under way */

  np_att_load<wide>(ring + 2 * slot, call.qkv + np_att_qkv(call, at.image, first, 0, at.head) + mine, stride, rows,
                    call.width);
  np_att_load<wide>(ring, k, stride, np_att_rows(call, 0), call.width);
  np_copy_commit();
  np_att_load<wide>(ring + slot, k + to_values, stride, np_att_rows(call, 0), call.width);
  np_copy_commit();
  np_copy_wait<1>();
  np_block_sync();
  uint32_t q[wide / 16][4];
  NP_UNROLL
  for (int i = 0; i < wide / 16; i++) np_att_left<wide>(q[i], ring + 2 * slot, np_att_columns<wide>(), i);

  forward_state<wide> state;
  np_att_clear(state.out);
  state.top[0] = state.top[1] = -INFINITY;
  state.sum[0] = state.sum[1] = 0.0f;

  int whole = 0; /* the first tiles, which need no test */
  while (whole < key_tiles && np_att_whole(map, tile, whole)) whole++;
  int keys = 0, values = slot; /* where this step's tiles lie; the third slot is 3·slot - keys - values */
  for (int u = 0; u < key_tiles; u++) {
    float score[8][4];
    const bool more = u + 1 < key_tiles;
    np_copy_wait<1>(); /* the keys are here; values may be on their way */
    np_block_sync();
    k += static_cast<int64_t>(stride) * NP_ATT_TILE;
    if (more) np_att_load<wide>(ring + (3 * slot - keys - values), k, stride, np_att_rows(call, u + 1), call.width);
    np_copy_commit();
    np_att_clear(score);
    const int lines = np_fresh(np_att_lines<wide>());
    NP_UNROLL
    for (int i = 0; i < wide / 16; i++) np_att_across<wide>(score, q[i], ring + keys, lines, i);
    if (u >= whole) hide(score, map, first, u * NP_ATT_TILE);
    soften(state, score, call.scale * NP_LOG2E);
    np_copy_wait<1>(); /* the values are here */
    np_block_sync();
    if (more) np_att_load<wide>(ring + keys, k + to_values, stride, np_att_rows(call, u + 1), call.width);
    np_copy_commit();
    np_att_weigh<wide>(state.out, score, ring + values);
    const int used = keys;
    keys = 3 * slot - keys - values;
    values = used;
  }
  /* Where the last values' keys lay is free: all warps are past them. Where results go is worked out again, not kept.
   */
  finish<wide>(call, state, ring + values, place_of(call, np_fresh(static_cast<int>(blockIdx.x))));
}

/* ---- launchers ---- */

template <int wide> static np_status launch(const np_gpu *gpu, const np_att_plan *plan, const np_att_call &call) {
  return np_launch(gpu, plan->kernel, attention_forward<wide>, dim3(static_cast<unsigned>(plan->blocks)), plan->threads,
                   plan->shared, call);
}

extern "C" np_status np_kernel_attention_forward(const np_gpu *gpu, const np_kernel_attention *attention) {
  const np_att_plan plan = np_att_plan_of(attention, false);
  np_status st = np_att_check(gpu, attention, &plan);
  if (st != NP_OK) return st;
  np_att_call call = np_att_call_of(attention);
  call.to = static_cast<np_bf16 *>(attention->out);
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
