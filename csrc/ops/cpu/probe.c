/* The attentive probe: batch normalisation, pooling by one query, cross-entropy. */
#include "ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

static int min_int(int a, int b) { return a < b ? a : b; }

/* ---- batch normalisation ---- */

enum { STRIP = 64 }; /* columns a part owns at a time; their sums stay in the first cache */

np_status np_cpu_batch_moments(np_ops *ops, int64_t rows, int width, const float *x, const float *shift, double *sums) {
  np_cpu *cpu = np_cpu_of(ops);
  const int strips = (width + STRIP - 1) / STRIP;
  memset(sums, 0, 2 * (size_t)width * sizeof *sums);
#pragma omp parallel for num_threads(cpu->threads) schedule(static) if (strips > 1)
  for (int s = 0; s < strips; s++) {
    const int left = s * STRIP, strip = min_int(STRIP, width - left);
    for (int power = 1; power <= 2; power++)
      cpu->simd->column_moment(rows, width, strip, power, x + left, shift + left, sums + (power - 1) * width + left);
  }
  return NP_OK;
}

/* mean and factor of a batch from its sums, and the running statistics moved. */
static void batch_factors(int width, float eps, float momentum, const double *sums, int64_t whole, float *running_mean,
                          float *running_var, float *mean, float *factor) {
  const double n = (double)whole;
  for (int j = 0; j < width; j++) {
    /* Rounding may leave a flat column's variance below 0. One row has no unbiased variance; the running one then takes
     * the biased, 0. */
    const double off = sums[j] / n, scatter = sums[width + j] - sums[j] * off;
    const double var = scatter > 0 || isnan(scatter) ? scatter / n : 0,
                 unbiased = whole > 1 ? var * (n / (n - 1)) : var;
    mean[j] = (float)((double)running_mean[j] + off);
    factor[j] = (float)(1.0 / sqrt(var + (double)eps));
    running_mean[j] = (1.0f - momentum) * running_mean[j] + momentum * mean[j];
    running_var[j] = (1.0f - momentum) * running_var[j] + momentum * (float)unbiased;
  }
}

np_status np_cpu_batch_norm(np_ops *ops, int64_t rows, int width, float eps, float momentum, const double *sums,
                            int64_t whole, const float *x, float *running_mean, float *running_var, float *y) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  size_t row_bytes = np_cpu_lines((size_t)width * sizeof(float));
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, 2 * row_bytes, &scratch));
  float *mean = scratch, *factor = (float *)((char *)scratch + row_bytes);
  if (sums) {
    batch_factors(width, eps, momentum, sums, whole, running_mean, running_var, mean, factor);
  } else {
    memcpy(mean, running_mean, (size_t)width * sizeof *mean);
    for (int j = 0; j < width; j++) factor[j] = 1.0f / sqrtf(running_var[j] + eps);
  }
  int parts = np_cpu_parts(cpu, rows, 1 + 16384 / width);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t end = np_cpu_border(rows, 1, parts, part + 1);
    for (int64_t r = np_cpu_border(rows, 1, parts, part); r < end; r++)
      cpu->simd->standardise(width, x + r * width, mean, factor, y + r * width);
  }
out:
  return st;
}

/* ---- pooling ---- */

/* to [columns, rows] = from [rows, columns] turned. */
static void turn(int rows, int columns, const float *from, float *to) {
  for (int r = 0; r < rows; r++)
    for (int j = 0; j < columns; j++) to[(int64_t)j * rows + r] = from[(int64_t)r * columns + j];
}

/* scores [N, h] = x_b [N, D] · u_turned [D, h]; weight_b [h, N] = softmax over N; pooled_b [h, D] = weight_b · x_b. */
static void pool_image(const np_simd *simd, int tokens, int heads, int width, const float *x, const float *u_turned,
                       float *scores, float *weight, float *pooled) {
  const np_tile_product score = {
      .m = tokens, .n = heads, .k = width, .a_row = width, .a_col = 1, .b_row = heads, .c_row = heads};
  const np_tile_product pool = {
      .m = heads, .n = width, .k = tokens, .a_row = tokens, .a_col = 1, .b_row = width, .c_row = width};
  simd->product(&score, x, u_turned, scores);
  turn(tokens, heads, scores, weight);
  for (int i = 0; i < heads; i++) {
    float *row = weight + (int64_t)i * tokens, top = -INFINITY, sum = 0.0f, shrink;
    simd->softmax(1, &tokens, tokens, row, &top, &sum, &shrink);
    simd->scale(tokens, 1.0f / sum, row);
  }
  simd->product(&pool, weight, x, pooled);
}

np_status np_cpu_pool_forward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x, const float *u,
                              float *weight, float *pooled) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  int parts = np_cpu_parts(cpu, batch, 1);
  size_t u_bytes = np_cpu_lines((size_t)heads * (size_t)width * sizeof(float));
  size_t scores_bytes = np_cpu_lines((size_t)heads * (size_t)tokens * sizeof(float));
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, u_bytes + (size_t)parts * scores_bytes, &scratch));
  turn(heads, width, u, scratch);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    float *scores = (float *)((char *)scratch + u_bytes + (size_t)part * scores_bytes);
    int64_t end = np_cpu_border(batch, 1, parts, part + 1);
    for (int64_t b = np_cpu_border(batch, 1, parts, part); b < end; b++)
      pool_image(cpu->simd, tokens, heads, width, x + b * tokens * width, scratch, scores, weight + b * heads * tokens,
                 pooled + b * heads * width);
  }
out:
  return st;
}

/* Working memory of one part of pool_backward. */
typedef struct pool_work {
  float *du, *turned, *slopes; /* [h, D], [D, h], [N, h] */
  float *ds;                   /* [h, N] */
} pool_work;

/* slopes [N, h] = x_b · dpooled_bᵀ is the gradient by the weights; through the softmax ds = w·(slope - Σ w·slope);
 * du += ds [h, N] · x_b [N, D]. */
static void pool_image_backward(const np_simd *simd, int tokens, int heads, int width, const float *x,
                                const float *weight, const float *dpooled, const pool_work *work) {
  const np_tile_product slope = {
      .m = tokens, .n = heads, .k = width, .a_row = width, .a_col = 1, .b_row = heads, .c_row = heads};
  const np_tile_product gather = {.m = heads,
                                  .n = width,
                                  .k = tokens,
                                  .a_row = tokens,
                                  .a_col = 1,
                                  .b_row = width,
                                  .c_row = width,
                                  .accumulate = true};
  turn(heads, width, dpooled, work->turned);
  simd->product(&slope, x, work->turned, work->slopes);
  turn(tokens, heads, work->slopes, work->ds);
  for (int i = 0; i < heads; i++) {
    const float *w = weight + (int64_t)i * tokens;
    float *ds = work->ds + (int64_t)i * tokens;
    double mean = 0.0;
    for (int n = 0; n < tokens; n++) mean += (double)w[n] * (double)ds[n];
    for (int n = 0; n < tokens; n++) ds[n] = w[n] * (ds[n] - (float)mean);
  }
  simd->product(&gather, work->ds, x, work->du);
}

np_status np_cpu_pool_backward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x,
                               const float *weight, const float *dpooled, float *du, bool accumulate) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  int parts = np_cpu_parts(cpu, batch, 1);
  size_t du_bytes = np_cpu_lines((size_t)heads * (size_t)width * sizeof(float));
  size_t ds_bytes = np_cpu_lines((size_t)heads * (size_t)tokens * sizeof(float));
  size_t part_bytes = 2 * du_bytes + 2 * ds_bytes;
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, (size_t)parts * part_bytes, &scratch));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    char *at = (char *)scratch + (size_t)part * part_bytes;
    pool_work work = {.du = (float *)at,
                      .turned = (float *)(at + du_bytes),
                      .slopes = (float *)(at + 2 * du_bytes),
                      .ds = (float *)(at + 2 * du_bytes + ds_bytes)};
    memset(work.du, 0, du_bytes);
    int64_t end = np_cpu_border(batch, 1, parts, part + 1);
    for (int64_t b = np_cpu_border(batch, 1, parts, part); b < end; b++)
      pool_image_backward(cpu->simd, tokens, heads, width, x + b * tokens * width, weight + b * heads * tokens,
                          dpooled + b * heads * width, &work);
  }
  np_cpu_add_parts(cpu, parts, (int64_t)heads * width, scratch, part_bytes, du, accumulate);
out:
  return st;
}

/* ---- cross-entropy ---- */

np_status np_cpu_cross_entropy(np_ops *ops, int batch, int classes, float scale, const float *logits,
                               const int32_t *labels, float *dlogits, double *loss) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, (size_t)batch * sizeof(double), &scratch));
  double *losses = scratch, sum = 0.0;
  int parts = np_cpu_parts(cpu, batch, 1 + 8192 / classes);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t end = np_cpu_border(batch, 8, parts, part + 1);
    for (int64_t b = np_cpu_border(batch, 8, parts, part); b < end; b++)
      losses[b] = cpu->simd->cross_entropy(classes, scale, logits + b * classes, labels[b],
                                           dlogits ? dlogits + b * classes : NULL);
  }
  for (int b = 0; b < batch; b++) sum += losses[b];
  loss[0] = sum;
out:
  return st;
}
