/* What the roles of the Hopper backward pass (attention_hopper_backward.cu) share: the task, what lies where in shared
 * memory, and which tiles see which. */
#ifndef NP_KERNELS_ATTENTION_HOPPER_BACKWARD_CUH
#define NP_KERNELS_ATTENTION_HOPPER_BACKWARD_CUH

#include "kernels/hopper.cuh"
#include "kernels/kernels.h"
#include "ops/attention_tiles.h"

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

#endif /* NP_HOPPER_CODE */

#endif
