/* The Hopper backward pass: the first warpgroup, which brings tiles and makes what a query tile needs of its rows. */
#ifndef NP_KERNELS_ATTENTION_HOPPER_BACKWARD_FEED_CUH
#define NP_KERNELS_ATTENTION_HOPPER_BACKWARD_FEED_CUH

#include "kernels/attention_hopper_backward.cuh"

#ifdef NP_HOPPER_CODE

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

#endif /* NP_HOPPER_CODE */

#endif
