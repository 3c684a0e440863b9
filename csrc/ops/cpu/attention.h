/* What the two passes of attention share on the CPU. */
#ifndef NP_OPS_CPU_ATTENTION_H
#define NP_OPS_CPU_ATTENTION_H

#include "ops/attention_tiles.h"
#include "ops/cpu/cpu.h"

enum {
  NP_ATTENTION_TILE = 64, /* queries and keys of a tile: its scores, [64, 64] floats, are a third of the first cache */
  NP_ATTENTION_STEP = 8   /* rows of a partial tile that are computed together */
};

/* One attention operator's shapes. Heads are float32 tiles while they are worked on: a tile of rows is [64, padded], a
 * turned tile [d, 64]. */
typedef struct np_attention {
  const np_simd *simd;
  bool bf16;
  int batch, tokens, heads, width; /* width: d of a head */
  int padded;                      /* d rounded up to 16 */
  int tiles;                       /* ceil(N / 64) */
  int64_t qkv_row, out_row;        /* elements from one token to the next: 3·h·d, h·d */
  float scale;
  const int32_t *prefix; /* [B] or NULL */
} np_attention;

static inline np_attention np_attention_describe(const np_cpu *cpu, int batch, int tokens, int heads, int width,
                                                 const int32_t *prefix) {
  return (np_attention){.simd = cpu->simd,
                        .bf16 = cpu->bf16,
                        .batch = batch,
                        .tokens = tokens,
                        .heads = heads,
                        .width = width,
                        .padded = (width + 15) / 16 * 16,
                        .tiles = (tokens + NP_ATTENTION_TILE - 1) / NP_ATTENTION_TILE,
                        .qkv_row = (int64_t)3 * heads * width,
                        .out_row = (int64_t)heads * width,
                        .scale = (float)(1.0 / __builtin_sqrt((double)width)),
                        .prefix = prefix};
}

static inline np_attention_map np_attention_map_of(const np_attention *at, int image) {
  int prefix = at->prefix ? at->prefix[image] : at->tokens;
  return (np_attention_map){
      .tokens = at->tokens, .prefix = prefix, .queries = NP_ATTENTION_TILE, .keys = NP_ATTENTION_TILE};
}

/* Element `element` of activations at x. */
static inline const void *np_attention_from(const np_attention *at, const void *x, int64_t element) {
  return (const char *)x + (size_t)element * (at->bf16 ? 2 : 4);
}

static inline void *np_attention_to(const np_attention *at, void *x, int64_t element) {
  return (char *)x + (size_t)element * (at->bf16 ? 2 : 4);
}

/* Where q (which 0), k (1) or v (2) of token n, head i, image b begins in qkv. */
static inline int64_t np_attention_place(const np_attention *at, int image, int token, int which, int head) {
  return ((int64_t)image * at->tokens + token) * at->qkv_row + ((int64_t)which * at->heads + head) * at->width;
}

static inline int np_attention_rows(const np_attention *at, int tile) {
  int left = at->tokens - tile * NP_ATTENTION_TILE;
  return left < NP_ATTENTION_TILE ? left : NP_ATTENTION_TILE;
}

static inline int np_attention_clip(int value, int high) { return value < 0 ? 0 : value < high ? value : high; }

/* How many of a key tile's keys query `query` sees. */
static inline int np_attention_seen(const np_attention_map *map, int query, int first_key, int keys) {
  return np_attention_clip(np_attention_limit(map, query) - first_key, keys);
}

/* Keys rounded up to whole vectors: the turned tile holds zeros or hidden keys there, whose scores nobody reads. */
static inline int np_attention_round(int keys) { return (keys + 15) / 16 * 16; }

#endif
