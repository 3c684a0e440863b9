/* The pixel head: token-wise blocks over the loss tokens alone.
 *
 *   post [G, D] ─ decoder_projection + table → x [G, E] ─ M blocks → decoder_norm → decoder_pred → pred [G, P·P·C]
 *
 * The loss looks at patches k+1 >= S only, so the trunk hands over tokens S-1 .. N-2 and no others (architecture.md,
 * decision 8). G is rounded up, so that few distinct matrix shapes occur: the rows behind the last token stand for
 * nothing, and a zero row of gradient adds nothing to any parameter's gradient. A block is x += mlp(norm_2(x));
 * head_block l3m puts x += norm_1(x) before it. */
#include "model/internal.h"

/* `before`: what the residual stream held when its last branch, in `delta`, was not yet added; NULL where x stands: in
 * the first block, and when the backward pass makes the block's insides again. */
static np_status block_inside(np_model *m, const np_block_params *p, np_head_acts *a, const void *before) {
  np_status st = NP_OK;
  int64_t rows = m->rows.padded, hidden = (int64_t)m->config.head_width * m->config.mlp_ratio;
  const void *x = before ? before : a->x, *delta = before ? m->delta : NULL;
  void *sum = before ? a->x : NULL;
  if (m->config.head_block == NP_HEAD_L3M) {
    NP_TRY(np_norm_forward(m, rows, p->norm1_gain, p->norm1_bias, x, delta, sum, m->branch, a->mean1, a->rstd1));
    x = a->x, delta = m->branch, sum = a->mid;
  }
  NP_TRY(np_norm_forward(m, rows, p->norm2_gain, p->norm2_bias, x, delta, sum, a->n2, a->mean2, a->rstd2));
  NP_TRY(np_linear_forward(m, rows, p->fc1, -1, a->n2, a->fc1));
  NP_TRY(m->ops->gelu_forward(m->ops, rows * hidden, a->fc1, a->gelu));
out:
  return st;
}

static np_status block_forward(np_model *m, const np_block_params *p, np_head_acts *a, const void *before) {
  np_status st = NP_OK;
  NP_TRY(block_inside(m, p, a, before));
  NP_TRY(np_linear_forward(m, m->rows.padded, p->fc2, -1, a->gelu, m->delta));
out:
  return st;
}

np_status np_pixel_head_forward(np_model *m) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  int64_t rows = m->rows.padded;
  const void *before = NULL;
  NP_TRY(np_linear_forward(m, rows, m->decode_weight, m->decode_bias, m->post, m->head_acts[0].x));
  NP_TRY(
      m->ops->add_table(m->ops, rows, c->head_width, np_model_tokens(m), m->index, m->head_table, m->head_acts[0].x));
  for (int i = 0; i < c->head_blocks; i++) {
    NP_TRY(block_forward(m, &m->head_blocks[i], &m->head_acts[i], before));
    before = m->head_acts[i].mid;
  }
  NP_TRY(np_norm_forward(m, rows, m->decode_norm_gain, m->decode_norm_bias, before ? before : m->head_acts[0].x,
                         before ? m->delta : NULL, m->head_out, m->decoded, m->decode_mean, m->decode_rstd));
  NP_TRY(np_linear_forward(m, rows, m->pred_weight, m->pred_bias, m->decoded, m->pred));
out:
  return st;
}

/* grad_x: gradient of the block's output on entry, of its input on return. */
static np_status block_backward(np_model *m, const np_block_params *p, const np_head_acts *a, bool accumulate) {
  np_status st = NP_OK;
  bool again = m->options.recompute == NP_RECOMPUTE_GELU_NORM;
  int64_t rows = m->rows.padded, hidden = (int64_t)m->config.head_width * m->config.mlp_ratio;
  if (again) NP_TRY(m->ops->gelu_forward(m->ops, rows * hidden, a->fc1, a->gelu));
  NP_TRY(np_linear_backward(m, rows, p->fc2, -1, m->grad_x, a->gelu, m->grad_wide, accumulate));
  NP_TRY(m->ops->gelu_backward(m->ops, rows * hidden, a->fc1, m->grad_wide, m->grad_wide));
  if (again) NP_TRY(np_norm_forward(m, rows, p->norm2_gain, p->norm2_bias, a->mid, NULL, NULL, a->n2, NULL, NULL));
  NP_TRY(np_linear_backward(m, rows, p->fc1, -1, m->grad_wide, a->n2, m->grad_y, accumulate));
  NP_TRY(np_norm_backward(m, rows, p->norm2_gain, p->norm2_bias, m->grad_y, a->mid, a->mean2, a->rstd2, m->grad_x,
                          m->grad_x, accumulate));
  if (m->config.head_block == NP_HEAD_L3M)
    NP_TRY(np_norm_backward(m, rows, p->norm1_gain, p->norm1_bias, m->grad_x, a->x, a->mean1, a->rstd1, m->grad_x,
                            m->grad_x, accumulate));
out:
  return st;
}

np_status np_pixel_head_backward(np_model *m, bool accumulate) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  int64_t rows = m->rows.padded;
  NP_TRY(np_linear_backward(m, rows, m->pred_weight, m->pred_bias, m->pred, m->decoded, m->grad_y, accumulate));
  NP_TRY(np_norm_backward(m, rows, m->decode_norm_gain, m->decode_norm_bias, m->grad_y, m->head_out, m->decode_mean,
                          m->decode_rstd, NULL, m->grad_x, accumulate));
  NP_TRY(np_model_complete(m, m->decode_norm_bias));
  for (int i = c->head_blocks - 1; i >= 0; i--) {
    if (m->options.recompute == NP_RECOMPUTE_BLOCK && i < c->head_blocks - 1)
      NP_TRY(block_inside(m, &m->head_blocks[i], &m->head_acts[i], NULL));
    NP_TRY(block_backward(m, &m->head_blocks[i], &m->head_acts[i], accumulate));
    NP_TRY(np_model_complete(m, m->head_blocks[i].norm1_bias));
  }
  NP_TRY(np_linear_backward(m, rows, m->decode_weight, m->decode_bias, m->grad_x, m->post, m->grad_y, accumulate));
  NP_TRY(np_model_complete(m, m->decode_bias));
out:
  return st;
}
