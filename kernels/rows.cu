/* Rows: position tables, gather and scatter of loss tokens, column sums. A warp takes a row, its lanes the row's
 * vectors; loads of several vectors are under way before the first is used. */
#include "kernels/kernels.h"
#include "kernels/parts.cuh"
#include "kernels/vector.cuh"

enum { THREADS = 256, WARPS = THREADS / NP_WARP, ROUND = 4 };
enum { SUM_BLOCKS = 3 }; /* of column_sum, to a multiprocessor */

/* ---- kernels ---- */

/* n divides width. */
template <class T, int n>
NP_KERNEL(THREADS)
add_table(int64_t rows, int width, int tokens, const int32_t *index, const float *table, T *x) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS;
  const int vectors = width / n;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp(); r < rows; r += stride) {
    if (index && index[r] < 0) continue;
    const float *from = table + (index ? index[r] % tokens : r % tokens) * width;
    T *to = x + r * width;
    for (int first = np_lane(); first < vectors; first += NP_WARP * ROUND) {
      np_vec<float, n> add[ROUND];
      np_vec<T, n> held[ROUND];
#pragma unroll
      for (int u = 0; u < ROUND; u++) {
        const int v = first + u * NP_WARP;
        if (v < vectors) {
          add[u] = np_vec_load<n>(from + v * n);
          held[u] = np_vec_load<n>(to + v * n);
        }
      }
#pragma unroll
      for (int u = 0; u < ROUND; u++) {
        const int v = first + u * NP_WARP;
        if (v < vectors) {
          float value[n], more[n];
          np_vec_get(held[u], value);
          np_vec_get(add[u], more);
#pragma unroll
          for (int j = 0; j < n; j++) value[j] += more[j];
          np_store_all(to + v * n, value);
        }
      }
    }
  }
}

/* One row of `words` words by one warp; from NULL: zeros. */
template <class Word> NP_DEVICE void copy_row(int64_t words, const Word *from, Word *to) {
  for (int64_t first = np_lane(); first < words; first += NP_WARP * ROUND) {
    Word held[ROUND] = {};
#pragma unroll
    for (int u = 0; u < ROUND; u++)
      if (from && first + u * NP_WARP < words) held[u] = from[first + u * NP_WARP];
#pragma unroll
    for (int u = 0; u < ROUND; u++)
      if (first + u * NP_WARP < words) to[first + u * NP_WARP] = held[u];
  }
}

template <class Word>
NP_KERNEL(THREADS)
gather_rows(int64_t rows, int64_t words, const int32_t *index, const Word *x, Word *y) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp(); r < rows; r += stride) {
    const int64_t from = index[r];
    copy_row(words, from < 0 ? nullptr : x + from * words, y + r * words);
  }
}

/* The first r with index[r] >= target, or < 0; `rows` when there is none. By a warp, which looks at 32 places at a
 * time: three steps for 32768 rows, where halving takes fifteen, each as long as a load. */
NP_DEVICE int64_t first_at_least(const int32_t *index, int64_t rows, int64_t target) {
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t step = (high - low + NP_WARP - 1) / NP_WARP, last = low + (np_lane() + 1) * step - 1;
    const bool before = last < high && index[last] >= 0 && index[last] < target;
    low += np_warp_count(before ? 1 : 0) * step;
    high = low + step - 1 < high ? low + step - 1 : high;
  }
  return low < rows ? low : rows;
}

/* Each row of dx is written once, as a copy or as zeros. A block takes 32 rows. They come from at most 32 rows of dy
 * that follow each other, for the index ascends: the r-th of them that is there comes from the r-th of those. Each warp
 * finds out for itself, so that none waits for another. */
template <class Word>
NP_KERNEL(THREADS)
scatter_rows(int64_t rows, int64_t total, int64_t words, const int32_t *index, const Word *dy, Word *dx) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * NP_WARP;
  for (int64_t t0 = static_cast<int64_t>(blockIdx.x) * NP_WARP; t0 < total; t0 += stride) {
    const int64_t r0 = first_at_least(index, rows, t0);
    const int64_t t = r0 + np_lane() < rows ? index[r0 + np_lane()] - t0 : -1;
    const uint32_t there = np_warp_count(t >= 0 && t < NP_WARP ? 1u << t : 0u); /* bit i: row t0 + i is a copy */
    for (int i = np_warp(); i < NP_WARP && t0 + i < total; i += WARPS) {
      const int64_t from = r0 + np_ones(there & ((1u << i) - 1));
      copy_row(words, there >> i & 1 ? dy + from * words : nullptr, dx + (t0 + i) * words);
    }
  }
}

/* n columns of rows r, r + 8, … before `end`; zeros beyond. */
template <class T, int n>
NP_DEVICE void load_rows(int64_t r, int64_t end, int width, const T *x, np_vec<T, n> (&held)[ROUND]) {
#pragma unroll
  for (int u = 0; u < ROUND; u++) {
    held[u] = {};
    if (r + u * WARPS < end) held[u] = np_vec_load<n>(x + (r + u * WARPS) * width);
  }
}

/* sums [parts, width]: block (x, y) adds the rows of part y in columns 32·n·x on, a warp every eighth row, and four of
 * them while the next four are on their way. */
template <class T, int n>
NP_KERNEL_BLOCKS(THREADS, SUM_BLOCKS)
column_sum(int64_t rows, int width, int parts, const T *x, float *sums) {
  const np_shared<float> room = np_shared_at<float>(0); /* [WARPS, n, 32] */
  np_next_may_start();
  const int part = static_cast<int>(blockIdx.y), left = static_cast<int>(blockIdx.x) * NP_WARP * n;
  const int column = left + np_lane() * n;
  const int64_t end = column < width ? np_part_begin(rows, parts, part + 1) : 0;
  float sum[n] = {};
  int64_t first = np_part_begin(rows, parts, part) + np_warp();
  np_vec<T, n> next[ROUND];
  load_rows(first, end, width, x + column, next);
#pragma unroll 2
  for (; first < end; first += WARPS * ROUND) {
    float value[ROUND][n];
    np_vec<T, n> held[ROUND];
#pragma unroll
    for (int u = 0; u < ROUND; u++) held[u] = next[u];
    load_rows(first + WARPS * ROUND, end, width, x + column, next);
#pragma unroll
    for (int u = 0; u < ROUND; u++) np_vec_get(held[u], value[u]);
#pragma unroll
    for (int j = 0; j < n; j++) sum[j] += (value[0][j] + value[1][j]) + (value[2][j] + value[3][j]);
  }
#pragma unroll
  for (int j = 0; j < n; j++) room[(np_warp() * n + j) * NP_WARP + np_lane()] = sum[j];
  np_block_sync();
  for (int i = static_cast<int>(threadIdx.x); i < NP_WARP * n && left + i < width; i += THREADS) {
    float total = 0.0f;
    for (int w = 0; w < WARPS; w++) total += room[(w * n + i % n) * NP_WARP + i / n];
    sums[static_cast<int64_t>(part) * width + left + i] = total;
  }
}

/* ---- launchers ---- */

static unsigned row_blocks(const np_gpu *gpu, int64_t rows) { return np_grid(gpu, (rows + WARPS - 1) / WARPS); }

template <class T, int n>
static np_status launch_add_table(const np_gpu *gpu, int64_t rows, int width, int tokens, const int32_t *index,
                                  const float *table, void *x) {
  return np_launch(gpu, "add_table", add_table<T, n>, dim3(row_blocks(gpu, rows)), THREADS, 0, rows, width, tokens,
                   index, table, static_cast<T *>(x));
}

extern "C" np_status np_kernel_add_table(const np_gpu *gpu, np_dtype act, int64_t rows, int width, int tokens,
                                         const int32_t *index, const float *table, void *x) {
  const bool aligned = np_aligned(table, 16) && np_aligned(x, 16);
  if (act == NP_BF16) {
    if (aligned && width % 8 == 0) return launch_add_table<np_bf16, 8>(gpu, rows, width, tokens, index, table, x);
    return launch_add_table<np_bf16, 1>(gpu, rows, width, tokens, index, table, x);
  }
  if (aligned && width % 4 == 0) return launch_add_table<float, 4>(gpu, rows, width, tokens, index, table, x);
  return launch_add_table<float, 1>(gpu, rows, width, tokens, index, table, x);
}

/* Rows are moved in the largest words that divide them and both tensors' addresses. */
static size_t word_bytes(size_t row_bytes, const void *a, const void *b) {
  size_t bytes = 16;
  while (bytes > 2 && (row_bytes % bytes != 0 || !np_aligned(a, bytes) || !np_aligned(b, bytes))) bytes /= 2;
  return bytes;
}

template <class Word>
static np_status launch_gather(const np_gpu *gpu, int64_t rows, size_t row_bytes, const int32_t *index, const void *x,
                               void *y) {
  return np_launch(gpu, "gather_rows", gather_rows<Word>, dim3(row_blocks(gpu, rows)), THREADS, 0, rows,
                   static_cast<int64_t>(row_bytes / sizeof(Word)), index, static_cast<const Word *>(x),
                   static_cast<Word *>(y));
}

extern "C" np_status np_kernel_gather_rows(const np_gpu *gpu, np_dtype act, int64_t rows, int width,
                                           const int32_t *index, const void *x, void *y) {
  const size_t row_bytes = static_cast<size_t>(width) * np_dtype_size(act);
  switch (word_bytes(row_bytes, x, y)) {
  case 16:
    return launch_gather<uint4>(gpu, rows, row_bytes, index, x, y);
  case 8:
    return launch_gather<uint2>(gpu, rows, row_bytes, index, x, y);
  case 4:
    return launch_gather<uint32_t>(gpu, rows, row_bytes, index, x, y);
  default:
    return launch_gather<uint16_t>(gpu, rows, row_bytes, index, x, y);
  }
}

template <class Word>
static np_status launch_scatter(const np_gpu *gpu, int64_t rows, int64_t total, size_t row_bytes, const int32_t *index,
                                const void *dy, void *dx) {
  return np_launch(gpu, "scatter_rows", scatter_rows<Word>, dim3(np_grid(gpu, (total + NP_WARP - 1) / NP_WARP)),
                   THREADS, 0, rows, total, static_cast<int64_t>(row_bytes / sizeof(Word)), index,
                   static_cast<const Word *>(dy), static_cast<Word *>(dx));
}

extern "C" np_status np_kernel_scatter_rows(const np_gpu *gpu, np_dtype act, int64_t rows, int64_t total, int width,
                                            const int32_t *index, const void *dy, void *dx) {
  const size_t row_bytes = static_cast<size_t>(width) * np_dtype_size(act);
  switch (word_bytes(row_bytes, dy, dx)) {
  case 16:
    return launch_scatter<uint4>(gpu, rows, total, row_bytes, index, dy, dx);
  case 8:
    return launch_scatter<uint2>(gpu, rows, total, row_bytes, index, dy, dx);
  case 4:
    return launch_scatter<uint32_t>(gpu, rows, total, row_bytes, index, dy, dx);
  default:
    return launch_scatter<uint16_t>(gpu, rows, total, row_bytes, index, dy, dx);
  }
}

/* The most parts a column sum has: as many blocks as are resident at once, over all strips of columns. */
static int column_parts(const np_gpu *gpu, int width) {
  const int strips = (width + 255) / 256, parts = gpu->processors * SUM_BLOCKS / (strips > 0 ? strips : 1);
  return parts > 1 ? parts : 1;
}

extern "C" size_t np_kernel_column_sum_scratch(const np_gpu *gpu, int width) {
  return static_cast<size_t>(column_parts(gpu, width)) * static_cast<size_t>(width) * sizeof(float);
}

template <class T, int n>
static np_status launch_column_sum(const np_gpu *gpu, int64_t rows, int width, int parts, const void *x, float *sums) {
  const unsigned strips = static_cast<unsigned>((width + NP_WARP * n - 1) / (NP_WARP * n));
  return np_launch(gpu, "column_sum", column_sum<T, n>, dim3(strips, static_cast<unsigned>(parts)), THREADS,
                   WARPS * NP_WARP * n * sizeof(float), rows, width, parts, static_cast<const T *>(x), sums);
}

extern "C" np_status np_kernel_column_sum(const np_gpu *gpu, np_dtype act, int64_t rows, int width, const void *x,
                                          float *out, bool accumulate, void *scratch) {
  np_status st = NP_OK;
  float *sums = static_cast<float *>(scratch);
  const int most = column_parts(gpu, width);
  const int64_t rounds = (rows + WARPS * ROUND - 1) / (WARPS * ROUND); /* a part is worth one round at least */
  const int parts = static_cast<int>(rounds < most ? rounds : most);
  const bool aligned = np_aligned(x, 16);
  if (act == NP_BF16) {
    if (aligned && width % 8 == 0) st = launch_column_sum<np_bf16, 8>(gpu, rows, width, parts, x, sums);
    else if (aligned && width % 4 == 0) st = launch_column_sum<np_bf16, 4>(gpu, rows, width, parts, x, sums);
    else st = launch_column_sum<np_bf16, 1>(gpu, rows, width, parts, x, sums);
  } else {
    if (aligned && width % 4 == 0) st = launch_column_sum<float, 4>(gpu, rows, width, parts, x, sums);
    else st = launch_column_sum<float, 1>(gpu, rows, width, parts, x, sums);
  }
  if (st != NP_OK) return st;
  return np_add_parts(gpu, "column_sum_parts", parts, width, width, sums, out, accumulate);
}
