/* The backend that golden cases run on: the CPU, or with backend=cuda the first GPU. */
#include "golden/golden.h"
#include "ops/cuda.h"

static np_backend chosen = NP_BACKEND_CPU;

np_status golden_backend(np_backend backend) {
  np_cuda_about about;
  chosen = backend;
  return backend == NP_BACKEND_CUDA ? np_cuda_look(-1, &about) : NP_OK;
}

np_status golden_ops(np_dtype act, np_ops *beside, np_ops **out) {
  const np_cuda_options options = {.act = act, .device = -1, .share = beside};
  return chosen == NP_BACKEND_CUDA ? np_ops_cuda(&options, out) : np_ops_cpu(act, 0, out);
}

bool golden_has_bf16(void) { return chosen == NP_BACKEND_CUDA || np_cpu_has_bf16(); }
