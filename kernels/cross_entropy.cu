/* Cross-entropy, a block a row: the largest logit, the sum of exponentials, the gradient. The row is read thrice, the
 * second and third time out of a cache. Losses of rows go to scratch [B] float64 and are added in order. */
#include "kernels/kernels.h"
#include "kernels/total.cuh"

enum { THREADS = 128, WARPS = THREADS / NP_WARP };

/* ---- kernels ---- */

/* dlogits may be logits: a thread writes what it alone has read, but for the label's logit, which is read before. */
NP_KERNEL(THREADS)
cross_entropy(int batch, int classes, float scale, const float *logits, const int32_t *labels, float *dlogits,
              double *losses) {
  const np_shared<float> tops = np_shared_at<float>(0);                     /* [WARPS] */
  const np_shared<float> sums = np_shared_at<float>(WARPS * sizeof(float)); /* [WARPS] */
  const int thread = static_cast<int>(threadIdx.x);
  for (int b = static_cast<int>(blockIdx.x); b < batch; b += static_cast<int>(gridDim.x)) {
    const float *row = logits + static_cast<int64_t>(b) * classes;
    const int label = labels[b];
    const float chosen = row[label];
    float top = row[0], sum = 0.0f;
    for (int j = thread; j < classes; j += THREADS) top = fmaxf(top, row[j]);
    top = np_warp_max(top);
    if (np_lane() == 0) tops[np_warp()] = top;
    np_block_sync();
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, tops[w]);
    for (int j = thread; j < classes; j += THREADS) sum += expf(row[j] - top);
    sum = np_block_sum(sum, THREADS, sums);
    if (thread == 0)
      losses[b] = log(static_cast<double>(sum)) - (static_cast<double>(chosen) - static_cast<double>(top));
    if (!dlogits) continue;
    const float factor = scale / sum;
    float *gradient = dlogits + static_cast<int64_t>(b) * classes;
    for (int j = thread; j < classes; j += THREADS)
      gradient[j] = factor * expf(row[j] - top) - (j == label ? scale : 0.0f);
  }
}

/* ---- launchers ---- */

extern "C" size_t np_kernel_cross_entropy_scratch(const np_gpu *gpu, int batch) {
  (void)gpu;
  return static_cast<size_t>(batch) * sizeof(double);
}

extern "C" np_status np_kernel_cross_entropy(const np_gpu *gpu, int batch, int classes, float scale,
                                             const float *logits, const int32_t *labels, float *dlogits, double *loss,
                                             void *scratch) {
  double *losses = static_cast<double *>(scratch);
  const int most = gpu->processors * 16, blocks = batch < most ? batch : most;
  const np_status st = np_launch(gpu, "cross_entropy", cross_entropy, dim3(static_cast<unsigned>(blocks)), THREADS,
                                 2 * WARPS * sizeof(float), batch, classes, scale, logits, labels, dlogits, losses);
  return st == NP_OK ? np_total(gpu, "cross_entropy_total", batch, losses, loss, false) : st;
}
