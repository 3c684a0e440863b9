/* The table's entries that are one launch each. The launchers (kernels/kernels.h) share the operators' contracts; what
 * is added here is the stream, the scratch and the activation type. */
#include "ops/cuda/cuda.h"

/* ---- elements and rows ---- */

static np_status to_act(np_ops *ops, int64_t count, const float *in, void *out) {
  return np_kernel_to_act(&np_cuda_enter(ops)->gpu, ops->act, count, in, out);
}

static np_status axpy(np_ops *ops, int64_t count, float alpha, const void *x, float *y) {
  return np_kernel_axpy(&np_cuda_enter(ops)->gpu, ops->act, count, alpha, x, y);
}

static np_status patchify(np_ops *ops, const np_pixels *pixels, void *out) {
  return np_kernel_patchify(&np_cuda_enter(ops)->gpu, ops->act, pixels, out);
}

static np_status add_table(np_ops *ops, int64_t rows, int width, int tokens, const int32_t *index, const float *table,
                           void *x) {
  return np_kernel_add_table(&np_cuda_enter(ops)->gpu, ops->act, rows, width, tokens, index, table, x);
}

static np_status gather_rows(np_ops *ops, int64_t rows, int width, const int32_t *index, const void *x, void *y) {
  return np_kernel_gather_rows(&np_cuda_enter(ops)->gpu, ops->act, rows, width, index, x, y);
}

static np_status scatter_rows(np_ops *ops, int64_t rows, int64_t total, int width, const int32_t *index, const void *dy,
                              void *dx) {
  return np_kernel_scatter_rows(&np_cuda_enter(ops)->gpu, ops->act, rows, total, width, index, dy, dx);
}

static np_status column_sum(np_ops *ops, int64_t rows, int width, const void *x, float *out, bool accumulate) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  np_status st = np_cuda_scratch(core, np_kernel_column_sum_scratch(&core->gpu, width), &scratch);
  if (st != NP_OK) return st;
  return np_kernel_column_sum(&core->gpu, ops->act, rows, width, x, out, accumulate, scratch);
}

/* ---- norm and activation ---- */

static np_status norm_forward(np_ops *ops, int64_t rows, int width, float eps, const void *x, const void *delta,
                              const float *gain, const float *bias, void *sum, void *y, float *mean, float *rstd) {
  return np_kernel_norm_forward(&np_cuda_enter(ops)->gpu, ops->act, rows, width, eps, x, delta, gain, bias, sum, y,
                                mean, rstd);
}

static np_status norm_backward(np_ops *ops, int64_t rows, int width, const void *dy, const void *x, const float *mean,
                               const float *rstd, const float *gain, const void *residual, void *dx, float *dgain,
                               float *dbias, bool accumulate) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  np_status st = np_cuda_scratch(core, np_kernel_norm_backward_scratch(&core->gpu, width), &scratch);
  if (st != NP_OK) return st;
  return np_kernel_norm_backward(&core->gpu, ops->act, rows, width, dy, x, mean, rstd, gain, residual, dx, dgain, dbias,
                                 accumulate, scratch);
}

static np_status gelu_forward(np_ops *ops, int64_t count, const void *x, void *y) {
  return np_kernel_gelu_forward(&np_cuda_enter(ops)->gpu, ops->act, count, x, y);
}

static np_status gelu_backward(np_ops *ops, int64_t count, const void *x, const void *dy, void *dx) {
  return np_kernel_gelu_backward(&np_cuda_enter(ops)->gpu, ops->act, count, x, dy, dx);
}

/* ---- pixel loss ---- */

static np_status pixel_loss(np_ops *ops, const np_pixels *pixels, int64_t rows, const int32_t *index, bool normalize,
                            const float *scale, const void *pred, void *dpred, double *loss, bool accumulate) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  np_status st = np_cuda_scratch(core, np_kernel_pixel_loss_scratch(&core->gpu), &scratch);
  if (st != NP_OK) return st;
  return np_kernel_pixel_loss(&core->gpu, ops->act, pixels, rows, index, normalize, scale, pred, dpred, loss,
                              accumulate, scratch);
}

/* ---- probe ---- */

static np_status batch_moments(np_ops *ops, int64_t rows, int width, const float *x, const float *shift, double *sums) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  np_status st = np_cuda_scratch(core, np_kernel_batch_moments_scratch(&core->gpu, width), &scratch);
  if (st != NP_OK) return st;
  return np_kernel_batch_moments(&core->gpu, rows, width, x, shift, sums, scratch);
}

static np_status batch_norm(np_ops *ops, int64_t rows, int width, float eps, float momentum, const double *sums,
                            int64_t whole, const float *x, float *running_mean, float *running_var, float *y) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  np_status st = np_cuda_scratch(core, np_kernel_batch_norm_scratch(&core->gpu, width), &scratch);
  if (st != NP_OK) return st;
  return np_kernel_batch_norm(&core->gpu, rows, width, eps, momentum, sums, whole, x, running_mean, running_var, y,
                              scratch);
}

static np_status pool_forward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x, const float *u,
                              float *weight, float *pooled) {
  return np_kernel_pool_forward(&np_cuda_enter(ops)->gpu, batch, tokens, heads, width, x, u, weight, pooled);
}

static np_status pool_backward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x,
                               const float *weight, const float *dpooled, float *du, bool accumulate) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  size_t bytes = np_kernel_pool_backward_scratch(&core->gpu, batch, tokens, heads, width);
  np_status st = np_cuda_scratch(core, bytes, &scratch);
  if (st != NP_OK) return st;
  return np_kernel_pool_backward(&core->gpu, batch, tokens, heads, width, x, weight, dpooled, du, accumulate, scratch);
}

static np_status cross_entropy(np_ops *ops, int batch, int classes, float scale, const float *logits,
                               const int32_t *labels, float *dlogits, double *loss) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  np_status st = np_cuda_scratch(core, np_kernel_cross_entropy_scratch(&core->gpu, batch), &scratch);
  if (st != NP_OK) return st;
  return np_kernel_cross_entropy(&core->gpu, batch, classes, scale, logits, labels, dlogits, loss, scratch);
}

/* ---- optimiser ---- */

static np_status sum_squares(np_ops *ops, int64_t count, const float *g, double *out, bool accumulate) {
  np_cuda_core *core = np_cuda_enter(ops);
  void *scratch;
  np_status st = np_cuda_scratch(core, np_kernel_sum_squares_scratch(&core->gpu), &scratch);
  if (st != NP_OK) return st;
  return np_kernel_sum_squares(&core->gpu, count, g, out, accumulate, scratch);
}

static np_status adamw_prepare(np_ops *ops, const np_adamw *how, np_adamw_state *state) {
  return np_kernel_adamw_prepare(&np_cuda_enter(ops)->gpu, how, state);
}

static np_status adamw(np_ops *ops, const np_adamw *how, const np_adamw_state *state, int64_t count, const float *g,
                       float *w, float *m, float *v, void *low) {
  return np_kernel_adamw(&np_cuda_enter(ops)->gpu, ops->act, how, state, count, g, w, m, v, low);
}

void np_cuda_operations(np_ops *table) {
  table->to_act = to_act;
  table->axpy = axpy;
  table->patchify = patchify;
  table->add_table = add_table;
  table->gather_rows = gather_rows;
  table->scatter_rows = scatter_rows;
  table->column_sum = column_sum;
  table->norm_forward = norm_forward;
  table->norm_backward = norm_backward;
  table->gelu_forward = gelu_forward;
  table->gelu_backward = gelu_backward;
  table->pixel_loss = pixel_loss;
  table->batch_moments = batch_moments;
  table->batch_norm = batch_norm;
  table->pool_forward = pool_forward;
  table->pool_backward = pool_backward;
  table->cross_entropy = cross_entropy;
  table->sum_squares = sum_squares;
  table->adamw_prepare = adamw_prepare;
  table->adamw = adamw;
}
