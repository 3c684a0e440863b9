/* The pixel loss in one pass, a warp a row. Bytes of the target patch are summed as whole numbers, which gives its mean
 * and variance in closed form; from these follows, for each channel, the level that takes a byte to its standardised
 * value; and values meet the row of predictions, whose gradient goes out as they came in:
 *
 *     bytes v ──→ Σ v, Σ v² of each channel ──→ mean, variance ──→ a level of each channel
 *        └────────────────────────────────────────────────────────────────→ t ┐
 *     pred ───────────────────────────────────────────────────────────────────┴→ (pred - t)² ──→ loss of the block
 *                                                                              └→ scale·2·(pred - t)/(P·P·C) ──→ dpred
 *
 * While a row is worked on, the next row's bytes are on their way to registers, and the predictions of the next two to
 * shared memory, where each lane reads only what it asked for: memory is never left idle by a warp that computes.
 *
 * What that does not fit (float pixels, rows beyond the registers, odd patches) goes value by value through
 * pixel_loss_any. */
#include "kernels/kernels.h"
#include "kernels/patches.cuh"
#include "kernels/total.cuh"
#include "kernels/vector.cuh"

enum { THREADS = 256, WARPS = THREADS / NP_WARP, WIDE = 4 };
enum { BLOCKS = 3 }; /* that a multiprocessor holds: more would wait for those to finish */
enum { SLOTS = 3 };  /* rows of predictions that a warp has in shared memory or under way */

typedef struct loss_channel {
  double slope, start, back; /* a byte v is slope·v + start; back = 1/slope */
} loss_channel;

typedef struct loss_call { /* the operands of the operator, and what follows from them */
  np_pixels pixels;
  np_levels levels; /* of targets that are not standardised */
  loss_channel channel[3];
  double each, per_each, per_channel, per_free; /* n_c: values of a channel; 1/n_c; 1/C; 1/(P·P·C - 1) */
  int64_t rows;
  int values, tokens, across;
  bool normalize;
  const int32_t *index;
  const float *scale;
  double *losses; /* [blocks] */
} loss_call;

/* ---- kernels ---- */

/* The levels that standardise a patch by its mean and unbiased variance, from Σ v and Σ v² of its channels:
 *     Σ (y - mean)² = Σ_c slope_c²·(Σ v² - (Σ v)²/n_c) + n_c·(mean_c - mean)²,
 * whose brackets are whole numbers over n_c: a patch of one colour has a variance of exactly 0, and one of nearly one
 * colour that of its few other bytes. Each lane works for one channel, lane mod C. */
NP_DEVICE np_level standardise(const loss_call &call, int C, const loss_channel &own, double sum, double squares) {
  const double middle = own.slope * (sum * call.per_each) + own.start;
  double mean = 0.0, scatter = 0.0;
  for (int c = 0; c < C; c++) mean += np_shuffle(middle, c) * call.per_channel;
  const double off = middle - mean, within = (call.each * squares - sum * sum) * call.per_each;
  const double spread = own.slope * own.slope * within + call.each * off * off;
  for (int c = 0; c < C; c++) scatter += np_shuffle(spread, c);
  const float deviation = sqrtf(static_cast<float>(scatter * call.per_free) + 1e-6f);
  return np_level_of(NP_BYTE_BASE + (mean - own.start) * own.back, own.slope * static_cast<double>(1.0f / deviation));
}

NP_DEVICE np_level level_from(const np_level &level, int lane) {
  return {np_shuffle(level.middle, lane), np_shuffle(level.factor, lane), np_shuffle(level.rest, lane)};
}

/* The first pixel of the target of a token. */
typedef struct place {
  int image, top, left;
} place;
NP_DEVICE place target_of(const loss_call &call, int token) {
  const int image = token / call.tokens, target = token - image * call.tokens + 1, row = target / call.across;
  return {image, row * call.pixels.patch, (target - row * call.across) * call.pixels.patch};
}

/* A row, or a patch, in rounds: a lane has values 4·lane + 128·u … + 3 in round u. With three channels (4 ≡ 1 and
 * 128 ≡ 2 mod 3) value i of them is of channel (lane + 2u + i) mod 3: in a table of channels turned by the lane, of
 * entry (2u + i) mod 3, which the compiler knows. C: 1 or 3. */
template <int C> NP_HOST_DEVICE constexpr int entry(int u, int i) { return C == 3 ? (2 * u + i) % 3 : 0; }

/* Whether a row has values for this lane in round u; the first FULL rounds have them for all lanes. */
template <int FULL> NP_DEVICE bool in_row(const loss_call &call, int u) {
  return u < FULL || (np_lane() + u * NP_WARP) * WIDE < call.values;
}

/* What a lane needs for every row. Registers are few: most of it is in shared memory, at `base`. */
enum { MOST_ROUNDS = 6, PLAN_BYTES = 3 * sizeof(loss_channel) + 8 + MOST_ROUNDS * NP_WARP * sizeof(uint2) };
template <int C> struct lane_plan {
  np_shared<const uint2> offsets; /* round u at 32·u: bytes from the patch's first to the two pairs */
  np_shared<const double> own;    /* loss_channel of channel lane mod C */
  uint32_t ones[C];               /* a one in each byte of channel c, in round 0 */
};
template <int C, int ROUNDS> NP_DEVICE lane_plan<C> plan_lane(const loss_call &call, size_t base) {
  const np_shared<double> channels = np_shared_at<double>(base);
  const np_shared<uint2> offsets = np_shared_at<uint2>(base + 3 * sizeof(loss_channel) + 8);
  const int run = call.pixels.patch * C, pitch = call.pixels.width * C, lane = np_lane();
  lane_plan<C> plan = {offsets + lane, channels + lane % C * 3, {}};
  for (int u = np_warp(); u < ROUNDS; u += WARPS) {
    const int j = (lane + u * NP_WARP) * WIDE;
    offsets[u * NP_WARP + lane] = make_uint2(static_cast<uint32_t>(j / run * pitch + j % run),
                                             static_cast<uint32_t>((j + 2) / run * pitch + (j + 2) % run));
  }
  if (threadIdx.x < C) {
    const loss_channel &own = call.channel[threadIdx.x];
    channels[3 * threadIdx.x] = own.slope, channels[3 * threadIdx.x + 1] = own.start;
    channels[3 * threadIdx.x + 2] = own.back;
  }
#pragma unroll
  for (int c = 0; c < C; c++) {
    const int byte = (c + 2 * lane) % 3; /* ≡ c - lane */
    plan.ones[c] = C == 1 ? 0x01010101u : byte == 0 ? 0x01000001u : 1u << 8 * byte;
  }
  np_block_sync();
  return plan;
}

/* Where among the bytes the target of row r begins, or -1: no such row, or none to predict. (A pointer would lose, on
 * its way through a shuffle, that it is one to global memory.) */
template <int C> NP_DEVICE int64_t target_byte(const loss_call &call, int64_t r) {
  const int token = r < call.rows ? call.index[r] : -1;
  if (token < 0) return -1;
  const place p = target_of(call, token);
  const int64_t row = static_cast<int64_t>(p.image) * call.pixels.height + p.top;
  return (row * call.pixels.width + p.left) * C;
}

/* The lane's bytes of a patch, as they come. A row of a patch is an even number of bytes: the two pairs of a round may
 * lie in two rows. */
template <int ROUNDS> struct byte_pairs { uint32_t first[ROUNDS], second[ROUNDS]; };
template <int FULL, int C, int ROUNDS>
NP_DEVICE void read_patch(const loss_call &call, const lane_plan<C> &plan, int64_t target, byte_pairs<ROUNDS> &pairs) {
  const uint8_t *bytes = call.pixels.u8 + target;
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    pairs.first[u] = pairs.second[u] = 0;
    if (target >= 0 && in_row<FULL>(call, u)) {
      const uint2 at = plan.offsets[u * NP_WARP];
      pairs.first[u] = *reinterpret_cast<const uint16_t *>(bytes + at.x);
      pairs.second[u] = *reinterpret_cast<const uint16_t *>(bytes + at.y);
    }
  }
}

/* The lane's predictions of row r to `to`, a copy a round, in a group of their own, empty beyond the last row. */
template <int FULL, int ROUNDS, class T>
NP_DEVICE void fetch_predictions(const loss_call &call, int64_t r, const T *pred, np_shared<T> to) {
  const T *from = pred + r * call.values + np_lane() * WIDE;
#pragma unroll
  for (int u = 0; u < ROUNDS; u++)
    if (r < call.rows && in_row<FULL>(call, u))
      np_copy_async<sizeof(T) * WIDE>(to + u * NP_WARP * WIDE, from + u * NP_WARP * WIDE, true);
  np_copy_commit();
}

/* Σ v and Σ v² over the patch of the channel lane mod C. */
template <int C, int ROUNDS>
NP_DEVICE void count_bytes(const lane_plan<C> &plan, const uint32_t (&word)[ROUNDS], double *sum, double *squares) {
  uint32_t v[C] = {}, v2[C] = {};
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
#pragma unroll
    for (int c = 0; c < C; c++) {
      const uint32_t mine = plan.ones[(c + u) % C]; /* ≡ c - 2u */
      v[c] = np_dot4(word[u], mine, v[c]);
      v2[c] = np_dot4(word[u] & mine * 255, word[u], v2[c]);
    }
  }
  uint32_t own = np_warp_count(v[0]), own2 = np_warp_count(v2[0]);
#pragma unroll
  for (int c = 1; c < C; c++) {
    const uint32_t other = np_warp_count(v[c]), other2 = np_warp_count(v2[c]);
    own = np_lane() % C == c ? other : own;
    own2 = np_lane() % C == c ? other2 : own2;
  }
  *sum = own, *squares = own2;
}

/* The levels of a patch, turned by the lane. */
template <int C, int ROUNDS>
NP_DEVICE void find_levels(const loss_call &call, const lane_plan<C> &plan, const uint32_t (&word)[ROUNDS],
                           np_level (&level)[C]) {
  const int channel = np_lane() % C;
  if (call.normalize) {
    double sum, squares;
    count_bytes<C, ROUNDS>(plan, word, &sum, &squares);
    level[0] = standardise(call, C, {plan.own[0], plan.own[1], plan.own[2]}, sum, squares);
  } else {
    level[0] = channel == 0 ? call.levels.of[0] : channel == 1 ? call.levels.of[1] : call.levels.of[2];
  }
#pragma unroll
  for (int k = 1; k < C; k++) level[k] = level_from(level[0], (channel + k) % C);
}

/* d = pred - t of round u. */
template <int C, class T>
NP_DEVICE void difference(const loss_call &call, int u, np_shared<T> held, uint32_t word, const np_level (&level)[C],
                          float (&d)[WIDE]) {
  np_vec<T, WIDE> pred;
  pred.word = np_shared_as<decltype(pred.word)>(held + u * NP_WARP * WIDE)[0];
  np_vec_get(pred, d);
#pragma unroll
  for (int i = 0; i < WIDE; i++) d[i] -= np_level_at(level[entry<C>(u, i)], np_byte(word, i, call.levels.zero));
}

/* The lane's share of Σ (pred - t)² over a row, and of its gradient. Squares are added in float32, a lane's few; in
 * float64 where that overflows, so that no finite difference has an infinite square. dpred: the lane's first, or NULL.
 */
template <class T, int C, int FULL, int ROUNDS>
NP_DEVICE double compare(const loss_call &call, np_shared<T> held, const uint32_t (&word)[ROUNDS],
                         const np_level (&level)[C], float step, T *dpred) {
  float squares = 0.0f, d[WIDE];
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    if (!in_row<FULL>(call, u)) continue;
    difference<C>(call, u, held, word[u], level, d);
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
      squares = fmaf(d[i], d[i], squares);
      d[i] *= step;
    }
    if (dpred) np_store_all(dpred + u * NP_WARP * WIDE, d);
  }
  if (squares <= 1e38f) return static_cast<double>(squares);
  double sum = 0.0; /* beyond float32, or not a number */
#pragma unroll
  for (int u = 0; u < ROUNDS; u++) {
    if (!in_row<FULL>(call, u)) continue;
    difference<C>(call, u, held, word[u], level, d);
#pragma unroll
    for (int i = 0; i < WIDE; i++) sum += static_cast<double>(d[i]) * static_cast<double>(d[i]);
  }
  return sum;
}

/* losses[block] is the sum over the block's rows. pred may be dpred: a row is written after it has arrived. */
template <class T, int C, int FULL, int ROUNDS>
NP_KERNEL_BLOCKS(THREADS, sizeof(T) == 2 ? BLOCKS : BLOCKS - 1)
pixel_loss(loss_call call, const T *pred, T *dpred) {
  enum { SLOT = ROUNDS * NP_WARP * WIDE };
  const np_shared<double> room = np_shared_at<double>(0); /* [WARPS], then the plan */
  const np_shared<T> slots =                              /* [WARPS, SLOTS, SLOT], of which the lane's first */
      np_shared_at<T>(WARPS * sizeof(double) + PLAN_BYTES) + np_warp() * SLOTS * SLOT + np_lane() * WIDE;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS;
  int64_t r = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp();
  np_next_may_start();
  for (int k = 0; k < SLOTS - 1; k++) fetch_predictions<FULL, ROUNDS>(call, r + k * stride, pred, slots + k * SLOT);

  const float step = dpred ? 2.0f * *call.scale / static_cast<float>(call.values) : 0.0f;
  int64_t targets = target_byte<C>(call, r + np_lane() * stride); /* lane k: of row r + k·stride; 32 at a time */
  const lane_plan<C> plan = plan_lane<C, ROUNDS>(call, WARPS * sizeof(double));
  byte_pairs<ROUNDS> pairs;
  int64_t target = np_shuffle(targets, 0);
  read_patch<FULL>(call, plan, target, pairs);
  double loss = 0.0;
  int slot = 0;
  for (int k = 1; r < call.rows; k++, r += stride) {
    const bool counts = target >= 0;
    uint32_t word[ROUNDS];
#pragma unroll
    for (int u = 0; u < ROUNDS; u++) word[u] = pairs.first[u] | pairs.second[u] << 16;
    if (k % NP_WARP == 0) targets = target_byte<C>(call, r + (1 + np_lane()) * stride);
    target = np_shuffle(targets, k % NP_WARP);
    read_patch<FULL>(call, plan, target, pairs);
    const int last = slot == 0 ? SLOTS - 1 : slot - 1; /* of the row before: free */
    fetch_predictions<FULL, ROUNDS>(call, r + (SLOTS - 1) * stride, pred, slots + last * SLOT);

    T *to = dpred ? dpred + r * call.values + np_lane() * WIDE : nullptr;
    if (counts) {
      np_level level[C];
      find_levels(call, plan, word, level);
      np_copy_wait<SLOTS - 1>();
      loss += compare<T, C, FULL, ROUNDS>(call, slots + slot * SLOT, word, level, step, to);
    } else {
      const float zeros[WIDE] = {};
#pragma unroll
      for (int u = 0; u < ROUNDS; u++)
        if (to && in_row<FULL>(call, u)) np_store_all(to + u * NP_WARP * WIDE, zeros);
    }
    slot = slot == SLOTS - 1 ? 0 : slot + 1;
  }
  np_copy_wait<0>(); /* a row without a target did not wait for its predictions */
  loss = np_block_sum(loss, THREADS, room);
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
  return standardise(call, call.pixels.channels, call.channel[c],
                     c == 0   ? sum[0]
                     : c == 1 ? sum[1]
                              : sum[2],
                     c == 0   ? squares[0]
                     : c == 1 ? squares[1]
                              : squares[2]);
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

template <class T, int C, int FULL, int ROUNDS>
static np_status launch_rounds(const np_gpu *gpu, const loss_call &call, int64_t blocks, const T *pred, T *dpred) {
  const size_t shared = WARPS * (sizeof(double) + SLOTS * ROUNDS * NP_WARP * WIDE * sizeof(T)) + PLAN_BYTES;
  return np_launch(gpu, "pixel_loss", pixel_loss<T, C, FULL, ROUNDS>, dim3(static_cast<unsigned>(blocks)), THREADS,
                   shared, call, pred, dpred);
}

template <class T>
static np_status launch(const np_gpu *gpu, const loss_call &call, int64_t blocks, const void *pred_, void *dpred_) {
  const np_pixels &p = call.pixels;
  const T *pred = static_cast<const T *>(pred_);
  T *dpred = static_cast<T *>(dpred_);
  const int rounds = (call.values + NP_WARP * WIDE - 1) / (NP_WARP * WIDE);
  if (p.u8 && np_aligned(p.u8, 2) && p.patch % 2 == 0 && np_aligned(pred, 16) && np_aligned(dpred, 16)) {
    if (p.channels == 1 && rounds <= 2) return launch_rounds<T, 1, 0, 2>(gpu, call, blocks, pred, dpred);
    if (p.channels == 3 && rounds <= 4) return launch_rounds<T, 3, 0, 4>(gpu, call, blocks, pred, dpred);
    if (p.channels == 3 && rounds == 5) return launch_rounds<T, 3, 4, 5>(gpu, call, blocks, pred, dpred);
    if (p.channels == 3 && rounds == 6) return launch_rounds<T, 3, 5, 6>(gpu, call, blocks, pred, dpred);
  }
  return np_launch(gpu, "pixel_loss", pixel_loss_any<T>, dim3(static_cast<unsigned>(blocks)), THREADS,
                   WARPS * sizeof(double), call, pred, dpred);
}

extern "C" np_status np_kernel_pixel_loss(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, int64_t rows,
                                          const int32_t *index, bool normalize, const float *scale, const void *pred,
                                          void *dpred, double *loss, bool accumulate, void *scratch) {
  np_status st = np_patch_check(pixels);
  if (st != NP_OK) return st;
  const int across = pixels->width / pixels->patch, each = pixels->patch * pixels->patch;
  loss_call call = {};
  call.pixels = *pixels, call.levels = np_levels_of(pixels);
  for (int c = 0; c < pixels->channels; c++) {
    const double mean = static_cast<double>(pixels->mean[c]), std = static_cast<double>(pixels->std[c]);
    call.channel[c] = {1.0 / (255.0 * std), -mean / std, 255.0 * std};
  }
  call.values = each * pixels->channels, call.across = across, call.tokens = across * (pixels->height / pixels->patch);
  call.each = each, call.per_each = 1.0 / each, call.per_channel = 1.0 / pixels->channels;
  call.per_free = 1.0 / (call.values - 1);
  call.rows = rows, call.normalize = normalize, call.index = index, call.scale = scale;
  call.losses = static_cast<double *>(scratch);
  const int held = act == NP_BF16 ? BLOCKS : BLOCKS - 1;
  const int64_t wanted = (rows + WARPS - 1) / WARPS, most = static_cast<int64_t>(gpu->processors) * held;
  const int64_t blocks = wanted < most ? wanted : most;
  st = act == NP_BF16 ? launch<np_bf16>(gpu, call, blocks, pred, dpred) : launch<float>(gpu, call, blocks, pred, dpred);
  return st == NP_OK ? np_total(gpu, "pixel_loss_total", blocks, call.losses, loss, accumulate) : st;
}
