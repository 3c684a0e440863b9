#include "ops/cuda/cuda.h"

np_status np_cuda_copy(np_ops *ops, void *to, const void *from, size_t bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  NP_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, core->gpu.stream));
out:
  return st;
}

np_status np_cuda_beside_copy(np_ops *ops, int signal, void *to, const void *from, size_t bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  void *stream;
  NP_TRY(np_cuda_beside_follow(ops, signal, &stream));
  NP_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
out:
  return st;
}
