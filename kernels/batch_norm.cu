/* Batch normalisation without gain or bias. Statistics take one pass: float64 sums of d and d², d being the distance
 * from a shift that all ranks have alike. Parts of the rows leave their sums in scratch, and a kernel adds them. Behind
 * what ranks do with the sums, one kernel makes factors of them and one applies those.
 *
 *   batch_moments   x → sums of parts [parts, 2, width] float64 (scratch) → sums [2, width]
 *   batch_norm      sums → mean [width], factor [width] float32 (scratch);  x, mean, factor → y */
#include "kernels/kernels.h"
#include "kernels/parts.cuh"
#include "kernels/vector.cuh"

enum { THREADS = 256, WARPS = THREADS / NP_WARP, ROUND = 4 };

/* ---- kernels ---- */

/* Block (x, y): columns 32·x on of part y; a lane takes a column, a warp every eighth row. */
NP_KERNEL(THREADS) moments(int64_t rows, int width, int parts, const float *x, const float *shift, double *sums) {
  const np_shared<double> room = np_shared_at<double>(0); /* [2, WARPS, 32] */
  const int part = static_cast<int>(blockIdx.y), column = static_cast<int>(blockIdx.x) * NP_WARP + np_lane();
  const int64_t end = np_part_begin(rows, parts, part + 1);
  double sum = 0.0, squares = 0.0;
  if (column < width) {
    const float from = shift[column];
    for (int64_t r = np_part_begin(rows, parts, part) + np_warp(); r < end; r += WARPS * ROUND) {
      float value[ROUND];
#pragma unroll
      for (int u = 0; u < ROUND; u++) value[u] = r + u * WARPS < end ? x[(r + u * WARPS) * width + column] : from;
#pragma unroll
      for (int u = 0; u < ROUND; u++) {
        const double d = static_cast<double>(value[u]) - static_cast<double>(from);
        sum += d;
        squares += d * d;
      }
    }
  }
  room[np_warp() * NP_WARP + np_lane()] = sum;
  room[(WARPS + np_warp()) * NP_WARP + np_lane()] = squares;
  np_block_sync();
  if (np_warp() >= 2 || column >= width) return; /* warp 0 adds the sums, warp 1 the squares */
  double total = 0.0;
  for (int w = 0; w < WARPS; w++) total += room[(np_warp() * WARPS + w) * NP_WARP + np_lane()];
  sums[(static_cast<int64_t>(part) * 2 + np_warp()) * width + column] = total;
}

/* sums [2, width] = the parts' sums. A lane takes a column, a warp every eighth part. */
NP_KERNEL(THREADS) add_moments(int width, int parts, const double *from, double *sums) {
  const np_shared<double> room = np_shared_at<double>(0); /* [2, WARPS, 32] */
  const int column = static_cast<int>(blockIdx.x) * NP_WARP + np_lane();
  double sum = 0.0, squares = 0.0;
  if (column < width) {
#pragma unroll 2
    for (int64_t p = np_warp(); p < parts; p += WARPS) {
      sum += from[2 * p * width + column];
      squares += from[(2 * p + 1) * width + column];
    }
  }
  room[np_warp() * NP_WARP + np_lane()] = sum;
  room[(WARPS + np_warp()) * NP_WARP + np_lane()] = squares;
  np_block_sync();
  if (np_warp() >= 2 || column >= width) return; /* as above */
  double total = 0.0;
  for (int w = 0; w < WARPS; w++) total += room[(np_warp() * WARPS + w) * NP_WARP + np_lane()];
  sums[static_cast<int64_t>(np_warp()) * width + column] = total;
}

/* mean and factor of the batch, and the running statistics moved. */
NP_KERNEL(THREADS)
batch_factors(int width, float eps, float momentum, const double *sums, int64_t whole, float *running_mean,
              float *running_var, float *mean, float *factor) {
  const int column = static_cast<int>(blockIdx.x) * THREADS + static_cast<int>(threadIdx.x);
  if (column >= width) return;
  /* Rounding may leave a flat column's variance below 0. One row has no unbiased variance; the running one then takes
   * the biased, 0. */
  const double sum = sums[column], n = static_cast<double>(whole), off = sum / n,
               scatter = sums[width + column] - sum * off;
  const double var = scatter > 0.0 || scatter != scatter ? scatter / n : 0.0,
               unbiased = whole > 1 ? var * (n / (n - 1.0)) : var;
  mean[column] = static_cast<float>(static_cast<double>(running_mean[column]) + off);
  factor[column] = static_cast<float>(1.0 / sqrt(var + static_cast<double>(eps)));
  running_mean[column] = (1.0f - momentum) * running_mean[column] + momentum * mean[column];
  running_var[column] = (1.0f - momentum) * running_var[column] + momentum * static_cast<float>(unbiased);
}

NP_KERNEL(THREADS)
running_factors(int width, float eps, const float *running_mean, const float *running_var, float *mean, float *factor) {
  const int column = static_cast<int>(blockIdx.x) * THREADS + static_cast<int>(threadIdx.x);
  if (column >= width) return;
  mean[column] = running_mean[column];
  factor[column] = 1.0f / sqrtf(running_var[column] + eps);
}

/* y = (x - mean)·factor; y may be x. A warp takes a row. n divides width. */
template <int n>
NP_KERNEL(THREADS)
standardise(int64_t rows, int width, const float *x, const float *mean, const float *factor, float *y) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * WARPS;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * WARPS + np_warp(); r < rows; r += stride) {
    for (int first = np_lane() * n; first < width; first += NP_WARP * n * ROUND) {
      np_vec<float, n> held[ROUND];
#pragma unroll
      for (int u = 0; u < ROUND; u++)
        if (first + u * NP_WARP * n < width) held[u] = np_vec_load<n>(x + r * width + first + u * NP_WARP * n);
#pragma unroll
      for (int u = 0; u < ROUND; u++) {
        const int column = first + u * NP_WARP * n;
        if (column >= width) continue;
        float value[n], m[n], f[n];
        np_vec_get(held[u], value);
        np_load_all(mean + column, m);
        np_load_all(factor + column, f);
#pragma unroll
        for (int j = 0; j < n; j++) value[j] = (value[j] - m[j]) * f[j];
        np_store_all(y + r * width + column, value);
      }
    }
  }
}

/* ---- launchers ---- */

static int most_parts(const np_gpu *gpu, int width) {
  const int strips = (width + NP_WARP - 1) / NP_WARP, parts = gpu->processors * 8 / (strips > 0 ? strips : 1);
  return parts > 1 ? parts : 1;
}

/* Floats of mean, and of factor: whole vectors. */
static size_t statistics_room(int width) { return (static_cast<size_t>(width) + 3) / 4 * 4; }

extern "C" size_t np_kernel_batch_moments_scratch(const np_gpu *gpu, int width) {
  return static_cast<size_t>(most_parts(gpu, width)) * 2 * static_cast<size_t>(width) * sizeof(double);
}

extern "C" np_status np_kernel_batch_moments(const np_gpu *gpu, int64_t rows, int width, const float *x,
                                             const float *shift, double *sums, void *scratch) {
  const int64_t rounds = (rows + WARPS * ROUND - 1) / (WARPS * ROUND);
  const int most = most_parts(gpu, width), parts = static_cast<int>(rounds < most ? rounds : most);
  const unsigned strips = static_cast<unsigned>((width + NP_WARP - 1) / NP_WARP);
  const size_t room = 2 * THREADS * sizeof(double);
  double *of_parts = static_cast<double *>(scratch);
  const np_status st = np_launch(gpu, "batch_moments", moments, dim3(strips, static_cast<unsigned>(parts)), THREADS,
                                 room, rows, width, parts, x, shift, of_parts);
  if (st != NP_OK) return st;
  return np_launch(gpu, "batch_moments_add", add_moments, dim3(strips), THREADS, room, width, parts, of_parts, sums);
}

extern "C" size_t np_kernel_batch_norm_scratch(const np_gpu *gpu, int width) {
  (void)gpu;
  return 2 * statistics_room(width) * sizeof(float);
}

extern "C" np_status np_kernel_batch_norm(const np_gpu *gpu, int64_t rows, int width, float eps, float momentum,
                                          const double *sums, int64_t whole, const float *x, float *running_mean,
                                          float *running_var, float *y, void *scratch) {
  np_status st = NP_OK;
  float *mean = static_cast<float *>(scratch), *factor = mean + statistics_room(width);
  const dim3 columns(static_cast<unsigned>((width + THREADS - 1) / THREADS));
  if (sums)
    st = np_launch(gpu, "batch_norm_factors", batch_factors, columns, THREADS, 0, width, eps, momentum, sums, whole,
                   running_mean, running_var, mean, factor);
  else
    st = np_launch(gpu, "batch_norm_running", running_factors, columns, THREADS, 0, width, eps, running_mean,
                   running_var, mean, factor);
  if (st != NP_OK) return st;
  const bool four = width % 4 == 0 && np_aligned(x, 16) && np_aligned(y, 16);
  return np_launch(gpu, "batch_norm", four ? standardise<4> : standardise<1>,
                   dim3(np_grid(gpu, (rows + WARPS - 1) / WARPS)), THREADS, 0, rows, width, x, mean, factor, y);
}
