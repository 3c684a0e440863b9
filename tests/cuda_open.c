/* The CUDA backend under the CPU's signature: tests of model and training, compiled with np_ops_cpu defined as this
 * name, run unchanged on a GPU, or on the emulated one (tests/simt). Without either the test is skipped. */
#include "ops/cuda.h"

#include <stdio.h>
#include <stdlib.h>

np_status np_test_cuda_open(np_dtype act, int threads, np_ops **out);

np_status np_test_cuda_open(np_dtype act, int threads, np_ops **out) {
  const np_cuda_options options = {.act = act, .device = -1};
  np_cuda_about about;
  (void)threads;
  if (np_cuda_look(-1, &about) != NP_OK) {
    printf("skipped: %s\n", np_error_message());
    exit(77);
  }
  return np_ops_cuda(&options, out);
}
