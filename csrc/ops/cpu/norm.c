/* LayerNorm with the residual addition, forward and backward. */
#include "ops/cpu/cpu.h"

#include <string.h>

enum { LEAST_ELEMENTS = 1 << 14, BLOCK_ROWS = 64 };

static const void *row_of(const void *x, int64_t row, size_t row_bytes) {
  return x ? (const char *)x + (size_t)row * row_bytes : NULL;
}

static void *row_at(void *x, int64_t row, size_t row_bytes) { return x ? (char *)x + (size_t)row * row_bytes : NULL; }

np_status np_cpu_norm_forward(np_ops *ops, int64_t rows, int width, float eps, const void *x, const void *delta,
                              const float *gain, const float *bias, void *sum, void *y, float *mean, float *rstd) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  size_t bytes = (size_t)width * np_dtype_size(ops->act), work_bytes = np_cpu_lines((size_t)width * sizeof(float));
  int parts = np_cpu_parts(cpu, rows, 1 + LEAST_ELEMENTS / width);
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, (size_t)parts * work_bytes, &scratch));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    float *work = row_at(scratch, part, work_bytes);
    int64_t end = np_cpu_border(rows, 16, parts, part + 1);
    for (int64_t r = np_cpu_border(rows, 16, parts, part); r < end; r++)
      cpu->simd->norm_forward(cpu->bf16, width, eps, row_of(x, r, bytes), row_of(delta, r, bytes), gain, bias,
                              row_at(sum, r, bytes), row_at(y, r, bytes), mean ? mean + r : NULL,
                              rstd ? rstd + r : NULL, work);
  }
out:
  return st;
}

/* Each part keeps dgain and dbias of its rows, [2, width], and those of the block of rows at hand: a sum of block sums
 * loses less than one long chain. */
np_status np_cpu_norm_backward(np_ops *ops, int64_t rows, int width, const void *dy, const void *x, const float *mean,
                               const float *rstd, const float *gain, const void *residual, void *dx, float *dgain,
                               float *dbias, bool accumulate) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  size_t bytes = (size_t)width * np_dtype_size(ops->act), sum_bytes = np_cpu_lines((size_t)width * sizeof(float));
  int parts = np_cpu_parts(cpu, rows, 1 + LEAST_ELEMENTS / width);
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, (size_t)parts * 4 * sum_bytes, &scratch));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    float *gain_sum = row_at(scratch, 4 * part, sum_bytes), *bias_sum = row_at(gain_sum, 1, sum_bytes);
    float *gain_block = row_at(gain_sum, 2, sum_bytes), *bias_block = row_at(gain_sum, 3, sum_bytes);
    memset(gain_sum, 0, 2 * sum_bytes);
    int64_t r = np_cpu_border(rows, 1, parts, part), end = np_cpu_border(rows, 1, parts, part + 1);
    while (r < end) {
      int64_t block_end = r + BLOCK_ROWS < end ? r + BLOCK_ROWS : end;
      memset(gain_block, 0, 2 * sum_bytes);
      for (; r < block_end; r++)
        cpu->simd->norm_backward(cpu->bf16, width, row_of(dy, r, bytes), row_of(x, r, bytes), mean[r], rstd[r], gain,
                                 row_of(residual, r, bytes), row_at(dx, r, bytes), gain_block, bias_block);
      cpu->simd->add(false, width, gain_block, gain_sum);
      cpu->simd->add(false, width, bias_block, bias_sum);
    }
  }
  np_cpu_add_parts(cpu, parts, width, scratch, 4 * sum_bytes, dgain, accumulate);
  np_cpu_add_parts(cpu, parts, width, (char *)scratch + sum_bytes, 4 * sum_bytes, dbias, accumulate);
out:
  return st;
}
