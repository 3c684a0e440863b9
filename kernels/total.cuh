/* The sum of float64 parts that blocks left in scratch, in a fixed order. */
#ifndef NP_KERNELS_TOTAL_CUH
#define NP_KERNELS_TOTAL_CUH

#include "kernels/device.cuh"

enum { NP_TOTAL_THREADS = 256 };

/* out[0] (+)= Σ from[i], i < count, by one block, which is in place when the blocks end. */
NP_KERNEL(NP_TOTAL_THREADS) np_total_kernel(int64_t count, const double *from, double *out, bool accumulate) {
  double sum = 0.0;
  np_previous_done();
  for (int64_t i = threadIdx.x; i < count; i += NP_TOTAL_THREADS) sum += from[i];
  sum = np_block_sum(sum, NP_TOTAL_THREADS, np_shared_at<double>(0));
  if (threadIdx.x == 0) out[0] = accumulate ? out[0] + sum : sum;
}

static inline np_status np_total(const np_gpu *gpu, const char *name, int64_t count, const double *from, double *out,
                                 bool accumulate) {
  return np_launch_close(gpu, name, np_total_kernel, dim3(1), NP_TOTAL_THREADS,
                         NP_TOTAL_THREADS / NP_WARP * sizeof(double), count, from, out, accumulate);
}

#endif
