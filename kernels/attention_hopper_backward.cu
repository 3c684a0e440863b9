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
#include "kernels/attention_hopper_backward.cuh"
#include "kernels/attention_hopper_backward_feed.cuh"
#include "kernels/attention_hopper_backward_pieces.cuh"

/* ---- kernels ---- */

#ifdef NP_HOPPER_CODE

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
