/* Prefix-causal attention, forward. The tile map is drawn in ops/attention_tiles.h.
 *
 * Work is cut into query tiles; a part takes a run of them, so that the keys of a head are converted once for all of
 * its tiles there. A tile walks its visible key tiles with an online softmax (Milakov and Gimelshein, arXiv 1805.02867;
 * Dao et al., arXiv 2205.14135): the running maximum and sum of each query and its unnormalised output are all that is
 * kept. A query tile's result does not depend on who computes it, so the bits do not depend on the thread count.
 *
 * In partial tiles a few rows at a time share a product over the keys that all of them see; the staircase that remains
 * is added row by row. So hidden values are not multiplied by zero, they are not read: NaN there stays there. */
#include "ops/cpu/attention.h"

#include <math.h>
#include <string.h>

enum { TILE = NP_ATTENTION_TILE, STEP = NP_ATTENTION_STEP };

/* Working memory of one part. */
typedef struct forward_work {
  float *keys;        /* [tiles, d, 64] turned */
  float *values;      /* [tiles, 64, padded] */
  float *query, *out; /* [64, padded] */
  float *score;       /* [64, 64] */
  float top[TILE], sum[TILE];
  int image, head, loaded; /* key tiles of this head that are loaded */
} forward_work;

static size_t tile_floats(const np_attention *at) { return (size_t)TILE * (size_t)at->padded; }

static size_t work_floats(const np_attention *at) {
  return (2 * (size_t)at->tiles + 2) * tile_floats(at) + (size_t)TILE * TILE;
}

static forward_work work_at(const np_attention *at, float *memory) {
  forward_work work = {.image = -1};
  work.keys = memory;
  work.values = work.keys + (size_t)at->tiles * tile_floats(at);
  work.query = work.values + (size_t)at->tiles * tile_floats(at);
  work.out = work.query + tile_floats(at);
  work.score = work.out + tile_floats(at);
  return work;
}

static void load_keys(const np_attention *at, forward_work *work, int image, int head, int tiles, const void *qkv) {
  if (image != work->image || head != work->head) work->loaded = 0;
  work->image = image;
  work->head = head;
  for (; work->loaded < tiles; work->loaded++) {
    int first = work->loaded * TILE, rows = np_attention_rows(at, work->loaded);
    size_t place = (size_t)work->loaded * tile_floats(at);
    at->simd->load_turned(at->bf16, rows, at->width, at->qkv_row, 1.0f,
                          np_attention_from(at, qkv, np_attention_place(at, image, first, 1, head)), work->keys + place,
                          TILE);
    at->simd->load(at->bf16, rows, at->width, at->qkv_row, 1.0f,
                   np_attention_from(at, qkv, np_attention_place(at, image, first, 2, head)), work->values + place,
                   at->padded);
  }
}

/* The scores of queries [top, top + rows) become unnormalised probabilities; what is kept of earlier tiles shrinks.
 * Rows are filled up to whole vectors with -inf, whose exponential is 0: a loop's remainder costs more than a vector.
 */
static void softmax_rows(const np_attention *at, const np_attention_map *map, forward_work *work, int query, int top,
                         int rows, int first_key, int keys) {
  int count[TILE];
  float shrink[TILE];
  for (int r = 0; r < rows; r++) {
    int seen = np_attention_seen(map, query + r, first_key, keys);
    count[r] = np_attention_round(seen);
    for (int j = seen; j < count[r]; j++) work->score[(top + r) * TILE + j] = -INFINITY;
  }
  at->simd->softmax(rows, count, TILE, work->score + top * TILE, work->top + top, work->sum + top, shrink);
  for (int r = 0; r < rows && first_key > 0; r++)
    if (shrink[r] != 1.0f) at->simd->scale(at->padded, shrink[r], work->out + (size_t)(top + r) * (size_t)at->padded);
}

/* Scores, softmax and output of queries [top, top + rows) of a tile against one key tile of `keys` keys. */
static void forward_rows(const np_attention *at, const np_attention_map *map, forward_work *work, int first_query,
                         int top, int rows, int first_key, int keys) {
  const np_simd *simd = at->simd;
  const int padded = at->padded, query = first_query + top;
  int least = np_attention_seen(map, query, first_key, keys);
  int most = np_attention_seen(map, query + rows - 1, first_key, keys);
  if (most == 0) return;
  float *score = work->score + top * TILE, *out = work->out + (size_t)top * (size_t)padded;
  const float *value = work->values + (size_t)first_key * (size_t)padded;
  np_tile_product qk = {.m = rows,
                        .n = np_attention_round(most),
                        .k = at->width,
                        .a_row = padded,
                        .a_col = 1,
                        .b_row = TILE,
                        .c_row = TILE};
  simd->product(&qk, work->query + (size_t)top * (size_t)padded, work->keys + (size_t)first_key * (size_t)padded,
                score);
  softmax_rows(at, map, work, query, top, rows, first_key, keys);
  np_tile_product pv = {.m = rows,
                        .n = padded,
                        .k = least,
                        .a_row = TILE,
                        .a_col = 1,
                        .b_row = padded,
                        .c_row = padded,
                        .accumulate = true};
  if (least > 0) simd->product(&pv, score, value, out);
  pv.m = 1;
  for (int r = 0; r < rows; r++) {
    pv.k = np_attention_seen(map, query + r, first_key, keys) - least;
    if (pv.k > 0)
      simd->product(&pv, score + r * TILE + least, value + (size_t)least * (size_t)padded,
                    out + (size_t)r * (size_t)padded);
  }
}

static void forward_tile(const np_attention *at, forward_work *work, int image, int head, int tile, const void *qkv,
                         void *out, float *lse) {
  const np_attention_map map = np_attention_map_of(at, image);
  const int first = tile * TILE, rows = np_attention_rows(at, tile), key_tiles = np_attention_key_tiles(&map, tile);
  load_keys(at, work, image, head, key_tiles, qkv);
  at->simd->load(at->bf16, rows, at->width, at->qkv_row, at->scale,
                 np_attention_from(at, qkv, np_attention_place(at, image, first, 0, head)), work->query, at->padded);
  memset(work->out, 0, (size_t)rows * (size_t)at->padded * sizeof(float));
  for (int r = 0; r < rows; r++) {
    work->top[r] = -INFINITY;
    work->sum[r] = 0.0f;
  }
  for (int u = 0; u < key_tiles; u++) {
    int step = np_attention_kind(&map, tile, u) == NP_TILE_FULL ? rows : STEP;
    for (int top = 0; top < rows; top += step)
      forward_rows(at, &map, work, first, top, rows - top < step ? rows - top : step, u * TILE,
                   np_attention_rows(at, u));
  }
  float inverse[TILE];
  for (int r = 0; r < rows; r++) {
    inverse[r] = 1.0f / work->sum[r];
    if (lse) lse[((int64_t)image * at->heads + head) * at->tokens + first + r] = work->top[r] + logf(work->sum[r]);
  }
  int64_t place = ((int64_t)image * at->tokens + first) * at->out_row + (int64_t)head * at->width;
  at->simd->store_rows(at->bf16, rows, at->width, at->padded, inverse, work->out, at->out_row,
                       np_attention_to(at, out, place));
}

np_status np_cpu_attention_forward(np_ops *ops, int batch, int tokens, int heads, int head_width, const int32_t *prefix,
                                   const void *qkv, void *out, float *lse) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  const np_attention at = np_attention_describe(cpu, batch, tokens, heads, head_width, prefix);
  int64_t units = (int64_t)batch * heads * at.tiles;
  int parts = np_cpu_parts(cpu, units, 1);
  size_t bytes = np_cpu_lines(work_floats(&at) * sizeof(float));
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, (size_t)parts * bytes, &scratch));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    forward_work work = work_at(&at, (float *)((char *)scratch + (size_t)part * bytes));
    int64_t end = np_cpu_border(units, 1, parts, part + 1);
    for (int64_t unit = np_cpu_border(units, 1, parts, part); unit < end; unit++) {
      int64_t pair = unit / at.tiles;
      forward_tile(&at, &work, (int)(pair / heads), (int)(pair % heads), (int)(unit % at.tiles), qkv, out, lse);
    }
  }
out:
  return st;
}
