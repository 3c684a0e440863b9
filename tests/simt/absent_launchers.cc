/* Launchers whose kernels are not there: refused. Weak, so that the kernel takes its place when it is. */
extern "C" {
#include "kernels/kernels.h"
}

extern "C" {
__attribute__((weak)) np_status np_kernel_to_act(const np_gpu *, np_dtype, int64_t, const float *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_to_act: no such kernel");
}
__attribute__((weak)) np_status np_kernel_axpy(const np_gpu *, np_dtype, int64_t, float, const void *, float *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_axpy: no such kernel");
}
__attribute__((weak)) np_status np_kernel_add_table(const np_gpu *, np_dtype, int64_t, int, int, const int32_t *,
                                                    const float *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_add_table: no such kernel");
}
__attribute__((weak)) np_status np_kernel_gather_rows(const np_gpu *, np_dtype, int64_t, int, const int32_t *,
                                                      const void *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_gather_rows: no such kernel");
}
__attribute__((weak)) np_status np_kernel_scatter_rows(const np_gpu *, np_dtype, int64_t, int64_t, int, const int32_t *,
                                                       const void *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_scatter_rows: no such kernel");
}
__attribute__((weak)) size_t np_kernel_column_sum_scratch(const np_gpu *, int) { return 0; }
__attribute__((weak)) np_status np_kernel_column_sum(const np_gpu *, np_dtype, int64_t, int, const void *, float *,
                                                     bool, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_column_sum: no such kernel");
}
__attribute__((weak)) np_status np_kernel_patchify(const np_gpu *, np_dtype, const np_pixels *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_patchify: no such kernel");
}
__attribute__((weak)) np_status np_kernel_norm_forward(const np_gpu *, np_dtype, int64_t, int, float, const void *,
                                                       const void *, const float *, const float *, void *, void *,
                                                       float *, float *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_norm_forward: no such kernel");
}
__attribute__((weak)) size_t np_kernel_norm_backward_scratch(const np_gpu *, int) { return 0; }
__attribute__((weak)) np_status np_kernel_norm_backward(const np_gpu *, np_dtype, int64_t, int, const void *,
                                                        const void *, const float *, const float *, const float *,
                                                        const void *, void *, float *, float *, bool, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_norm_backward: no such kernel");
}
__attribute__((weak)) np_status np_kernel_gelu_forward(const np_gpu *, np_dtype, int64_t, const void *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_gelu_forward: no such kernel");
}
__attribute__((weak)) np_status np_kernel_gelu_backward(const np_gpu *, np_dtype, int64_t, const void *, const void *,
                                                        void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_gelu_backward: no such kernel");
}
__attribute__((weak)) np_status np_kernel_attention_forward(const np_gpu *, const np_kernel_attention *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_attention_forward: no such kernel");
}
__attribute__((weak)) size_t np_kernel_attention_backward_scratch(const np_gpu *, int, int, int, int) { return 0; }
__attribute__((weak)) np_status np_kernel_attention_backward(const np_gpu *, const np_kernel_attention *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_attention_backward: no such kernel");
}
__attribute__((weak)) np_status np_kernel_attention_forward_f32(const np_gpu *, const np_kernel_attention *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_attention_forward_f32: no such kernel");
}
__attribute__((weak)) size_t np_kernel_attention_backward_f32_scratch(const np_gpu *, int, int, int, int) { return 0; }
__attribute__((weak)) np_status np_kernel_attention_backward_f32(const np_gpu *, const np_kernel_attention *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_attention_backward_f32: no such kernel");
}
__attribute__((weak)) bool np_kernel_attention_hopper_takes(const np_gpu *, int, int) { return false; }
__attribute__((weak)) np_status np_kernel_attention_hopper_forward(const np_gpu *, const np_kernel_attention *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_attention_hopper_forward: no such kernel");
}
__attribute__((weak)) size_t np_kernel_attention_hopper_backward_scratch(const np_gpu *, int, int, int, int) {
  return 0;
}
__attribute__((weak)) np_status np_kernel_attention_hopper_backward(const np_gpu *, const np_kernel_attention *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_attention_hopper_backward: no such kernel");
}
__attribute__((weak)) size_t np_kernel_pixel_loss_scratch(const np_gpu *) { return 0; }
__attribute__((weak)) np_status np_kernel_pixel_loss(const np_gpu *, np_dtype, const np_pixels *, int64_t,
                                                     const int32_t *, bool, const float *, const void *, void *,
                                                     double *, bool, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_pixel_loss: no such kernel");
}
__attribute__((weak)) size_t np_kernel_batch_norm_scratch(const np_gpu *, int) { return 0; }
__attribute__((weak)) np_status np_kernel_batch_norm(const np_gpu *, int64_t, int, float, float, bool, const float *,
                                                     float *, float *, float *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_batch_norm: no such kernel");
}
__attribute__((weak)) np_status np_kernel_pool_forward(const np_gpu *, int, int, int, int, const float *, const float *,
                                                       float *, float *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_pool_forward: no such kernel");
}
__attribute__((weak)) size_t np_kernel_pool_backward_scratch(const np_gpu *, int, int, int, int) { return 0; }
__attribute__((weak)) np_status np_kernel_pool_backward(const np_gpu *, int, int, int, int, const float *,
                                                        const float *, const float *, float *, bool, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_pool_backward: no such kernel");
}
__attribute__((weak)) size_t np_kernel_cross_entropy_scratch(const np_gpu *, int) { return 0; }
__attribute__((weak)) np_status np_kernel_cross_entropy(const np_gpu *, int, int, float, const float *, const int32_t *,
                                                        float *, double *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_cross_entropy: no such kernel");
}
__attribute__((weak)) size_t np_kernel_sum_squares_scratch(const np_gpu *) { return 0; }
__attribute__((weak)) np_status np_kernel_sum_squares(const np_gpu *, int64_t, const float *, double *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_sum_squares: no such kernel");
}
__attribute__((weak)) np_status np_kernel_adamw_prepare(const np_gpu *, const np_adamw *, np_adamw_state *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_adamw_prepare: no such kernel");
}
__attribute__((weak)) np_status np_kernel_adamw(const np_gpu *, np_dtype, const np_adamw *, const np_adamw_state *,
                                                int64_t, const float *, float *, float *, float *, void *) {
  return np_error(NP_ERR_LIBRARY, "np_kernel_adamw: no such kernel");
}
}
