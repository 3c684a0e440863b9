/* The launchers of the CUDA kernels: one or two an operation of csrc/ops/ops.h, whose contract they share, letters and all.
 *
 * All pointers are device memory, `act` is NP_F32 or NP_BF16, work is queued on gpu->stream, and nothing waits. Scratch is
 * device memory, 256-byte aligned, of at least as many bytes as the function beside the launcher says; that number depends
 * on widths, batch and the GPU, never on a number of rows that varies from step to step. A launcher returns NP_OK, or an
 * error that names the kernel: NP_ERR_ARGUMENT for a shape that it cannot take, NP_ERR_LIBRARY for a refused launch.
 * Results are the same bits whenever inputs are: no atomics, fixed orders of sums. */
#ifndef NP_KERNELS_KERNELS_H
#define NP_KERNELS_KERNELS_H

#include "kernels/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "ops/ops.h" /* and np_error behind it: C symbols too */

/* ---- elements.cu ---- */
np_status np_kernel_to_act(const np_gpu *gpu, np_dtype act, int64_t count, const float *in, void *out);
np_status np_kernel_axpy(const np_gpu *gpu, np_dtype act, int64_t count, float alpha, const void *x, float *y);

/* ---- rows.cu ---- */
np_status np_kernel_add_table(const np_gpu *gpu, np_dtype act, int64_t rows, int width, int tokens, const int32_t *index,
                              const float *table, void *x);
np_status np_kernel_gather_rows(const np_gpu *gpu, np_dtype act, int64_t rows, int width, const int32_t *index, const void *x,
                                void *y);
np_status np_kernel_scatter_rows(const np_gpu *gpu, np_dtype act, int64_t rows, int64_t total, int width,
                                 const int32_t *index, const void *dy, void *dx);
size_t np_kernel_column_sum_scratch(const np_gpu *gpu, int width);
np_status np_kernel_column_sum(const np_gpu *gpu, np_dtype act, int64_t rows, int width, const void *x, float *out,
                               bool accumulate, void *scratch);

/* ---- patchify.cu ---- */
np_status np_kernel_patchify(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, void *out);

/* ---- norm_forward.cu, norm_backward.cu ---- */
np_status np_kernel_norm_forward(const np_gpu *gpu, np_dtype act, int64_t rows, int width, float eps, const void *x,
                                 const void *delta, const float *gain, const float *bias, void *sum, void *y, float *mean,
                                 float *rstd);
size_t np_kernel_norm_backward_scratch(const np_gpu *gpu, int width);
np_status np_kernel_norm_backward(const np_gpu *gpu, np_dtype act, int64_t rows, int width, const void *dy, const void *x,
                                  const float *mean, const float *rstd, const float *gain, const void *residual, void *dx,
                                  float *dgain, float *dbias, bool accumulate, void *scratch);

/* ---- gelu.cu ---- */
np_status np_kernel_gelu_forward(const np_gpu *gpu, np_dtype act, int64_t count, const void *x, void *y);
np_status np_kernel_gelu_backward(const np_gpu *gpu, np_dtype act, int64_t count, const void *x, const void *dy, void *dx);

/* ---- attention_*.cu ---- */
typedef struct np_kernel_attention {
  int batch, tokens, heads, head_width; /* B, N, h, d */
  np_dtype act;
  const int32_t *prefix; /* [B] or NULL */
  const void *qkv;       /* [B, N, 3, h, d] act */
  void *out;             /* [B, N, h, d] act; read by the backward pass */
  float *lse;            /* [B, h, N]; forward: NULL where not kept */
  const void *dout;      /* [B, N, h, d] act; backward alone, as are the rest */
  void *dqkv;            /* [B, N, 3, h, d] act */
  void *scratch;
} np_kernel_attention;

/* attention_forward.cu, attention_backward.cu: tensor cores from sm_80 on; bf16 with d a multiple of 8 up to 128. */
np_status np_kernel_attention_forward(const np_gpu *gpu, const np_kernel_attention *attention);
size_t np_kernel_attention_backward_scratch(const np_gpu *gpu, int batch, int tokens, int heads, int head_width);
np_status np_kernel_attention_backward(const np_gpu *gpu, const np_kernel_attention *attention);
/* attention_f32.cu: true float32, d a multiple of 4 up to 256. */
np_status np_kernel_attention_forward_f32(const np_gpu *gpu, const np_kernel_attention *attention);
size_t np_kernel_attention_backward_f32_scratch(const np_gpu *gpu, int batch, int tokens, int heads, int head_width);
np_status np_kernel_attention_backward_f32(const np_gpu *gpu, const np_kernel_attention *attention);
/* attention_describe.cu: one line each for the forward and the backward pass of these, which instantiation, tiles, shared
 * memory, blocks and why, or why not; as snprintf. Of the descriptor only shapes and act are read. */
int np_kernel_attention_describe(const np_gpu *gpu, const np_kernel_attention *attention, char *text, size_t size);
/* attention_hopper_forward.cu, attention_hopper_backward.cu: wgmma and TMA, sm_90a alone; bf16 with d = 32, 64, 96 or
 * 128. */
bool np_kernel_attention_hopper_takes(const np_gpu *gpu, int tokens, int head_width);
np_status np_kernel_attention_hopper_forward(const np_gpu *gpu, const np_kernel_attention *attention);
size_t np_kernel_attention_hopper_backward_scratch(const np_gpu *gpu, int batch, int tokens, int heads, int head_width);
np_status np_kernel_attention_hopper_backward(const np_gpu *gpu, const np_kernel_attention *attention);

/* ---- pixel_loss.cu ---- */
size_t np_kernel_pixel_loss_scratch(const np_gpu *gpu);
np_status np_kernel_pixel_loss(const np_gpu *gpu, np_dtype act, const np_pixels *pixels, int64_t rows, const int32_t *index,
                               bool normalize, const float *scale, const void *pred, void *dpred, double *loss,
                               bool accumulate, void *scratch);

/* ---- batch_norm.cu, pool.cu, cross_entropy.cu: float32 ---- */
size_t np_kernel_batch_moments_scratch(const np_gpu *gpu, int width);
np_status np_kernel_batch_moments(const np_gpu *gpu, int64_t rows, int width, const float *x, const float *shift,
                                  double *sums, void *scratch);
size_t np_kernel_batch_norm_scratch(const np_gpu *gpu, int width);
np_status np_kernel_batch_norm(const np_gpu *gpu, int64_t rows, int width, float eps, float momentum,
                               const double *sums, int64_t whole, const float *x, float *running_mean,
                               float *running_var, float *y, void *scratch);
np_status np_kernel_pool_forward(const np_gpu *gpu, int batch, int tokens, int heads, int width, const float *x,
                                 const float *u, float *weight, float *pooled);
size_t np_kernel_pool_backward_scratch(const np_gpu *gpu, int batch, int tokens, int heads, int width);
np_status np_kernel_pool_backward(const np_gpu *gpu, int batch, int tokens, int heads, int width, const float *x,
                                  const float *weight, const float *dpooled, float *du, bool accumulate, void *scratch);
size_t np_kernel_cross_entropy_scratch(const np_gpu *gpu, int batch);
np_status np_kernel_cross_entropy(const np_gpu *gpu, int batch, int classes, float scale, const float *logits,
                                  const int32_t *labels, float *dlogits, double *loss, void *scratch);

/* ---- optimiser.cu ---- */
size_t np_kernel_sum_squares_scratch(const np_gpu *gpu);
np_status np_kernel_sum_squares(const np_gpu *gpu, int64_t count, const float *g, double *out, bool accumulate, void *scratch);
np_status np_kernel_adamw_prepare(const np_gpu *gpu, const np_adamw *how, np_adamw_state *state);
np_status np_kernel_adamw(const np_gpu *gpu, np_dtype act, const np_adamw *how, const np_adamw_state *state, int64_t count,
                          const float *g, float *w, float *m, float *v, void *low);

#ifdef __cplusplus
}
#endif

#endif
