/* Prefix-causal attention in true float32, forward and backward: FMA, no tensor core. For golden cases and precision:
 * fp32, so it is written to be read.
 *
 * As in attention_backward.cu a block owns rows of one side and walks tiles of 32 rows of the other; here eight warps
 * have `rows` own rows each (4, or 2 where d > 128, so that a block's rows fit into 99 KiB). Two shapes of work
 * alternate:
 *
 *      scores      lane = row of the walked tile       own row · walked row: own rows are broadcast, walked rows lie
 * four banks apart (stride d + 4), so float4 reads do not collide sums        lane = columns lane, lane + 32, …
 * sum[row][column] += weight · walked[j][column], the weight of walked row j by a shuffle from the lane that has it
 *
 *   forward        own q           walks k then v, in one tile's room   out  += p·v, online softmax
 *   own queries    own q, dout     walks k, v                           dq   += ds·k
 *   own keys       own k, v        walks q, dout                        dv   += p·dout, dk += ds·q
 *
 * A hidden pair is skipped in the sums, not multiplied by zero: hidden keys and queries are not used even if they are
 * NaN. */
#include "kernels/attention_plan.h"
#include "kernels/device.cuh"
#include "ops/attention_tiles.h"

/* ---- kernels ---- */

enum { TILE = NP_ATT_F32_TILE, THREADS = NP_ATT_F32_THREADS };

/* What a kernel is told. */
struct f32_call {
  int tokens, heads, width; /* N, h, d */
  int tiles;                /* of own rows */
  float scale;              /* 1/sqrt(d) */
  const int32_t *prefix;    /* [B] or NULL */
  const float *qkv, *dout;  /* [B, N, 3, h, d], [B, N, h, d] */
  float *to;                /* out; backward: dqkv */
  float *lse;               /* [B, h, N] */
  const float *mean;        /* [B, h, N]: Σ dout·out */
};

/* Where a block works: an image's head, its own rows from `first` on. */
struct f32_place {
  int image, head, first;
  int64_t pair; /* [B, h] */
  np_attention_map map;
};

NP_DEVICE f32_place place_of(const f32_call &call, int64_t pair, int first) {
  f32_place at;
  at.image = static_cast<int>(pair / call.heads);
  at.head = static_cast<int>(pair % call.heads);
  at.first = first;
  at.pair = pair;
  at.map.tokens = call.tokens;
  at.map.prefix = call.prefix ? call.prefix[at.image] : call.tokens;
  at.map.queries = at.map.keys = TILE;
  return at;
}

/* q (which 0), k (1) or v (2) of a token in qkv; a token's row of out. */
NP_DEVICE int64_t qkv_at(const f32_call &call, const f32_place &at, int token, int which) {
  return (((static_cast<int64_t>(at.image) * call.tokens + token) * 3 + which) * call.heads + at.head) * call.width;
}
NP_DEVICE int64_t out_at(const f32_call &call, const f32_place &at, int token) {
  return ((static_cast<int64_t>(at.image) * call.tokens + token) * call.heads + at.head) * call.width;
}

/* `count` rows of d floats to shared memory, `pitch` floats a row; those at and beyond `have` are zeros. */
NP_DEVICE void load(np_shared<float> to, int pitch, int count, const float *from, int64_t stride, int have, int width) {
  const int quads = width / 4;
  for (int i = static_cast<int>(threadIdx.x); i < count * quads; i += THREADS) {
    const int row = i / quads, column = i % quads * 4;
    const float4 zeros = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    np_shared_as<float4>(to + row * pitch + column)[0] =
        row < have ? *reinterpret_cast<const float4 *>(from + row * stride + column) : zeros;
  }
}

/* score[r] = own row r of this warp · the lane's walked row. */
template <int rows>
NP_DEVICE void scores(float (&score)[rows], np_shared<const float> own, np_shared<const float> walked, int width) {
  own = own + np_warp() * rows * width;
  walked = walked + np_lane() * (width + 4);
  for (int r = 0; r < rows; r++) score[r] = 0.0f;
#pragma unroll 2
  for (int c = 0; c < width; c += 4) {
    const float4 b = np_shared_as<const float4>(walked + c)[0];
#pragma unroll
    for (int r = 0; r < rows; r++) {
      const float4 a = np_shared_as<const float4>(own + r * width + c)[0];
      score[r] = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, score[r]))));
    }
  }
}

/* sum[r][c] += weight of walked row j for own row r · walked[j], over j in [from[r], to[r]): the seen ones. */
template <int rows, int columns>
NP_DEVICE void sums(float (&sum)[rows][columns], const float (&weight)[rows], const int (&from)[rows],
                    const int (&to)[rows], np_shared<const float> walked, int width) {
#pragma unroll 2
  for (int j = 0; j < TILE; j++) {
    float value[columns];
#pragma unroll
    for (int c = 0; c < columns; c++) {
      const int column = np_lane() + c * NP_WARP;
      value[c] = column < width ? static_cast<float>(walked[j * (width + 4) + column]) : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < rows; r++) {
      const float w = np_shuffle(weight[r], j);
#pragma unroll
      for (int c = 0; c < columns; c++)
        if (j >= from[r] && j < to[r]) sum[r][c] = fmaf(w, value[c], sum[r][c]);
    }
  }
}

/* The warp's rows of results: row r is multiplied by scale[r]. `to`: the block's first own row, of which `have` exist.
 */
template <int rows, int columns>
NP_DEVICE void store(const float (&sum)[rows][columns], const float (&scale)[rows], float *to, int64_t stride, int have,
                     int width) {
#pragma unroll
  for (int r = 0; r < rows; r++) {
    const int row = np_warp() * rows + r;
#pragma unroll
    for (int c = 0; c < columns; c++) {
      const int column = np_lane() + c * NP_WARP;
      if (row < have && column < width) to[row * stride + column] = sum[r][c] * scale[r];
    }
  }
}

template <int rows, int columns> NP_DEVICE void clear(float (&sum)[rows][columns]) {
#pragma unroll
  for (int r = 0; r < rows; r++)
#pragma unroll
    for (int c = 0; c < columns; c++) sum[r][c] = 0.0f;
}

NP_DEVICE int clamp(int value) { return value < 0 ? 0 : value < TILE ? value : TILE; }

/* grid: [B, h, tiles], the last query tile of a head first. */
template <int rows, int columns> NP_KERNEL_BLOCKS(THREADS, 1) attention_forward_f32(const f32_call call) {
  constexpr int own_rows = THREADS / NP_WARP * rows;
  const int width = call.width;
  const np_shared<float> own = np_shared_at<float>(0), walked = own + own_rows * width;
  const int turn = static_cast<int>(blockIdx.x) % call.tiles;
  const f32_place at = place_of(call, static_cast<int>(blockIdx.x) / call.tiles, (call.tiles - 1 - turn) * own_rows);
  const int have = call.tokens - at.first < own_rows ? call.tokens - at.first : own_rows;
  const int64_t stride = 3ll * call.heads * width;
  load(own, width, own_rows, call.qkv + qkv_at(call, at, at.first, 0), stride, have, width);
  float sum[rows][columns], top[rows], total[rows], inverse[rows];
  int limit[rows], from[rows], to[rows];
  clear(sum);
#pragma unroll
  for (int r = 0; r < rows; r++) {
    const int query = at.first + np_warp() * rows + r; /* rows beyond N are zeros and see what the last query sees */
    limit[r] = np_attention_limit(&at.map, query < call.tokens ? query : call.tokens - 1);
    top[r] = -INFINITY;
    total[r] = 0.0f;
    from[r] = 0;
  }
  const int end = np_attention_limit(&at.map, at.first + have - 1);
  for (int key = 0; key < end; key += TILE) {
    float p[rows];
    np_block_sync(); /* all are done with the last values */
    load(walked, width + 4, TILE, call.qkv + qkv_at(call, at, key, 1), stride, call.tokens - key, width);
    np_block_sync();
    scores(p, np_shared<const float>(own), np_shared<const float>(walked), width);
#pragma unroll
    for (int r = 0; r < rows; r++) {
      to[r] = clamp(limit[r] - key);
      p[r] = np_lane() < to[r] ? p[r] * call.scale : -INFINITY;
      const float most = fmaxf(top[r], np_warp_max(p[r])), shrink = expf(top[r] - most);
      p[r] = expf(p[r] - most);
      top[r] = most;
      total[r] = total[r] * shrink + np_warp_sum(p[r]);
#pragma unroll
      for (int c = 0; c < columns; c++) sum[r][c] *= shrink;
    }
    np_block_sync(); /* all are done with the keys */
    load(walked, width + 4, TILE, call.qkv + qkv_at(call, at, key, 2), stride, call.tokens - key, width);
    np_block_sync();
    sums(sum, p, from, to, np_shared<const float>(walked), width);
  }
#pragma unroll
  for (int r = 0; r < rows; r++) {
    const int row = np_warp() * rows + r;
    inverse[r] = 1.0f / total[r];
    if (call.lse && np_lane() == 0 && row < have)
      call.lse[at.pair * call.tokens + at.first + row] = top[r] + logf(total[r]);
  }
  store(sum, inverse, call.to + out_at(call, at, at.first), static_cast<int64_t>(call.heads) * width, have, width);
}

/* mean[b, head, i] = Σ dout·out, a warp a row, in the order of out. */
NP_KERNEL(THREADS) attention_mean_f32(const f32_call call, int64_t count, const float *out, float *mean) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (THREADS / NP_WARP) + np_warp();
  if (row >= count) return;
  float sum = 0.0f;
  for (int c = np_lane(); c < call.width; c += NP_WARP)
    sum = fmaf(out[row * call.width + c], call.dout[row * call.width + c], sum);
  sum = np_warp_sum(sum);
  const int64_t token = row / call.heads;
  const int64_t pair = token / call.tokens * call.heads + row % call.heads;
  if (np_lane() == 0) mean[pair * call.tokens + token % call.tokens] = sum;
}

/* One of the two owners. The four tiles are q or k, dout or v: own and walked by turns. */
template <int rows, int columns, bool keys> NP_DEVICE void backward(const f32_call &call, const f32_place &at) {
  constexpr int own_rows = THREADS / NP_WARP * rows;
  const int width = call.width, have = call.tokens - at.first < own_rows ? call.tokens - at.first : own_rows;
  const np_shared<float> own0 = np_shared_at<float>(0), own1 = own0 + own_rows * width;
  const np_shared<float> walked0 = own1 + own_rows * width, walked1 = walked0 + TILE * (width + 4);
  const int64_t stride = 3ll * call.heads * width, out_stride = static_cast<int64_t>(call.heads) * width;
  load(own0, width, own_rows, call.qkv + qkv_at(call, at, at.first, keys ? 1 : 0), stride, have, width);
  if (keys) load(own1, width, own_rows, call.qkv + qkv_at(call, at, at.first, 2), stride, have, width);
  else load(own1, width, own_rows, call.dout + out_at(call, at, at.first), out_stride, have, width);
  float first[rows][columns], second[rows][columns]; /* dk and dv, or dq and nothing */
  clear(first);
  clear(second);
  const float *lse = call.lse + at.pair * call.tokens, *mean = call.mean + at.pair * call.tokens;
  const int begin = keys ? np_attention_first_query(&at.map, at.first) / TILE * TILE : 0;
  const int end = keys ? call.tokens : np_attention_limit(&at.map, at.first + have - 1);
  for (int walk = begin; walk < end; walk += TILE) {
    const int left = call.tokens - walk;
    np_block_sync(); /* all are done with the last tiles */
    load(walked0, width + 4, TILE, call.qkv + qkv_at(call, at, walk, keys ? 0 : 1), stride, left, width);
    if (keys) load(walked1, width + 4, TILE, call.dout + out_at(call, at, walk), out_stride, left, width);
    else load(walked1, width + 4, TILE, call.qkv + qkv_at(call, at, walk, 2), stride, left, width);
    np_block_sync();
    float p[rows], ds[rows];
    int from[rows], to[rows];
    scores(p, np_shared<const float>(own0), np_shared<const float>(walked0), width);
    scores(ds, np_shared<const float>(own1), np_shared<const float>(walked1), width);
#pragma unroll
    for (int r = 0; r < rows; r++) {
      const int mine = at.first + np_warp() * rows + r, own = mine < call.tokens ? mine : call.tokens - 1;
      from[r] = keys ? clamp(np_attention_first_query(&at.map, own) - walk) : 0;
      to[r] = clamp((keys ? call.tokens : np_attention_limit(&at.map, own)) - walk);
      const bool seen = np_lane() >= from[r] && np_lane() < to[r];
      const int query = keys ? walk + np_lane() : own;
      p[r] = seen ? expf(fmaf(p[r], call.scale, -lse[query])) : 0.0f;
      ds[r] = seen ? p[r] * (ds[r] - mean[query]) : 0.0f;
    }
    sums(first, ds, from, to, np_shared<const float>(walked0), width);
    if (keys) sums(second, p, from, to, np_shared<const float>(walked1), width);
  }
  float scale[rows], one[rows];
#pragma unroll
  for (int r = 0; r < rows; r++) {
    scale[r] = call.scale;
    one[r] = 1.0f;
  }
  store(first, scale, call.to + qkv_at(call, at, at.first, keys ? 1 : 0), stride, have, width);
  if (keys) store(second, one, call.to + qkv_at(call, at, at.first, 2), stride, have, width);
}

/* grid: [B, h, 2·tiles], as in attention_backward.cu. */
template <int rows, int columns> NP_KERNEL_BLOCKS(THREADS, 1) attention_backward_f32(const f32_call call) {
  constexpr int own_rows = THREADS / NP_WARP * rows;
  const int owner = static_cast<int>(blockIdx.x) % (2 * call.tiles), turn = owner / 2;
  const int64_t pair = static_cast<int>(blockIdx.x) / (2 * call.tiles);
  if (owner % 2 == 0) backward<rows, columns, true>(call, place_of(call, pair, turn * own_rows));
  else backward<rows, columns, false>(call, place_of(call, pair, (call.tiles - 1 - turn) * own_rows));
}

/* ---- launchers ---- */

static f32_call call_of(const np_kernel_attention *at, const np_att_plan *plan) {
  f32_call call = {};
  call.tokens = at->tokens;
  call.heads = at->heads;
  call.width = at->head_width;
  call.tiles = static_cast<int>(np_att_tiles(at->tokens, plan->tile));
  call.scale = static_cast<float>(1.0 / sqrt(static_cast<double>(at->head_width)));
  call.prefix = at->prefix;
  call.qkv = static_cast<const float *>(at->qkv);
  call.dout = static_cast<const float *>(at->dout);
  call.lse = at->lse;
  return call;
}

static np_status launch(const np_gpu *gpu, const np_att_plan *plan, const f32_call &call, void (*kernel)(f32_call)) {
  return np_launch(gpu, plan->kernel, kernel, dim3(static_cast<unsigned>(plan->blocks)), plan->threads, plan->shared,
                   call);
}

extern "C" np_status np_kernel_attention_forward_f32(const np_gpu *gpu, const np_kernel_attention *attention) {
  const np_att_plan plan = np_att_plan_of(attention, false);
  const np_status st = np_att_check(gpu, attention, &plan);
  if (st != NP_OK) return st;
  f32_call call = call_of(attention, &plan);
  call.to = static_cast<float *>(attention->out);
  switch (plan.columns) {
  case 2:
    return launch(gpu, &plan, call, attention_forward_f32<4, 2>);
  case 4:
    return launch(gpu, &plan, call, attention_forward_f32<4, 4>);
  default:
    return launch(gpu, &plan, call, attention_forward_f32<2, 8>);
  }
}

extern "C" size_t np_kernel_attention_backward_f32_scratch(const np_gpu *gpu, int batch, int tokens, int heads,
                                                           int head_width) {
  (void)gpu, (void)head_width;
  return sizeof(float) * static_cast<size_t>(np_att_scratch_rows(batch, tokens, heads, 1));
}

extern "C" np_status np_kernel_attention_backward_f32(const np_gpu *gpu, const np_kernel_attention *attention) {
  const np_att_plan plan = np_att_plan_of(attention, true);
  np_status st = np_att_check(gpu, attention, &plan);
  if (st != NP_OK) return st;
  f32_call call = call_of(attention, &plan);
  call.to = static_cast<float *>(attention->dqkv);
  float *mean = static_cast<float *>(attention->scratch);
  call.mean = mean;
  const int64_t count = np_att_scratch_rows(attention->batch, attention->tokens, attention->heads, 1);
  const int64_t blocks = np_att_tiles(count, THREADS / NP_WARP);
  st = np_launch(gpu, "attention_mean_f32", attention_mean_f32, dim3(static_cast<unsigned>(blocks)), THREADS, 0, call,
                 count, static_cast<const float *>(attention->out), mean);
  if (st != NP_OK) return st;
  switch (plan.columns) {
  case 2:
    return launch(gpu, &plan, call, attention_backward_f32<4, 2>);
  case 4:
    return launch(gpu, &plan, call, attention_backward_f32<4, 4>);
  default:
    return launch(gpu, &plan, call, attention_backward_f32<2, 8>);
  }
}
