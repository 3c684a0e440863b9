/* Matrix products of the emulated GPU, in place of csrc/ops/cuda/matmul.c (cuBLASLt): the CPU backend's, in float32 of
 * bfloat16 operands, rounded once at the end. */
extern "C" {
#include "ops/cuda/cuda.h"
}
#include "queue.h"

#include <vector>

static std::vector<float> widened(int64_t count, np_dtype type, const void *from) {
  std::vector<float> out(type == NP_BF16 ? static_cast<size_t>(count) : 0);
  for (size_t i = 0; i < out.size(); i++) out[i] = np_bf16_to_f32(static_cast<const np_bf16 *>(from)[i]);
  return out;
}

static np_status product(np_ops *cpu, np_matmul shape, const void *a, const void *b, const float *bias, void *c) {
  const std::vector<float> wide_a = widened(shape.m * shape.k, shape.a_type, a);
  const std::vector<float> wide_b = widened(shape.k * shape.n, shape.b_type, b);
  std::vector<float> wide_c = widened(shape.m * shape.n, shape.c_type, c);
  np_bf16 *narrow_c = static_cast<np_bf16 *>(c);
  shape.a_type = shape.b_type = shape.c_type = NP_F32;
  np_status st = cpu->matmul(cpu, &shape, wide_a.empty() ? a : wide_a.data(), wide_b.empty() ? b : wide_b.data(), bias,
                             wide_c.empty() ? c : wide_c.data());
  for (size_t i = 0; i < wide_c.size(); i++) narrow_c[i] = np_bf16_from_f32(wide_c[i]);
  return st;
}

extern "C" {

np_status np_cuda_matmul_open(np_cuda_core *core) {
  np_ops *cpu;
  np_status st = np_ops_cpu(NP_F32, 1, &cpu); /* small products between fibers: no other threads */
  core->matmul = cpu;
  return st;
}

void np_cuda_matmul_close(np_cuda_core *core) {
  np_ops *cpu = static_cast<np_ops *>(core->matmul);
  if (cpu != nullptr) cpu->destroy(cpu);
}

np_status np_cuda_matmul(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias,
                         void *c) {
  np_ops *cpu = static_cast<np_ops *>(np_cuda_enter(ops)->matmul);
  return simt::submit([=, how = *shape] { return product(cpu, how, a, b, bias, c); });
}

void np_cuda_matmul_print(np_ops *, FILE *) {}
size_t np_cuda_matmul_version(void) { return 0; }
}
