/* The trunk: patches → embedding → pre-norm blocks → post_trunk_norm.
 *
 * The residual stream is never added up on its own: a branch leaves its output in `delta`, and the norm that follows
 * adds it, stores the sum and normalises it in one pass over the rows. A block, with shapes:
 *
 *   x [R, D] ─ norm_1 → n1 ─ qkv → [R, 3D] ─ attention → [R, D] ─ proj → delta
 *   mid = x + delta ─ norm_2 → n2 ─ fc1 → [R, 4D] ─ GELU → [R, 4D] ─ fc2 → delta      (added by the next block's
 * norm_1)
 */
#include "model/internal.h"

static np_status embed(np_model *m) {
  np_status st = NP_OK;
  int64_t rows = np_model_rows(m);
  void *x = m->acts[0].x;
  NP_TRY(m->ops->patchify(m->ops, &m->pixels, m->patches));
  NP_TRY(np_linear_forward(m, rows, m->embed_weight, m->embed_bias, m->patches, m->embedded));
  NP_TRY(np_norm_forward(m, rows, m->embed_norm_gain, m->embed_norm_bias, m->embedded, NULL, NULL, x, m->embed_mean,
                         m->embed_rstd));
  NP_TRY(m->ops->add_table(m->ops, rows, m->config.width, np_model_tokens(m), NULL, m->trunk_table, x));
out:
  return st;
}

/* A block up to its last product. `before`: what the residual stream held when its last branch, in `delta`, was not yet
 * added; NULL where x stands: in the first block, and when the backward pass makes the block's insides again. */
static np_status block_inside(np_model *m, const np_block_params *p, np_block_acts *a, const void *before, bool trim) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  int64_t rows = np_model_rows(m), hidden = (int64_t)c->width * c->mlp_ratio;
  const void *x = a->x, *attention = a->attention;
  NP_TRY(np_norm_forward(m, rows, p->norm1_gain, p->norm1_bias, before ? before : a->x, before ? m->delta : NULL,
                         before ? a->x : NULL, a->n1, a->mean1, a->rstd1));
  NP_TRY(np_linear_forward(m, rows, p->qkv, -1, a->n1, a->qkv));
  NP_TRY(m->ops->attention_forward(m->ops, m->count, np_model_tokens(m), c->heads, c->width / c->heads,
                                   m->bidirectional ? NULL : m->prefix, a->qkv, a->attention, a->lse));
  if (trim) {
    rows = m->rows.padded;
    NP_TRY(m->ops->gather_rows(m->ops, rows, c->width, m->index, a->x, a->mid)); /* the branch is added in place */
    NP_TRY(m->ops->gather_rows(m->ops, rows, c->width, m->index, a->attention, m->kept_attention));
    x = a->mid, attention = m->kept_attention;
  }
  NP_TRY(np_linear_forward(m, rows, p->proj, -1, attention, m->delta));
  NP_TRY(np_norm_forward(m, rows, p->norm2_gain, p->norm2_bias, x, m->delta, a->mid, a->n2, a->mean2, a->rstd2));
  NP_TRY(np_linear_forward(m, rows, p->fc1, -1, a->n2, a->fc1));
  NP_TRY(m->ops->gelu_forward(m->ops, rows * hidden, a->fc1, a->gelu));
out:
  return st;
}

/* Leaves the block's second branch in `delta`. */
static np_status block_forward(np_model *m, const np_block_params *p, np_block_acts *a, const void *before, bool trim) {
  np_status st = NP_OK;
  NP_TRY(block_inside(m, p, a, before, trim));
  NP_TRY(np_linear_forward(m, trim ? m->rows.padded : np_model_rows(m), p->fc2, -1, a->gelu, m->delta));
out:
  return st;
}

np_status np_trunk_forward(np_model *m, int last, np_block_seen seen, void *context) {
  np_status st = NP_OK;
  int64_t rows = m->trim ? m->rows.padded : np_model_rows(m);
  const void *before = NULL;
  NP_TRY(embed(m));
  for (int i = 0; i <= last; i++) {
    NP_TRY(block_forward(m, &m->blocks[i], &m->acts[i], before, m->trim && i == last));
    before = m->acts[i].mid;
    if (seen && i > 0) NP_TRY(seen(context, i - 1, m->acts[i].x));
  }
  NP_TRY(np_norm_forward(m, rows, m->post_gain, m->post_bias, before, m->delta, m->trunk_out, m->post, m->post_mean,
                         m->post_rstd));
  if (seen) NP_TRY(seen(context, last, m->trunk_out));
out:
  return st;
}

/* Gradient by the block's middle: through MLP and norm_2. grad_x: of the block's output on entry, of mid on return. */
static np_status mlp_backward(np_model *m, const np_block_params *p, const np_block_acts *a, int64_t rows,
                              bool accumulate) {
  np_status st = NP_OK;
  bool again = m->options.recompute == NP_RECOMPUTE_GELU_NORM;
  int64_t hidden = (int64_t)m->config.width * m->config.mlp_ratio;
  if (again) NP_TRY(m->ops->gelu_forward(m->ops, rows * hidden, a->fc1, a->gelu));
  NP_TRY(np_linear_backward(m, rows, p->fc2, -1, m->grad_x, a->gelu, m->grad_wide, accumulate));
  NP_TRY(m->ops->gelu_backward(m->ops, rows * hidden, a->fc1, m->grad_wide, m->grad_wide));
  if (again) NP_TRY(np_norm_forward(m, rows, p->norm2_gain, p->norm2_bias, a->mid, NULL, NULL, a->n2, NULL, NULL));
  NP_TRY(np_linear_backward(m, rows, p->fc1, -1, m->grad_wide, a->n2, m->grad_y, accumulate));
  NP_TRY(np_norm_backward(m, rows, p->norm2_gain, p->norm2_bias, m->grad_y, a->mid, a->mean2, a->rstd2, m->grad_x,
                          m->grad_x, accumulate));
out:
  return st;
}

/* grad_x: gradient of the block's output on entry, of its input on return. */
static np_status block_backward(np_model *m, const np_block_params *p, const np_block_acts *a, bool trim,
                                bool accumulate) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  int64_t all = np_model_rows(m), rows = trim ? m->rows.padded : all;
  void *branch = m->grad_y, *residual = m->grad_x, *n1 = a->n1;
  NP_TRY(mlp_backward(m, p, a, rows, accumulate));
  NP_TRY(
      np_linear_backward(m, rows, p->proj, -1, residual, trim ? m->kept_attention : a->attention, branch, accumulate));
  if (trim) { /* back to all rows: the branch into delta, which makes room for the residual */
    NP_TRY(m->ops->scatter_rows(m->ops, rows, all, c->width, m->index, branch, m->delta));
    NP_TRY(m->ops->scatter_rows(m->ops, rows, all, c->width, m->index, residual, m->grad_y));
    branch = m->delta, residual = m->grad_y;
  }
  NP_TRY(m->ops->attention_backward(m->ops, m->count, np_model_tokens(m), c->heads, c->width / c->heads,
                                    m->bidirectional ? NULL : m->prefix, a->qkv, a->attention, a->lse, branch,
                                    m->grad_wide));
  if (m->options.recompute == NP_RECOMPUTE_GELU_NORM) { /* where the branch was, which is used up */
    n1 = branch;
    NP_TRY(np_norm_forward(m, all, p->norm1_gain, p->norm1_bias, a->x, NULL, NULL, n1, NULL, NULL));
  }
  NP_TRY(np_linear_backward(m, all, p->qkv, -1, m->grad_wide, n1, branch, accumulate));
  NP_TRY(np_norm_backward(m, all, p->norm1_gain, p->norm1_bias, branch, a->x, a->mean1, a->rstd1, residual, m->grad_x,
                          accumulate));
out:
  return st;
}

np_status np_trunk_backward(np_model *m, bool accumulate) {
  np_status st = NP_OK;
  int64_t all = np_model_rows(m), rows = m->trim ? m->rows.padded : all;
  int last = m->config.blocks - 1;
  NP_TRY(np_norm_backward(m, rows, m->post_gain, m->post_bias, m->grad_y, m->trunk_out, m->post_mean, m->post_rstd,
                          NULL, m->grad_x, accumulate));
  NP_TRY(np_model_complete(m, m->post_bias));
  for (int i = last; i >= 0; i--) { /* what the last block made still stands */
    if (m->options.recompute == NP_RECOMPUTE_BLOCK && i < last)
      NP_TRY(block_inside(m, &m->blocks[i], &m->acts[i], NULL, false));
    NP_TRY(block_backward(m, &m->blocks[i], &m->acts[i], m->trim && i == last, accumulate));
    NP_TRY(np_model_complete(m, m->blocks[i].norm1_bias));
  }
  NP_TRY(np_norm_backward(m, all, m->embed_norm_gain, m->embed_norm_bias, m->grad_x, m->embedded, m->embed_mean,
                          m->embed_rstd, NULL, m->grad_y, accumulate));
  NP_TRY(np_linear_backward(m, all, m->embed_weight, m->embed_bias, m->grad_y, m->patches, NULL, accumulate));
  NP_TRY(np_model_complete(m, m->embed_bias));
out:
  return st;
}
