/* The exact GELU, forward and backward. */
#include "ops/cpu/cpu.h"

enum { LEAST_ELEMENTS = 1 << 13, GRAIN = 1024 };

np_status np_cpu_gelu_forward(np_ops *ops, int64_t count, const void *x, void *y) {
  np_cpu *cpu = np_cpu_of(ops);
  size_t size = np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, count, LEAST_ELEMENTS);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t begin = np_cpu_border(count, GRAIN, parts, part), end = np_cpu_border(count, GRAIN, parts, part + 1);
    size_t skip = (size_t)begin * size;
    cpu->simd->gelu_forward(cpu->bf16, end - begin, (const char *)x + skip, (char *)y + skip);
  }
  return NP_OK;
}

np_status np_cpu_gelu_backward(np_ops *ops, int64_t count, const void *x, const void *dy, void *dx) {
  np_cpu *cpu = np_cpu_of(ops);
  size_t size = np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, count, LEAST_ELEMENTS);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t begin = np_cpu_border(count, GRAIN, parts, part), end = np_cpu_border(count, GRAIN, parts, part + 1);
    size_t skip = (size_t)begin * size;
    cpu->simd->gelu_backward(cpu->bf16, end - begin, (const char *)x + skip, (const char *)dy + skip,
                             (char *)dx + skip);
  }
  return NP_OK;
}
