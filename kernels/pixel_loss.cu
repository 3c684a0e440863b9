/* The pixel loss in one pass, a warp a row. Bytes of the target patch are summed as whole numbers, which gives its mean
 * and variance in closed form; from these follows, for each channel, the level that takes a byte to its standardised
 * value; and values meet the row of predictions, whose gradient goes out as they came in:
 *
 *     bytes v ──→ Σ v, Σ v² of each channel ──→ mean, variance ──→ a level of each channel
 *        └────────────────────────────────────────────────────────────────→ t ┐
 *     pred ───────────────────────────────────────────────────────────────────┴→ (pred - t)² ──→ loss of the block
 *                                                                              └→ scale·2·(pred - t)/(P·P·C) ──→ dpred
 *
 * The next row is under way while a row is worked on: its bytes to shared memory once the row's have come from there,
 * its predictions to registers once the row's are done with, which are so few that 32 warps fit a multiprocessor:
 *
 *     bytes   ├─────── r+1 ──────────────────────┤├─────── r+2 ──────────────────────┤
 *     pred    ─── r ───┤              ├──────── r+1 ───────┤              ├──────── r+2 ─
 *     work    levels of r │ compare r │ levels of r+1       │ compare r+1 │ levels of r+2
 *
 * A row of a patch begins at any pair of bytes, and addresses would be most of the instructions. So a warp copies the
 * aligned 64 bytes around each row of the patch (p), which moves a patch as a whole, by its `skew`:
 *
 *     row 0   ..ppppppppp.....     A lane takes values 4·lane … + 3 of the patch as two pairs of bytes, which may
 *     row 1   ..ppppppppp.....     lie in two rows, then those 128 further on: always from the same places plus skew.
 *
 * What that does not fit (float pixels, odd or large patches, images of unaligned rows) goes value by value through
 * pixel_loss_any.cuh. */
#include "kernels/pixel_loss.cuh"
#include "kernels/pixel_loss_any.cuh"
#include "kernels/total.cuh"
#include "kernels/vector.cuh"

enum { BLOCKS = 4, BLOCKS_F32 = 2 };             /* that a multiprocessor holds: more would wait for those to finish */
enum { CHUNK = 16, SPAN = 64, MOST_PATCH = 16 }; /* bytes a lane copies; around a row of a patch; rows */
enum { COPIED = NP_WARP * CHUNK / SPAN, SLOT = MOST_PATCH * SPAN }; /* rows of a patch at a time; bytes of one patch */

/* ---- kernels ---- */

/* A row, or a patch, in rounds: a lane has values 4·lane + 128·u … + 3 in round u. With three channels (4 ≡ 1 and
 * 128 ≡ 2 mod 3) value i of them is of channel (lane + 2u + i) mod 3: in a table of channels turned by the lane, of
 * entry (2u + i) mod 3, which the compiler knows. C: 1 or 3. */
template <int C> NP_HOST_DEVICE constexpr int entry(int u, int i) { return C == 3 ? (2 * u + i) % 3 : 0; }

/* Whether a row has values for this lane in round u. Rounds before the last have them for all lanes where they are 5 or
 * 6, and so does the sixth: among even patches they are those of 14² and 16² pixels. */
template <int ROUNDS> NP_DEVICE bool in_row(const np_loss_call &call, int u) {
  return u < (ROUNDS == 6 ? 6 : ROUNDS == 5 ? 4 : 0) || np_lane() < call.groups - u * NP_WARP;
}

/* Where among the slots the lane's bytes are, of a patch that begins with a chunk: two pairs a round, or one word where
 * all begin so, as those of 6 rounds do. */
template <int ROUNDS> struct lane_places {
  enum { PIECES = ROUNDS == 6 ? 1 : 2 };
  int at[ROUNDS][PIECES];
};
template <int ROUNDS> NP_DEVICE void find_places(const np_loss_call &call, int warp, lane_places<ROUNDS> &places) {
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
#pragma unroll
    for (int i = 0; i < places.PIECES; i++) {
      const int j = (np_lane() + u * NP_WARP) * NP_LOSS_WIDE + i * 2, row = np_divide(j, call.by_run);
      places.at[u][i] = warp * SLOT + row * SPAN + j - row * call.run;
    }
  }
}

/* Where among the bytes the target of row r begins, plus 1: an odd number. Else BLANK, a row with nothing to predict,
 * or 0: no such row. */
enum { BLANK = 2 };
template <int C> NP_DEVICE uint32_t target_byte(const np_loss_call &call, int64_t r) {
  const int token = r < call.rows ? call.index[r] : -1;
  if (token < 0) return r < call.rows ? BLANK : 0;
  const np_place p = np_target_of(call, token);
  const uint32_t row = static_cast<uint32_t>(p.image * call.pixels.height + p.top);
  return (row * static_cast<uint32_t>(call.pixels.width) + static_cast<uint32_t>(p.left)) * C + 1;
}
NP_DEVICE bool counts(uint32_t target) { return target % 2 == 1; }
/* Bytes between the chunk that the target begins in, and its first. */
NP_DEVICE uint32_t skew_of(uint32_t target) { return target % CHUNK - 1; }

/* Begins to copy a patch to the warp's slot: a row of it by four lanes. mine: where the lane's first chunk is. */
NP_DEVICE void copy_patch(const np_loss_call &call, uint32_t target, uint32_t mine, np_shared<uint8_t> to) {
  const int row = np_lane() * CHUNK / SPAN, chunk = np_lane() * CHUNK % SPAN;
  if (chunk - call.run >= static_cast<int>(skew_of(target))) return;
  const uint32_t from = target / CHUNK * CHUNK + mine;
#pragma unroll
  for (int y = 0; y < MOST_PATCH; y += COPIED)
    if (row + y < call.pixels.patch) np_copy_async(to + y * SPAN, call.pixels.u8 + (from + y * call.pitch), true);
}

/* What lane `from` has, as a sum, which the compiler knows to be the same for all lanes. */
NP_DEVICE uint32_t uniform(uint32_t value, int from) { return np_warp_count(np_lane() == from ? value : 0); }

/* The lane's bytes of the patch that was copied. */
template <int ROUNDS>
NP_DEVICE void take_patch(const np_loss_call &call, uint32_t target, const lane_places<ROUNDS> &places,
                          np_shared<const uint8_t> slots, uint32_t (&word)[ROUNDS]) {
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    if (!in_row<ROUNDS>(call, u)) continue;
    if constexpr (lane_places<ROUNDS>::PIECES == 1) {
      word[u] = np_shared_as<const uint32_t>(slots + places.at[u][0])[0];
    } else {
      const np_shared<const uint8_t> from = slots + skew_of(target);
      word[u] = np_shared_as<const uint16_t>(from + places.at[u][0])[0] |
                static_cast<uint32_t>(np_shared_as<const uint16_t>(from + places.at[u][1])[0]) << 16;
    }
  }
}

/* The lane's predictions of a row, the first of which is *pred. */
template <class T, int ROUNDS>
NP_DEVICE void read_row(const np_loss_call &call, const T *pred, np_vec<T, NP_LOSS_WIDE> (&held)[ROUNDS]) {
#pragma unroll
  for (int u = 0; u < ROUNDS; u++)
    if (in_row<ROUNDS>(call, u)) held[u] = np_vec_load<NP_LOSS_WIDE>(pred + u * NP_WARP * NP_LOSS_WIDE);
}

/* The level of channel lane mod C. mask: the bytes of channel c in round 0. */
template <int C, int ROUNDS>
NP_DEVICE np_level own_level(const np_loss_call &call, const uint32_t (&word)[ROUNDS], const uint32_t (&mask)[C]) {
  const uint32_t ones = 0x01010101;
  const int channel = np_lane() % C;
  if (!call.normalize) return channel == 0 ? call.levels.of[0] : channel == 1 ? call.levels.of[1] : call.levels.of[2];
  uint32_t v[C] = {}, v2[C] = {}; /* of all channels, of the second, of the third */
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    v[0] = np_dot4(word[u], ones, v[0]);
    v2[0] = np_dot4(word[u], word[u], v2[0]);
#pragma unroll
    for (int c = 1; c < C; c++) {
      const uint32_t mine = word[u] & mask[(c + u) % C]; /* ≡ c - 2u */
      v[c] = np_dot4(mine, ones, v[c]);
      v2[c] = np_dot4(mine, mine, v2[c]);
    }
  }
#pragma unroll
  for (int c = 0; c < C; c++) v[c] = np_warp_count(v[c]), v2[c] = np_warp_count(v2[c]);
#pragma unroll
  for (int c = 1; c < C; c++) v[0] -= v[c], v2[0] -= v2[c];
  uint32_t own = v[0], own2 = v2[0];
  double sum[3] = {static_cast<double>(v[0])};
#pragma unroll
  for (int c = 1; c < C; c++) {
    own = channel == c ? v[c] : own;
    own2 = channel == c ? v2[c] : own2;
    sum[c] = static_cast<double>(v[c]);
  }
  const uint32_t scatter = call.area * own2 - own * own; /* n_c ≤ 257: below 2^32 */
  return np_standardise(call, C, call.channel[channel], sum, static_cast<double>(own), static_cast<float>(scatter));
}

/* d = pred - t of round u. zero: for np_byte. */
template <int C, class T>
NP_DEVICE void difference(int u, const np_vec<T, NP_LOSS_WIDE> &pred, uint32_t word, const np_level (&level)[C],
                          uint32_t zero, float (&d)[NP_LOSS_WIDE]) {
  np_vec_get(pred, d);
#pragma unroll
  for (int i = 0; i < NP_LOSS_WIDE; i++) d[i] -= np_level_at(level[entry<C>(u, i)], np_byte(word, i, zero));
}

/* The lane's share of Σ (pred - t)² over a row, and of its gradient. Squares are added in float32, a lane's few; in
 * float64 where that overflows, so that no finite difference has an infinite square. The compiler must not keep all
 * differences for that: it does not know that zero is levels.zero, and `same` nothing. at: the lane's first value. */
template <int C, class T, int ROUNDS>
NP_DEVICE double compare(const np_loss_call &call, const np_vec<T, NP_LOSS_WIDE> (&held)[ROUNDS],
                         const uint32_t (&word)[ROUNDS], const np_level (&level)[C], uint32_t zero, float step,
                         T *dpred, int64_t at) {
  float squares = 0.0f, d[NP_LOSS_WIDE];
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    if (!in_row<ROUNDS>(call, u)) continue;
    difference<C>(u, held[u], word[u], level, zero, d);
#pragma unroll
    for (int i = 0; i < NP_LOSS_WIDE; i++) {
      squares = fmaf(d[i], d[i], squares);
      d[i] *= step;
    }
    np_vec<T, NP_LOSS_WIDE> out;
    np_vec_set(out, d);
    if (dpred) np_vec_store(dpred + at + u * NP_WARP * NP_LOSS_WIDE, out);
  }
  if (squares <= 1e38f) return static_cast<double>(squares);
  const uint32_t same = zero ^ call.levels.zero;
  double sum = 0.0; /* beyond float32, or not a number */
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    if (!in_row<ROUNDS>(call, u)) continue;
    np_vec<T, NP_LOSS_WIDE> again = held[u];
#pragma unroll
    for (uint32_t i = 0; i < sizeof again / 4; i++) again.pair[i] ^= same;
    difference<C>(u, again, word[u], level, call.levels.zero, d);
#pragma unroll
    for (int i = 0; i < NP_LOSS_WIDE; i++) sum += static_cast<double>(d[i]) * static_cast<double>(d[i]);
  }
  return sum;
}

/* losses[block] is the sum over the block's rows. pred may be dpred: a row is written after it has arrived. */
template <class T, int C, int ROUNDS>
NP_KERNEL_BLOCKS(NP_LOSS_THREADS, sizeof(T) == 2 ? BLOCKS : BLOCKS_F32)
pixel_loss(np_loss_call call, const T *pred, T *dpred) {
  const int lane = np_lane(), warp = static_cast<int>(uniform(static_cast<uint32_t>(np_warp()), 0));
  const np_shared<uint8_t> slots = np_shared_at<uint8_t>(NP_LOSS_WARPS * sizeof(double)),
                           to = slots + warp * SLOT + lane * CHUNK;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * NP_LOSS_WARPS,
                first = static_cast<int64_t>(blockIdx.x) * NP_LOSS_WARPS + warp;
  int64_t at = first * call.values + lane * NP_LOSS_WIDE; /* the lane's first value of the row at hand */
  np_next_may_start();
  uint32_t targets = target_byte<C>(call, first + lane * stride); /* lane k: of row first + k·stride; 32 at a time */
  np_vec<T, NP_LOSS_WIDE> held[ROUNDS];
  if (first < call.rows) read_row(call, pred + at, held);
  const uint32_t mine = threadIdx.x % NP_WARP * CHUNK / SPAN * call.pitch + threadIdx.x % NP_WARP * CHUNK % SPAN;
  uint32_t target = uniform(targets, 0);
  if (counts(target)) copy_patch(call, target, mine, to);

  lane_places<ROUNDS> places;
  find_places(call, warp, places);
  const uint32_t zero = np_shuffle(lane == 0 ? call.levels.zero : 0, 0); /* not a constant: np_byte has another one */
  const float step = dpred ? 2.0f * *call.scale / static_cast<float>(call.values) : 0.0f;
  uint32_t mask[C];
#pragma unroll
  for (int c = 0; c < C; c++) {
    const int byte = (c + 2 * lane) % 3; /* ≡ c - lane */
    mask[c] = byte == 0 ? 0xff0000ffu : 0xffu << 8 * byte;
  }
  double loss = 0.0;
  for (int k = 1; target != 0; k++) {
    const bool any = counts(target);
    uint32_t word[ROUNDS] = {};
    if (any) {
      np_copy_commit();
      np_copy_wait<0>();
      np_warp_sync();
      take_patch(call, target, places, slots, word);
      np_warp_sync();
    }
    if (k % NP_WARP == 0) targets = target_byte<C>(call, first + (k + lane) * stride);
    target = uniform(targets, k % NP_WARP);
    if (counts(target)) copy_patch(call, target, mine, to);

    if (any) {
      np_level level[C] = {own_level<C>(call, word, mask)};
#pragma unroll
      for (int i = 1; i < C; i++) level[i] = np_level_from(level[0], (lane + i) % C);
      loss += compare(call, held, word, level, zero, step, dpred, at);
    } else {
      const float zeros[NP_LOSS_WIDE] = {};
#pragma unroll
      for (int u = 0; u < ROUNDS; u++)
        if (dpred && in_row<ROUNDS>(call, u)) np_store_all(dpred + at + u * NP_WARP * NP_LOSS_WIDE, zeros);
    }
    at += call.on;
    if (counts(target)) read_row(call, pred + at, held);
  }
  loss = np_block_sum(loss, NP_LOSS_THREADS, np_shared_at<double>(0));
  if (threadIdx.x == 0) call.losses[blockIdx.x] = loss / call.values;
}

/* ---- launchers ---- */

extern "C" size_t np_kernel_pixel_loss_scratch(const np_gpu *gpu) {
  return static_cast<size_t>(gpu->processors) * BLOCKS * sizeof(double);
}

template <class T>
static np_status launch(const np_gpu *gpu, const np_loss_call &call, int64_t blocks, const void *pred_, void *dpred_) {
  const np_pixels &p = call.pixels;
  const T *pred = static_cast<const T *>(pred_);
  T *dpred = static_cast<T *>(dpred_);
  const int rounds = (call.values + NP_WARP * NP_LOSS_WIDE - 1) / (NP_WARP * NP_LOSS_WIDE);
  const int64_t pitch = static_cast<int64_t>(p.width) * p.channels, bytes = p.batch * pitch * p.height;
  void (*kernel)(np_loss_call, const T *, T *) = np_pixel_loss_any<T>;
  if (p.u8 && p.patch % 2 == 0 && p.patch <= MOST_PATCH && pitch % CHUNK == 0 && bytes < UINT32_MAX &&
      np_aligned(p.u8, CHUNK) && np_aligned(pred, 16) && np_aligned(dpred, 16)) {
    if (p.channels == 1) kernel = pixel_loss<T, 1, 2>;
    if (p.channels == 3)
      kernel = rounds == 6 ? pixel_loss<T, 3, 6> : rounds == 5 ? pixel_loss<T, 3, 5> : pixel_loss<T, 3, 4>;
  }
  return np_launch(gpu, "pixel_loss", kernel, dim3(static_cast<unsigned>(blocks)), NP_LOSS_THREADS,
                   NP_LOSS_WARPS * (sizeof(double) + SLOT), call, pred, dpred);
}

extern "C" np_status np_kernel_pixel_loss(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, int64_t rows,
                                          const int32_t *index, bool normalize, const float *scale, const void *pred,
                                          void *dpred, double *loss, bool accumulate, void *scratch) {
  np_status st = np_patch_check(pixels);
  if (st != NP_OK) return st;
  np_loss_call call = np_loss_call_of(pixels);
  call.rows = rows, call.normalize = normalize, call.index = index, call.scale = scale;
  call.losses = static_cast<double *>(scratch);
  const int held = act == NP_BF16 ? BLOCKS : BLOCKS_F32;
  const int64_t wanted = (rows + NP_LOSS_WARPS - 1) / NP_LOSS_WARPS,
                most = static_cast<int64_t>(gpu->processors) * held;
  const int64_t blocks = wanted < most ? wanted : most;
  call.on = blocks * NP_LOSS_WARPS * call.values;
  st = act == NP_BF16 ? launch<np_bf16>(gpu, call, blocks, pred, dpred) : launch<float>(gpu, call, blocks, pred, dpred);
  return st == NP_OK ? np_total(gpu, "pixel_loss_total", blocks, call.losses, loss, accumulate) : st;
}
