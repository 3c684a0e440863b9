/* The backend of the emulated GPU under the CPU's signature: tests of model and training, compiled with np_ops_cpu
 * defined as this name, run on it unchanged. */
#include "ops/cuda.h"

np_status np_simt_ops_open(np_dtype act, int threads, np_ops **out);

np_status np_simt_ops_open(np_dtype act, int threads, np_ops **out) {
  const np_cuda_options options = {.act = act, .device = -1};
  (void)threads;
  return np_ops_cuda(&options, out);
}
