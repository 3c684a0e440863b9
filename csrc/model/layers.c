/* Linear layers and norms by their place in the parameter table: forward and backward as calls on the operator table.
 */
#include "model/internal.h"

/* A matrix as the products read it: the low-precision copy, or the master itself in float32. */
static const void *operand(const np_model *m, int param) {
  int64_t offset = m->params.items[param].offset;
  return m->low ? (const void *)((const unsigned char *)m->low + (size_t)offset * m->act_size) : m->weights + offset;
}

np_status np_linear_forward(np_model *m, int64_t rows, int weight, int bias, const void *x, void *y) {
  const np_param *w = &m->params.items[weight];
  np_dtype act = m->ops->act;
  np_matmul shape = {
      .m = rows, .n = w->rows, .k = w->columns, .transpose_b = true, .a_type = act, .b_type = act, .c_type = act};
  return m->ops->matmul(m->ops, &shape, x, operand(m, weight), bias < 0 ? NULL : np_weight(m, bias), y);
}

np_status np_linear_backward(np_model *m, int64_t rows, int weight, int bias, const void *dy, const void *x, void *dx,
                             bool accumulate) {
  np_status st = NP_OK;
  const np_param *w = &m->params.items[weight];
  np_dtype act = m->ops->act;
  np_matmul gradient = {.m = w->rows,
                        .n = w->columns,
                        .k = rows,
                        .transpose_a = true,
                        .a_type = act,
                        .b_type = act,
                        .c_type = NP_F32,
                        .accumulate = accumulate};
  NP_TRY(m->ops->matmul(m->ops, &gradient, dy, x, NULL, np_grad(m, weight)));
  if (bias >= 0) NP_TRY(m->ops->column_sum(m->ops, rows, (int)w->rows, dy, np_grad(m, bias), accumulate));
  if (dx) {
    np_matmul data = {.m = rows, .n = w->columns, .k = w->rows, .a_type = act, .b_type = act, .c_type = act};
    NP_TRY(m->ops->matmul(m->ops, &data, dy, operand(m, weight), NULL, dx));
  }
out:
  return st;
}

np_status np_norm_forward(np_model *m, int64_t rows, int gain, int bias, const void *x, const void *delta, void *sum,
                          void *y, float *mean, float *rstd) {
  return m->ops->norm_forward(m->ops, rows, (int)m->params.items[gain].count, (float)m->config.norm_eps, x, delta,
                              np_weight(m, gain), np_weight(m, bias), sum, y, mean, rstd);
}

np_status np_norm_backward(np_model *m, int64_t rows, int gain, int bias, const void *dy, const void *x,
                           const float *mean, const float *rstd, const void *residual, void *dx, bool accumulate) {
  return m->ops->norm_backward(m->ops, rows, (int)m->params.items[gain].count, dy, x, mean, rstd, np_weight(m, gain),
                               residual, dx, np_grad(m, gain), np_grad(m, bias), accumulate);
}
