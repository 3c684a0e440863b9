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
 * pixel_loss_any. */
#include "kernels/kernels.h"
#include "kernels/patches.cuh"
#include "kernels/total.cuh"
#include "kernels/vector.cuh"

enum { THREADS = 256, WARPS = THREADS / NP_WARP, WIDE = 4 };
enum { BLOCKS = 4, BLOCKS_F32 = 2 };             /* that a multiprocessor holds: more would wait for those to finish */
enum { CHUNK = 16, SPAN = 64, MOST_PATCH = 16 }; /* bytes a lane copies; around a row of a patch; rows */
enum { COPIED = NP_WARP * CHUNK / SPAN, SLOT = MOST_PATCH * SPAN }; /* rows of a patch at a time; bytes of one patch */

typedef struct divisor { /* n / d = n·factor >> shift, 0 ≤ n < 2^31 */
  uint32_t factor;
  int shift;
} divisor;

typedef struct loss_channel {
  double back, zero;  /* of which byte a normalised y is: back·y + zero */
  float slope, share; /* 1/back; what bytes² over the patch are to the variance: slope²/n_c/(P·P·C - 1) */
} loss_channel;

typedef struct loss_call { /* the operands of the operator, and what follows from them */
  np_pixels pixels;
  np_levels levels; /* of targets that are not standardised */
  loss_channel channel[3];
  double weight[3], start;                 /* the mean: start + Σ_c weight_c·Σ v */
  divisor by_tokens, by_across, by_run;    /* run: values of a row of a patch */
  int64_t rows, on;                        /* on: values from a warp's row to its next */
  int values, groups, tokens, across, run; /* groups: of WIDE values */
  uint32_t area, pitch;                    /* n_c = P·P; bytes of a row of an image */
  double each;                             /* n_c */
  bool normalize;
  const int32_t *index;
  const float *scale;
  double *losses; /* [blocks] */
} loss_call;

/* ---- kernels ---- */

NP_DEVICE int divide(int n, const divisor &by) {
  return static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * by.factor >> by.shift);
}

/* The levels that standardise a patch by its mean and unbiased variance, from Σ v of its channels:
 *     Σ (y - mean)² = Σ_c slope_c²/n_c·(n_c·Σ v² - (Σ v)² + (Σ v - n_c·middle_c)²),
 * where middle_c is the mean in bytes of channel c. What does not depend on the mean is a whole number, `scatter`: a
 * patch of one colour has a variance of exactly 0, and one of nearly one colour that of its few other bytes. Each lane
 * works for one channel, lane mod C: own, own_sum, scatter. */
NP_DEVICE np_level standardise(const loss_call &call, int C, const loss_channel &own, const double (&sum)[3],
                               double own_sum, float scatter) {
  double mean = call.start;
#pragma unroll
  for (int c = 0; c < 3; c++)
    if (c < C) mean += call.weight[c] * sum[c];
  const double middle = mean * own.back + own.zero;
  const float off = static_cast<float>(own_sum - call.each * middle), spread = own.share * fmaf(off, off, scatter);
  float var = 1e-6f;
  for (int c = 0; c < C; c++) var += np_shuffle(spread, c);
  float inverse = rsqrtf(var); /* to two units in the last place; one of Newton's steps better */
  inverse = fmaf(0.5f * inverse, fmaf(-var * inverse, inverse, 1.0f), inverse);
  const float near = static_cast<float>(middle + NP_BYTE_BASE), factor = own.slope * inverse;
  return {near, factor, static_cast<float>(static_cast<double>(near - NP_BYTE_BASE) - middle) * factor};
}

NP_DEVICE np_level level_from(const np_level &level, int lane) {
  return {np_shuffle(level.middle, lane), np_shuffle(level.factor, lane), np_shuffle(level.rest, lane)};
}

/* The first pixel of the target of a token. */
typedef struct place {
  int image, top, left;
} place;
NP_DEVICE place target_of(const loss_call &call, int token) {
  const int image = divide(token, call.by_tokens), target = token - image * call.tokens + 1,
            row = divide(target, call.by_across);
  return {image, row * call.pixels.patch, (target - row * call.across) * call.pixels.patch};
}

/* A row, or a patch, in rounds: a lane has values 4·lane + 128·u … + 3 in round u. With three channels (4 ≡ 1 and
 * 128 ≡ 2 mod 3) value i of them is of channel (lane + 2u + i) mod 3: in a table of channels turned by the lane, of
 * entry (2u + i) mod 3, which the compiler knows. C: 1 or 3. */
template <int C> NP_HOST_DEVICE constexpr int entry(int u, int i) { return C == 3 ? (2 * u + i) % 3 : 0; }

/* Whether a row has values for this lane in round u. Rounds before the last have them for all lanes where they are 5 or
 * 6, and so does the sixth: among even patches they are those of 14² and 16² pixels. */
template <int ROUNDS> NP_DEVICE bool in_row(const loss_call &call, int u) {
  return u < (ROUNDS == 6 ? 6 : ROUNDS == 5 ? 4 : 0) || np_lane() < call.groups - u * NP_WARP;
}

/* Where among the slots the lane's bytes are, of a patch that begins with a chunk: two pairs a round, or one word where
 * all begin so, as those of 6 rounds do. */
template <int ROUNDS> struct lane_places {
  enum { PIECES = ROUNDS == 6 ? 1 : 2 };
  int at[ROUNDS][PIECES];
};
template <int ROUNDS> NP_DEVICE void find_places(const loss_call &call, int warp, lane_places<ROUNDS> &places) {
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
#pragma unroll
    for (int i = 0; i < places.PIECES; i++) {
      const int j = (np_lane() + u * NP_WARP) * WIDE + i * 2, row = divide(j, call.by_run);
      places.at[u][i] = warp * SLOT + row * SPAN + j - row * call.run;
    }
  }
}

/* Where among the bytes the target of row r begins, plus 1: an odd number. Else BLANK, a row with nothing to predict,
 * or 0: no such row. */
enum { BLANK = 2 };
template <int C> NP_DEVICE uint32_t target_byte(const loss_call &call, int64_t r) {
  const int token = r < call.rows ? call.index[r] : -1;
  if (token < 0) return r < call.rows ? BLANK : 0;
  const place p = target_of(call, token);
  const uint32_t row = static_cast<uint32_t>(p.image * call.pixels.height + p.top);
  return (row * static_cast<uint32_t>(call.pixels.width) + static_cast<uint32_t>(p.left)) * C + 1;
}
NP_DEVICE bool counts(uint32_t target) { return target % 2 == 1; }
/* Bytes between the chunk that the target begins in, and its first. */
NP_DEVICE uint32_t skew_of(uint32_t target) { return target % CHUNK - 1; }

/* Begins to copy a patch to the warp's slot: a row of it by four lanes. mine: where the lane's first chunk is. */
NP_DEVICE void copy_patch(const loss_call &call, uint32_t target, uint32_t mine, np_shared<uint8_t> to) {
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
NP_DEVICE void take_patch(const loss_call &call, uint32_t target, const lane_places<ROUNDS> &places,
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
NP_DEVICE void read_row(const loss_call &call, const T *pred, np_vec<T, WIDE> (&held)[ROUNDS]) {
#pragma unroll
  for (int u = 0; u < ROUNDS; u++)
    if (in_row<ROUNDS>(call, u)) held[u] = np_vec_load<WIDE>(pred + u * NP_WARP * WIDE);
}

/* The level of channel lane mod C. mask: the bytes of channel c in round 0. */
template <int C, int ROUNDS>
NP_DEVICE np_level own_level(const loss_call &call, const uint32_t (&word)[ROUNDS], const uint32_t (&mask)[C]) {
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
  return standardise(call, C, call.channel[channel], sum, static_cast<double>(own), static_cast<float>(scatter));
}

/* d = pred - t of round u. zero: for np_byte. */
template <int C, class T>
NP_DEVICE void difference(int u, const np_vec<T, WIDE> &pred, uint32_t word, const np_level (&level)[C], uint32_t zero,
                          float (&d)[WIDE]) {
  np_vec_get(pred, d);
#pragma unroll
  for (int i = 0; i < WIDE; i++) d[i] -= np_level_at(level[entry<C>(u, i)], np_byte(word, i, zero));
}

/* The lane's share of Σ (pred - t)² over a row, and of its gradient. Squares are added in float32, a lane's few; in
 * float64 where that overflows, so that no finite difference has an infinite square. The compiler must not keep all
 * differences for that: it does not know that zero is levels.zero, and `same` nothing. at: the lane's first value. */
template <int C, class T, int ROUNDS>
NP_DEVICE double compare(const loss_call &call, const np_vec<T, WIDE> (&held)[ROUNDS], const uint32_t (&word)[ROUNDS],
                         const np_level (&level)[C], uint32_t zero, float step, T *dpred, int64_t at) {
  float squares = 0.0f, d[WIDE];
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    if (!in_row<ROUNDS>(call, u)) continue;
    difference<C>(u, held[u], word[u], level, zero, d);
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
      squares = fmaf(d[i], d[i], squares);
      d[i] *= step;
    }
    np_vec<T, WIDE> out;
    np_vec_set(out, d);
    if (dpred) np_vec_store(dpred + at + u * NP_WARP * WIDE, out);
  }
  if (squares <= 1e38f) return static_cast<double>(squares);
  const uint32_t same = zero ^ call.levels.zero;
  double sum = 0.0; /* beyond float32, or not a number */
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    if (!in_row<ROUNDS>(call, u)) continue;
    np_vec<T, WIDE> again = held[u];
#pragma unroll
    for (uint32_t i = 0; i < sizeof again / 4; i++) again.pair[i] ^= same;
    difference<C>(u, again, word[u], level, call.levels.zero, d);
#pragma unroll
    for (int i = 0; i < WIDE; i++) sum += static_cast<double>(d[i]) * static_cast<double>(d[i]);
  }
  return sum;
}

/* losses[block] is the sum over the block's rows. pred may be dpred: a row is written after it has arrived. */
template <class T, int C, int ROUNDS>
NP_KERNEL_BLOCKS(THREADS, sizeof(T) == 2 ? BLOCKS : BLOCKS_F32)
pixel_loss(loss_call call, const T *pred, T *dpred) {
  const int lane = np_lane(), warp = static_cast<int>(uniform(static_cast<uint32_t>(np_warp()), 0));
  const np_shared<uint8_t> slots = np_shared_at<uint8_t>(WARPS * sizeof(double)),
                           to = slots + warp * SLOT + lane * CHUNK;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS,
                first = static_cast<int64_t>(blockIdx.x) * WARPS + warp;
  int64_t at = first * call.values + lane * WIDE; /* the lane's first value of the row at hand */
  np_next_may_start();
  uint32_t targets = target_byte<C>(call, first + lane * stride); /* lane k: of row first + k·stride; 32 at a time */
  np_vec<T, WIDE> held[ROUNDS];
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
      for (int i = 1; i < C; i++) level[i] = level_from(level[0], (lane + i) % C);
      loss += compare(call, held, word, level, zero, step, dpred, at);
    } else {
      const float zeros[WIDE] = {};
#pragma unroll
      for (int u = 0; u < ROUNDS; u++)
        if (dpred && in_row<ROUNDS>(call, u)) np_store_all(dpred + at + u * NP_WARP * WIDE, zeros);
    }
    at += call.on;
    if (counts(target)) read_row(call, pred + at, held);
  }
  loss = np_block_sum(loss, THREADS, np_shared_at<double>(0));
  if (threadIdx.x == 0) call.losses[blockIdx.x] = loss / call.values;
}

/* A patch's pixels in (row, column, channel) order, by a warp: a lane goes 32 values at a time. */
typedef struct walk {
  int c, x, y, step_c, step_x, step_y;
} walk;
NP_DEVICE walk walk_from(const np_pixels &p, int lane) {
  const int columns = NP_WARP / p.channels;
  return {lane % p.channels,    lane / p.channels % p.patch, lane / p.channels / p.patch,
          NP_WARP % p.channels, columns % p.patch,           columns / p.patch};
}
NP_DEVICE void walk_on(const np_pixels &p, walk *at) {
  at->c += at->step_c;
  at->x += at->step_x + (at->c >= p.channels ? 1 : 0);
  at->c -= at->c >= p.channels ? p.channels : 0;
  at->y += at->step_y + (at->x >= p.patch ? 1 : 0);
  at->x -= at->x >= p.patch ? p.patch : 0;
}

/* f(value, channel, place in the patch) of this lane's pixels of a patch. */
template <class F> NP_DEVICE void each_pixel(const loss_call &call, const place &p, F f) {
  walk at = walk_from(call.pixels, np_lane());
  for (int j = np_lane(); j < call.values; j += NP_WARP) {
    f(np_pixel_at(call.pixels, p.image, p.top + at.y, p.left + at.x, at.c), at.c, j);
    walk_on(call.pixels, &at);
  }
}

/* Float pixels are standardised in float32: deviations from a rounded mean are exact for a patch of nearly one colour,
 * and their average, which is what rounding took from the mean, is taken off them again (as in norm.cu). A patch of one
 * colour so gives 0. */
NP_DEVICE np_level standardise_floats(const loss_call &call, const place &p) {
  const float n = static_cast<float>(call.values);
  float sum = 0.0f, missed = 0.0f, squares = 0.0f;
  each_pixel(call, p, [&](float x, int, int) { sum += x; });
  const float mean = np_warp_sum(sum) / n;
  each_pixel(call, p, [&](float x, int, int) {
    missed += x - mean;
    squares = fmaf(x - mean, x - mean, squares);
  });
  missed = np_warp_sum(missed) / n;
  const float var = (np_warp_sum(squares) - missed * missed * n) / (n - 1.0f), factor = 1.0f / sqrtf(var + 1e-6f);
  return {mean, factor, -missed * factor};
}

NP_DEVICE np_level standardise_bytes(const loss_call &call, const place &p) {
  double sum[3] = {}, squares[3] = {};
  each_pixel(call, p, [&](float x, int channel, int) {
#pragma unroll
    for (int c = 0; c < 3; c++) {
      const double v = channel == c ? static_cast<double>(x) - NP_BYTE_BASE : 0.0;
      sum[c] += v;
      squares[c] += v * v;
    }
  });
#pragma unroll
  for (int c = 0; c < 3; c++) {
    sum[c] = np_warp_sum(sum[c]);
    squares[c] = np_warp_sum(squares[c]);
  }
  const int c = np_lane() % call.pixels.channels;
  const double own = c == 0   ? sum[0]
                     : c == 1 ? sum[1]
                              : sum[2],
               own2 = c == 0   ? squares[0]
                      : c == 1 ? squares[1]
                               : squares[2];
  return standardise(call, call.pixels.channels, call.channel[c], sum, own,
                     static_cast<float>(call.each * own2 - own * own));
}

/* The same for any pixels, patch and alignment. A single value has no variance (0/0), as in the reference. */
template <class T> NP_KERNEL(THREADS) pixel_loss_any(loss_call call, const T *pred, T *dpred) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS;
  const float step = dpred ? 2.0f * *call.scale / static_cast<float>(call.values) : 0.0f;
  double loss = 0.0;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp(); r < call.rows; r += stride) {
    const int token = call.index[r];
    const int64_t row = r * call.values;
    if (token < 0) {
      for (int j = np_lane(); dpred && j < call.values; j += NP_WARP) np_store(dpred + row + j, 0.0f);
      continue;
    }
    const place p = target_of(call, token);
    np_level level[3] = {call.levels.of[0], call.levels.of[1], call.levels.of[2]};
    if (call.normalize && call.pixels.u8) {
      const np_level own = standardise_bytes(call, p);
      for (int c = 0; c < call.pixels.channels; c++) level[c] = level_from(own, c);
    } else if (call.normalize) {
      level[0] = level[1] = level[2] = standardise_floats(call, p);
    }
    each_pixel(call, p, [&](float x, int c, int j) {
      const float d = np_load(pred + row + j) - np_level_at(c == 0 ? level[0] : c == 1 ? level[1] : level[2], x);
      loss += static_cast<double>(d) * static_cast<double>(d);
      if (dpred) np_store(dpred + row + j, d * step);
    });
  }
  loss = np_block_sum(loss, THREADS, np_shared_at<double>(0));
  if (threadIdx.x == 0) call.losses[blockIdx.x] = loss / call.values;
}

/* ---- launchers ---- */

extern "C" size_t np_kernel_pixel_loss_scratch(const np_gpu *gpu) {
  return static_cast<size_t>(gpu->processors) * BLOCKS * sizeof(double);
}

/* n·factor is off by less than n·d, and that by less than 2^shift: d is at most 2^(shift - 31). */
static divisor divisor_of(int n) {
  const int64_t d = n > 0 ? n : 1; /* 0: no row either */
  int shift = 31;
  while (INT64_C(1) << (shift - 31) < d) shift++;
  return {static_cast<uint32_t>(((INT64_C(1) << shift) + d - 1) / d), shift};
}

template <class T>
static np_status launch(const np_gpu *gpu, const loss_call &call, int64_t blocks, const void *pred_, void *dpred_) {
  const np_pixels &p = call.pixels;
  const T *pred = static_cast<const T *>(pred_);
  T *dpred = static_cast<T *>(dpred_);
  const int rounds = (call.values + NP_WARP * WIDE - 1) / (NP_WARP * WIDE);
  const int64_t pitch = static_cast<int64_t>(p.width) * p.channels, bytes = p.batch * pitch * p.height;
  void (*kernel)(loss_call, const T *, T *) = pixel_loss_any<T>;
  if (p.u8 && p.patch % 2 == 0 && p.patch <= MOST_PATCH && pitch % CHUNK == 0 && bytes < UINT32_MAX &&
      np_aligned(p.u8, CHUNK) && np_aligned(pred, 16) && np_aligned(dpred, 16)) {
    if (p.channels == 1) kernel = pixel_loss<T, 1, 2>;
    if (p.channels == 3)
      kernel = rounds == 6 ? pixel_loss<T, 3, 6> : rounds == 5 ? pixel_loss<T, 3, 5> : pixel_loss<T, 3, 4>;
  }
  return np_launch(gpu, "pixel_loss", kernel, dim3(static_cast<unsigned>(blocks)), THREADS,
                   WARPS * (sizeof(double) + SLOT), call, pred, dpred);
}

extern "C" np_status np_kernel_pixel_loss(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, int64_t rows,
                                          const int32_t *index, bool normalize, const float *scale, const void *pred,
                                          void *dpred, double *loss, bool accumulate, void *scratch) {
  np_status st = np_patch_check(pixels);
  if (st != NP_OK) return st;
  const int across = pixels->width / pixels->patch, each = pixels->patch * pixels->patch;
  loss_call call = {};
  call.pixels = *pixels, call.levels = np_levels_of(pixels);
  call.values = each * pixels->channels, call.each = each, call.area = static_cast<uint32_t>(each);
  call.run = pixels->patch * pixels->channels;
  call.pitch = static_cast<uint32_t>(pixels->width * pixels->channels);
  call.across = across, call.tokens = across * (pixels->height / pixels->patch);
  call.by_tokens = divisor_of(call.tokens), call.by_across = divisor_of(across), call.by_run = divisor_of(call.run);
  for (int c = 0; c < pixels->channels; c++) {
    const double mean = static_cast<double>(pixels->mean[c]), std = static_cast<double>(pixels->std[c]);
    const double slope = 1.0 / (255.0 * std);
    call.channel[c] = {255.0 * std, 255.0 * mean, static_cast<float>(slope),
                       static_cast<float>(slope * slope / each / (call.values - 1))};
    call.weight[c] = slope / call.values, call.start -= mean / std / pixels->channels;
  }
  call.rows = rows, call.normalize = normalize, call.index = index, call.scale = scale;
  call.losses = static_cast<double *>(scratch);
  const int held = act == NP_BF16 ? BLOCKS : BLOCKS_F32;
  const int64_t wanted = (rows + WARPS - 1) / WARPS, most = static_cast<int64_t>(gpu->processors) * held;
  const int64_t blocks = wanted < most ? wanted : most;
  call.groups = call.values / WIDE;
  call.on = blocks * WARPS * call.values;
  st = act == NP_BF16 ? launch<np_bf16>(gpu, call, blocks, pred, dpred) : launch<float>(gpu, call, blocks, pred, dpred);
  return st == NP_OK ? np_total(gpu, "pixel_loss_total", blocks, call.losses, loss, accumulate) : st;
}
