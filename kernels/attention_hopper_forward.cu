/* Attention forward on Hopper: tensor cores fed from shared memory by whole warpgroups, tiles brought by TMA.
 *
 * The device code runs on sm_90a alone; other architectures get empty kernels that nobody launches. Its arithmetic, its
 * layouts and its waits are proven on the host too (tests/simt/test_hopper_attention.cu).
 *
 * A block stays on its multiprocessor and takes items one after the other; an item is 128 queries of one head:
 *
 *      producer (one thread)      rings of 4 K tiles and 4 V tiles, 64 keys each      consumers: two warpgroups
 *      ───────────────────────►   [K][K][K][K]  [V][V][V][V]   ───────────────►      64 queries each, Q in registers
 *      Q, K0, V0, K1, V1 …        full: loaded     empty: both are done with it
 *
 * The producer runs ahead across items: while consumers finish one item, the next one's Q, K and V are on their way,
 * which matters most where N is small and an item short. Each consumer walks over its own queries' key tiles
 * (ops/attention_tiles.h); where it sees fewer of them than its neighbour it lets the rest pass.
 *
 * Within a consumer the product S = Q·Kᵀ of the next tile and O += P·V of this one are under way together, and the
 * softmax of the next tile runs while P·V does:
 *
 *      tensor cores   S0 ·······  S1  P0·V0  ·······  S2  P1·V1  ·······  P2·V2
 *      other units       softmax0     softmax1           softmax2
 *
 * Where N is 256, an H200 is bound by none of this but by the link between the halves of its second cache: half of what
 * a multiprocessor reads has its home in the other half. So the two blocks of a head run as neighbours, and what one
 * has brought over the other finds on its side.
 *
 * A hidden key's value is multiplied by an exact zero where its tile is partial: a value that is not finite reaches
 * queries of the same tile that do not see it. Tiles hidden from all of a tile's queries touch nothing. */
#include "kernels/hopper.cuh"
#include "kernels/kernels.h"
#include "ops/attention_tiles.h"

/* ---- kernels ---- */

enum { CONSUMERS = 2, THREADS = (1 + CONSUMERS) * NP_GROUP, SLOTS = 4, CONSUMER_WARPS = NP_GROUP / NP_WARP };

typedef struct forward_task {
  int tokens, heads, blocks, items; /* blocks: of 128 queries a head; items: B·h·blocks */
  const int32_t *prefix;            /* [B] or NULL */
  np_bf16 *out;                     /* [B, N, h, d] */
  float *lse;                       /* [B, h, N] or NULL */
  bool ordered;                     /* images, by their prefixes */
} forward_task;

/* Shared memory: Q [2 tiles], K [4], V [4], then the barriers. */
template <int width> struct forward_memory {
  static constexpr int TILE = np_tile_bytes(width), K = CONSUMERS * TILE, V = K + SLOTS * TILE,
                       BARRIERS = V + SLOTS * TILE;
  static constexpr int Q_FULL = 0, Q_EMPTY = 2, K_FULL = 4, K_EMPTY = 8, V_FULL = 12, V_EMPTY = 16, COUNT = 20;
  static constexpr int ORDER = BARRIERS + COUNT * 8, BYTES = ORDER + NP_ORDER_BYTES;
  np_shared<np_bf16> q = np_shared_at<np_bf16>(0), k = np_shared_at<np_bf16>(K), v = np_shared_at<np_bf16>(V);
  np_shared<uint64_t> barriers = np_shared_at<uint64_t>(BARRIERS);
  np_shared<uint16_t> order = np_shared_at<uint16_t>(ORDER); /* of images */
};

typedef struct forward_item {
  int image, head, tile, key_tiles; /* tile: the first of 64 queries; key_tiles: that the item needs */
  np_attention_map map;
} forward_item;

#ifdef NP_HOPPER_CODE

NP_DEVICE forward_item item_of(const forward_task *task, np_shared<const uint16_t> order, int place) {
  int each = task->heads * task->blocks, k = place / each, rest = place - k * each, head = rest / task->blocks;
  int image = np_image_at(k, order, task->ordered);
  forward_item it = {image, head, (rest - head * task->blocks) * CONSUMERS, 0, {}};
  it.map = {task->tokens, task->prefix ? task->prefix[image] : task->tokens, NP_TILE_ROWS, NP_TILE_ROWS};
  int last = np_attention_query_tiles(&it.map) - 1;
  it.key_tiles = np_attention_key_tiles(&it.map, it.tile + 1 < last ? it.tile + 1 : last);
  return it;
}

/* The producer: one thread. `used` counts key tiles, `taken` items. */
template <int width> NP_DEVICE void produce(const np_tensor_map *map, const forward_task *task) {
  typedef forward_memory<width> memory;
  memory m;
  int used = 0, taken = 0;
  for (int r = 0; r * static_cast<int>(gridDim.x) < task->items; r++) {
    int place = np_round_place(r);
    if (place >= task->items) break;
    forward_item it = item_of(task, m.order, place);
    for (int w = 0; w < CONSUMERS; w++) {
      np_barrier_wait(m.barriers + (memory::Q_EMPTY + w), (taken + 1) % 2);
      np_barrier_expect(m.barriers + (memory::Q_FULL + w), memory::TILE);
      np_tile_load<width>(m.q + w * (memory::TILE / 2), map, it.head, (it.tile + w) * NP_TILE_ROWS, it.image,
                          m.barriers + (memory::Q_FULL + w));
    }
    for (int j = 0; j < it.key_tiles; j++, used++) {
      int slot = np_ring_slot<SLOTS>(used), free = 1 - np_ring_parity<SLOTS>(used);
      np_barrier_wait(m.barriers + (memory::K_EMPTY + slot), free);
      np_barrier_expect(m.barriers + (memory::K_FULL + slot), memory::TILE);
      np_tile_load<width>(m.k + slot * (memory::TILE / 2), map, task->heads + it.head, j * NP_TILE_ROWS, it.image,
                          m.barriers + (memory::K_FULL + slot));
      np_barrier_wait(m.barriers + (memory::V_EMPTY + slot), free);
      np_barrier_expect(m.barriers + (memory::V_FULL + slot), memory::TILE);
      np_tile_load<width>(m.v + slot * (memory::TILE / 2), map, 2 * task->heads + it.head, j * NP_TILE_ROWS, it.image,
                          m.barriers + (memory::V_FULL + slot));
    }
    taken++;
  }
}

/* Q's tile as the a's of products along d. */
template <int width> NP_DEVICE void load_q(np_shared<const np_bf16> tile, uint32_t (&q)[width / 16][4]) {
  int row = np_warp() % CONSUMER_WARPS * 16 + np_lane() % 16;
#pragma unroll
  for (int k = 0; k < width / 16; k++) np_ldmatrix4(q[k], tile + np_chunk(row, 2 * k + np_lane() / 16));
}

/* One row's softmax so far: of the two rows, g and g+8, that a lane has a part in. */
typedef struct softmax_state {
  float top[2], sum[2], factor[2]; /* largest score; the lane's share of Σ exp; what this tile scales the past by */
} softmax_state;

/* Scores become probabilities relative to `top`, the largest score so far; if lazy, one that it has not left behind by
 * 2^SLACK: so what was added up rarely needs scaling, and nothing comes near the ends of float32. Returns whether a row
 * of the warp needs it. scale: of scores, to base 2. */
template <bool lazy> NP_DEVICE bool softmax(float (&s)[32], softmax_state *state, float scale) {
  constexpr float SLACK = 8.0f;
  float top[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    top[r] = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
    for (int i = 2 * r + 4; i < 32; i += 4) top[r] = fmaxf(top[r], fmaxf(s[i], s[i + 1]));
    top[r] = fmaxf(top[r], np_shuffle_xor(top[r], 1));
    top[r] = fmaxf(top[r], np_shuffle_xor(top[r], 2));
  }
  bool behind =
      !lazy || np_warp_any((top[0] - state->top[0]) * scale > SLACK || (top[1] - state->top[1]) * scale > SLACK);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (behind) {
      top[r] = fmaxf(top[r], state->top[r]);
      state->factor[r] = np_exp2((state->top[r] - top[r]) * scale);
      state->top[r] = top[r];
      state->sum[r] *= state->factor[r];
    }
    float base = state->top[r] * scale, sum = 0.0f;
#pragma unroll
    for (int i = 2 * r; i < 32; i += 4) {
      s[i] = np_exp2(fmaf(s[i], scale, -base));
      s[i + 1] = np_exp2(fmaf(s[i + 1], scale, -base));
      sum += s[i] + s[i + 1];
    }
    state->sum[r] += sum;
  }
  return behind;
}

/* Hide the keys of tile j from `limit` on, of rows g and g+8; tiles that are full and inside are left alone. */
NP_DEVICE void hide_where_needed(float (&s)[32], const np_attention_map *map, int tile, int j, const int (&limit)[2]) {
  if (np_attention_kind(map, tile, j) == NP_TILE_FULL && (j + 1) * NP_TILE_ROWS <= map->tokens) return;
#pragma unroll
  for (int i = 0; i < 32; i++)
    if (j * NP_TILE_ROWS + i / 4 * 8 + np_lane() % 4 * 2 + i % 2 >= limit[i / 2 % 2]) s[i] = -INFINITY;
}

template <int width>
NP_DEVICE void issue_scores(float (&s)[32], const uint32_t (&q)[width / 16][4], np_shared<const np_bf16> k) {
  uint64_t matrix = np_matrix(k);
  np_wgmma_fence();
#pragma unroll
  for (int i = 0; i < width / 16; i++) np_wgmma<false>(s, q[i], np_matrix_at(matrix, np_along_row(i)), i > 0);
  np_wgmma_commit();
}

template <int width>
NP_DEVICE void issue_values(float (&o)[np_tile_width(width) / 2], uint32_t (&p)[4][4], np_shared<const np_bf16> v,
                            bool accumulate) {
  uint64_t matrix = np_matrix(v);
  np_wgmma_hold(p);
  np_wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; i++) np_wgmma<true>(o, p[i], np_matrix_at(matrix, np_down_rows(i)), i > 0 || accumulate);
  np_wgmma_commit();
}

template <int width> NP_DEVICE void rescale(float (&o)[np_tile_width(width) / 2], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < np_tile_width(width) / 2; i++) o[i] *= factor[i / 2 % 2];
}

/* Results of one consumer's 64 queries. */
template <int width>
NP_DEVICE void finish(const forward_task *task, const forward_item *it, int tile, float scale,
                      const float (&o)[np_tile_width(width) / 2], softmax_state *state) {
  np_bf16 *row[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float sum = state->sum[r];
    sum += np_shuffle_xor(sum, 1);
    sum += np_shuffle_xor(sum, 2);
    state->factor[r] = 1.0f / sum;
    int i = tile * NP_TILE_ROWS + np_warp() % CONSUMER_WARPS * 16 + np_lane() / 4 + 8 * r;
    bool inside = i < task->tokens;
    int64_t token = static_cast<int64_t>(it->image) * task->tokens + i;
    row[r] = inside ? task->out + (token * task->heads + it->head) * width : nullptr;
    if (inside && task->lse && np_lane() % 4 == 0)
      task->lse[(static_cast<int64_t>(it->image) * task->heads + it->head) * task->tokens + i] =
          fmaf(state->top[r], scale, logf(sum));
  }
  np_rows_store<width>(o, state->factor, row);
}

/* A consumer: warpgroup 1 + w. */
template <int width> NP_DEVICE void consume(const forward_task *task, int w) {
  typedef forward_memory<width> memory;
  memory m;
  constexpr float scale = np_score_scale<width>, scale2 = scale * NP_LOG2_E;
  constexpr bool lazy = np_tile_width(width) == 128; /* with 64 columns scaling costs less than asking */
  int used = 0, taken = 0;
  for (int round = 0; round * static_cast<int>(gridDim.x) < task->items; round++) {
    int place = np_round_place(round);
    if (place >= task->items) break;
    forward_item it = item_of(task, m.order, place);
    int tile = it.tile + w, first = used;
    int tiles = tile < np_attention_query_tiles(&it.map) ? np_attention_key_tiles(&it.map, tile) : 0;
    uint32_t q[width / 16][4], p[4][4];
    float s[32], o[np_tile_width(width) / 2];
    softmax_state state = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {0.0f, 0.0f}};
    int limit[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int i = tile * NP_TILE_ROWS + np_warp() % CONSUMER_WARPS * 16 + np_lane() / 4 + 8 * r;
      limit[r] = i < task->tokens ? np_attention_limit(&it.map, i) : task->tokens;
    }

    np_barrier_wait(m.barriers + (memory::Q_FULL + w), taken++ % 2);
    load_q<width>(m.q + w * (memory::TILE / 2), q);
    np_barrier_release(m.barriers + (memory::Q_EMPTY + w));

    if (tiles > 0) {
      np_barrier_wait(m.barriers + (memory::K_FULL + np_ring_slot<SLOTS>(used)), np_ring_parity<SLOTS>(used));
      issue_scores<width>(s, q, m.k + np_ring_slot<SLOTS>(used) * (memory::TILE / 2));
      np_wgmma_wait<0>();
      np_wgmma_hold(s);
      np_barrier_release(m.barriers + (memory::K_EMPTY + np_ring_slot<SLOTS>(used)));
      hide_where_needed(s, &it.map, tile, 0, limit);
      softmax<lazy>(s, &state, scale2);
      np_sums_to_a(s, p);
      for (int j = 1; j < tiles; j++, used++) {
        int slot = np_ring_slot<SLOTS>(used), next = np_ring_slot<SLOTS>(used + 1);
        np_barrier_wait(m.barriers + (memory::K_FULL + next), np_ring_parity<SLOTS>(used + 1));
        issue_scores<width>(s, q, m.k + next * (memory::TILE / 2));
        np_barrier_wait(m.barriers + (memory::V_FULL + slot), np_ring_parity<SLOTS>(used));
        issue_values<width>(o, p, m.v + slot * (memory::TILE / 2), j > 1);
        np_wgmma_wait<1>();
        np_wgmma_hold(s);
        np_barrier_release(m.barriers + (memory::K_EMPTY + next));
        hide_where_needed(s, &it.map, tile, j, limit);
        bool behind = softmax<lazy>(s, &state, scale2);
        /* ptxas moves work on registers past a wait for products, but not past a branch. Without this one, a wait for
         * what is there, all of the softmax came after P·V, not beside it. */
        np_wgmma_hold(s);
        np_wgmma_hold(state.sum);
        np_barrier_wait(m.barriers + (memory::V_FULL + slot), np_ring_parity<SLOTS>(used));
        np_wgmma_wait<0>();
        np_wgmma_hold(o);
        np_barrier_release(m.barriers + (memory::V_EMPTY + slot));
        if (behind) rescale<width>(o, state.factor);
        np_sums_to_a(s, p);
      }
      int slot = np_ring_slot<SLOTS>(used);
      np_barrier_wait(m.barriers + (memory::V_FULL + slot), np_ring_parity<SLOTS>(used));
      issue_values<width>(o, p, m.v + slot * (memory::TILE / 2), tiles > 1);
      np_wgmma_wait<0>();
      np_wgmma_hold(o);
      np_barrier_release(m.barriers + (memory::V_EMPTY + slot));
      used++;
      finish<width>(task, &it, tile, scale, o, &state);
    }
    for (; used < first + it.key_tiles; used++) { /* what only the other consumer sees */
      int slot = np_ring_slot<SLOTS>(used);
      np_barrier_wait(m.barriers + (memory::K_FULL + slot), np_ring_parity<SLOTS>(used));
      np_barrier_release(m.barriers + (memory::K_EMPTY + slot));
      np_barrier_wait(m.barriers + (memory::V_FULL + slot), np_ring_parity<SLOTS>(used));
      np_barrier_release(m.barriers + (memory::V_EMPTY + slot));
    }
  }
}

#endif /* NP_HOPPER_CODE */

template <int width> NP_KERNEL_BLOCKS(THREADS, 1) hopper_forward(NP_MAP map, const forward_task task) {
#ifdef NP_HOPPER_CODE
  typedef forward_memory<width> memory;
  memory m;
  if (threadIdx.x == 0) {
    for (int i = 0; i < memory::COUNT; i++) { /* full: the producer arrives; empty: each warp that reads */
      bool full = i < memory::Q_EMPTY || (i >= memory::K_FULL && i / SLOTS % 2 == 1);
      int warps = i < memory::K_FULL ? CONSUMER_WARPS : CONSUMERS * CONSUMER_WARPS;
      np_barrier_init(m.barriers + i, full ? 1 : warps);
    }
    np_barrier_init_done();
  }
  if (task.ordered) np_order_images(m.order, task.prefix, task.items / (task.heads * task.blocks));
  np_block_sync();
  if (threadIdx.x < NP_GROUP) {
    np_registers_give<24>();
    if (threadIdx.x == 0) produce<width>(&map, &task);
  } else {
    np_registers_take<240>();
    consume<width>(&task, np_shuffle(static_cast<int>(threadIdx.x) / NP_GROUP, 0) - 1);
  }
#endif
}

/* ---- launchers ---- */

bool np_kernel_attention_hopper_takes(const np_gpu *gpu, int tokens, int head_width) {
  return gpu->major == 9 && gpu->minor == 0 && tokens >= 1 && head_width % 32 == 0 && head_width >= 32 &&
         head_width <= 128;
}

template <int width> static np_status launch(const np_gpu *gpu, const np_kernel_attention *a) {
  np_tensor_shape shape = {a->qkv, a->batch, a->tokens, 3 * a->heads, width};
  np_tensor_map map;
  np_status st = np_tensor_map_encode(&map, &shape);
  if (st != NP_OK) return st;
  int blocks = (a->tokens + CONSUMERS * NP_TILE_ROWS - 1) / (CONSUMERS * NP_TILE_ROWS);
  forward_task task = {a->tokens, a->heads,
                       blocks,    a->batch * a->heads * blocks,
                       a->prefix, static_cast<np_bf16 *>(a->out),
                       a->lse,    np_is_ordered(a->prefix, a->batch)};
  /* Two blocks of a head read the same keys and values at the same time. */
  unsigned grid = static_cast<unsigned>(task.items < gpu->processors ? task.items : gpu->processors);
  return np_launch_together(gpu, "attention_hopper_forward", hopper_forward<width>, (grid + 1) / 2 * 2, 2, THREADS,
                            forward_memory<width>::BYTES, map, task);
}

np_status np_kernel_attention_hopper_forward(const np_gpu *gpu, const np_kernel_attention *a) {
  return np_hopper_launch("attention_hopper_forward", gpu, a, {launch<32>, launch<64>, launch<96>, launch<128>});
}
