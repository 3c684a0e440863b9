/* Prefix-causal attention, backward. One part owns all of a head of an image, so that dk and dv are summed by one
 * thread over the query tiles in order. Probabilities are computed again from the log-sum-exp. For each pair of tiles,
 * with q already scaled and D_i = Σ dout·out (the row's Σ_j p·dp):
 *
 *   p = exp(q·kᵀ - lse)   dp = dout·vᵀ   ds = p·(dp - D)   dv += pᵀ·dout   dk += dsᵀ·q   dq += scale·ds·k
 *
 * Partial tiles go as in the forward pass: shared products where all rows of a step agree, the staircase one by one. */
#include "ops/cpu/attention.h"

#include <string.h>

enum { TILE = NP_ATTENTION_TILE, STEP = NP_ATTENTION_STEP };

/* Working memory of one part. */
typedef struct backward_work {
  float *keys;                        /* [tiles, 64, padded] */
  float *turned_keys, *turned_values; /* [tiles, d, 64] */
  float *dkeys, *dvalues;             /* [tiles, 64, padded] */
  float *query, *dout, *dquery;       /* [64, padded] */
  float *p, *ds;                      /* [64, 64] */
  float delta[TILE];
} backward_work;

static size_t tile_floats(const np_attention *at) { return (size_t)TILE * (size_t)at->padded; }

static size_t work_floats(const np_attention *at) {
  return (5 * (size_t)at->tiles + 3) * tile_floats(at) + 2 * (size_t)TILE * TILE;
}

static backward_work work_at(const np_attention *at, float *memory) {
  size_t head = (size_t)at->tiles * tile_floats(at);
  backward_work work = {.keys = memory};
  work.turned_keys = work.keys + head;
  work.turned_values = work.turned_keys + head;
  work.dkeys = work.turned_values + head;
  work.dvalues = work.dkeys + head;
  work.query = work.dvalues + head;
  work.dout = work.query + tile_floats(at);
  work.dquery = work.dout + tile_floats(at);
  work.p = work.dquery + tile_floats(at);
  work.ds = work.p + TILE * TILE;
  return work;
}

static void load_head(const np_attention *at, backward_work *work, int image, int head, const void *qkv) {
  for (int u = 0; u < at->tiles; u++) {
    int rows = np_attention_rows(at, u);
    size_t place = (size_t)u * tile_floats(at);
    const void *k = np_attention_from(at, qkv, np_attention_place(at, image, u * TILE, 1, head));
    const void *v = np_attention_from(at, qkv, np_attention_place(at, image, u * TILE, 2, head));
    at->simd->load(at->bf16, rows, at->width, at->qkv_row, 1.0f, k, work->keys + place, at->padded);
    at->simd->load_turned(at->bf16, rows, at->width, at->qkv_row, 1.0f, k, work->turned_keys + place, TILE);
    at->simd->load_turned(at->bf16, rows, at->width, at->qkv_row, 1.0f, v, work->turned_values + place, TILE);
  }
  memset(work->dkeys, 0, (size_t)at->tiles * tile_floats(at) * sizeof(float));
  memset(work->dvalues, 0, (size_t)at->tiles * tile_floats(at) * sizeof(float));
}

/* p and ds of queries [top, top + rows) against one key tile, and what they add to dq. */
static void query_rows(const np_attention *at, const np_attention_map *map, backward_work *work, const float *lse,
                       int first_query, int top, int rows, int first_key, int keys) {
  const np_simd *simd = at->simd;
  const int padded = at->padded, query = first_query + top;
  const size_t row = (size_t)top * (size_t)padded, key = (size_t)first_key * (size_t)padded;
  int least = np_attention_seen(map, query, first_key, keys);
  int most = np_attention_seen(map, query + rows - 1, first_key, keys);
  if (most == 0) return;
  float *p = work->p + top * TILE, *ds = work->ds + top * TILE, *dquery = work->dquery + row;
  np_tile_product scores = {.m = rows,
                            .n = np_attention_round(most),
                            .k = at->width,
                            .a_row = padded,
                            .a_col = 1,
                            .b_row = TILE,
                            .c_row = TILE};
  simd->product(&scores, work->query + row, work->turned_keys + key, p);
  simd->product(&scores, work->dout + row, work->turned_values + key, ds);
  for (int r = 0; r < rows; r++) { /* whole vectors; nobody reads what lies behind the seen keys */
    int seen = np_attention_seen(map, query + r, first_key, keys);
    simd->probability(np_attention_round(seen), lse[query + r], work->delta[top + r], p + r * TILE, ds + r * TILE);
  }
  np_tile_product gather = {.m = rows,
                            .n = padded,
                            .k = least,
                            .a_row = TILE,
                            .a_col = 1,
                            .b_row = padded,
                            .c_row = padded,
                            .accumulate = true};
  if (least > 0) simd->product(&gather, ds, work->keys + key, dquery);
  gather.m = 1;
  for (int r = 0; r < rows; r++) {
    gather.k = np_attention_seen(map, query + r, first_key, keys) - least;
    if (gather.k > 0)
      simd->product(&gather, ds + r * TILE + least, work->keys + key + (size_t)least * (size_t)padded,
                    dquery + (size_t)r * (size_t)padded);
  }
}

/* The first query of the tile (0 … queries) that sees key `key`. */
static int first_row(const np_attention_map *map, int key, int first_query, int queries) {
  return np_attention_clip(np_attention_first_query(map, key) - first_query, queries);
}

/* What a tile's queries add to dk and dv of keys [left, left + count) of a key tile. */
static void key_rows(const np_attention *at, const np_attention_map *map, backward_work *work, int first_query,
                     int queries, int first_key, int left, int count) {
  const np_simd *simd = at->simd;
  const int padded = at->padded, key = first_key + left;
  const size_t place = (size_t)key * (size_t)padded;
  int common = first_row(map, key + count - 1, first_query, queries); /* from here on all see all of these keys */
  np_tile_product sum = {.m = count,
                         .n = padded,
                         .k = queries - common,
                         .a_row = 1,
                         .a_col = TILE,
                         .b_row = padded,
                         .c_row = padded,
                         .accumulate = true};
  for (int j = 0; j < count; j++) {
    int row = first_row(map, key + j, first_query, queries);
    np_tile_product one = sum;
    one.m = 1;
    one.k = common - row;
    if (one.k <= 0) continue;
    size_t from = (size_t)row * (size_t)padded, to = place + (size_t)j * (size_t)padded;
    simd->product(&one, work->p + row * TILE + left + j, work->dout + from, work->dvalues + to);
    simd->product(&one, work->ds + row * TILE + left + j, work->query + from, work->dkeys + to);
  }
  if (sum.k <= 0) return;
  size_t from = (size_t)common * (size_t)padded;
  simd->product(&sum, work->p + common * TILE + left, work->dout + from, work->dvalues + place);
  simd->product(&sum, work->ds + common * TILE + left, work->query + from, work->dkeys + place);
}

static int step_of(int left, int step) { return left < step ? left : step; }

static void backward_tile(const np_attention *at, backward_work *work, int image, int head, int tile, const void *qkv,
                          const void *out, const float *lse, const void *dout, void *dqkv) {
  const np_attention_map map = np_attention_map_of(at, image);
  const int first = tile * TILE, rows = np_attention_rows(at, tile), key_tiles = np_attention_key_tiles(&map, tile);
  const int64_t q = np_attention_place(at, image, first, 0, head);
  const int64_t o = ((int64_t)image * at->tokens + first) * at->out_row + (int64_t)head * at->width;
  const void *dout_rows = np_attention_from(at, dout, o);
  at->simd->load(at->bf16, rows, at->width, at->qkv_row, at->scale, np_attention_from(at, qkv, q), work->query,
                 at->padded);
  at->simd->load(at->bf16, rows, at->width, at->out_row, 1.0f, dout_rows, work->dout, at->padded);
  at->simd->dot_rows(at->bf16, rows, at->width, at->out_row, dout_rows, np_attention_from(at, out, o), work->delta);
  memset(work->dquery, 0, (size_t)rows * (size_t)at->padded * sizeof(float));
  for (int u = 0; u < key_tiles; u++) {
    bool full = np_attention_kind(&map, tile, u) == NP_TILE_FULL;
    int keys = np_attention_rows(at, u), query_step = full ? rows : STEP, key_step = full ? keys : STEP;
    for (int top = 0; top < rows; top += query_step)
      query_rows(at, &map, work, lse, first, top, step_of(rows - top, query_step), u * TILE, keys);
    for (int left = 0; left < keys; left += key_step)
      key_rows(at, &map, work, first, rows, u * TILE, left, step_of(keys - left, key_step));
  }
  float scale[TILE];
  for (int r = 0; r < rows; r++) scale[r] = at->scale;
  at->simd->store_rows(at->bf16, rows, at->width, at->padded, scale, work->dquery, at->qkv_row,
                       np_attention_to(at, dqkv, q));
}

static void backward_head(const np_attention *at, backward_work *work, int image, int head, const void *qkv,
                          const void *out, const float *lse, const void *dout, void *dqkv) {
  const float *head_lse = lse + ((int64_t)image * at->heads + head) * at->tokens;
  load_head(at, work, image, head, qkv);
  for (int tile = 0; tile < at->tiles; tile++)
    backward_tile(at, work, image, head, tile, qkv, out, head_lse, dout, dqkv);
  at->simd->store_rows(at->bf16, at->tokens, at->width, at->padded, NULL, work->dkeys, at->qkv_row,
                       np_attention_to(at, dqkv, np_attention_place(at, image, 0, 1, head)));
  at->simd->store_rows(at->bf16, at->tokens, at->width, at->padded, NULL, work->dvalues, at->qkv_row,
                       np_attention_to(at, dqkv, np_attention_place(at, image, 0, 2, head)));
}

np_status np_cpu_attention_backward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                    const int32_t *prefix, const void *qkv, const void *out, const float *lse,
                                    const void *dout, void *dqkv) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  const np_attention at = np_attention_describe(cpu, batch, tokens, heads, head_width, prefix);
  int64_t units = (int64_t)batch * heads;
  int parts = np_cpu_parts(cpu, units, 1);
  size_t bytes = np_cpu_lines(work_floats(&at) * sizeof(float));
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, (size_t)parts * bytes, &scratch));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    backward_work work = work_at(&at, (float *)((char *)scratch + (size_t)part * bytes));
    int64_t end = np_cpu_border(units, 1, parts, part + 1);
    for (int64_t unit = np_cpu_border(units, 1, parts, part); unit < end; unit++)
      backward_head(&at, &work, (int)(unit / heads), (int)(unit % heads), qkv, out, lse, dout, dqkv);
  }
out:
  return st;
}
