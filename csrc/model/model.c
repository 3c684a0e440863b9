#include "model/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- making and unmaking
 * --------------------------------------------------------------------------------------------- */

np_status np_model_take_lists(np_model *m) {
  size_t blocks = (size_t)m->config.blocks,
         head_blocks = (size_t)(m->config.head_blocks > 0 ? m->config.head_blocks : 1);
  m->acts = calloc(blocks, sizeof *m->acts);
  m->blocks = calloc(blocks, sizeof *m->blocks);
  m->head_acts = calloc(head_blocks, sizeof *m->head_acts);
  m->head_blocks = calloc(head_blocks, sizeof *m->head_blocks);
  if (!m->acts || !m->blocks || !m->head_acts || !m->head_blocks)
    return np_error(NP_ERR_MEMORY, "out of memory for the list of blocks");
  return NP_OK;
}

void np_model_free_lists(np_model *m) {
  free(m->acts);
  free(m->blocks);
  free(m->head_acts);
  free(m->head_blocks);
}

/* Place of "base.suffix" in the table; the layout made it, so it is there. */
static int place(const np_params *params, const char *base, const char *suffix) {
  char name[96];
  snprintf(name, sizeof name, "%s.%s", base, suffix);
  const np_param *p = np_params_find(params, name);
  return p ? (int)(p - params->items) : -1;
}

static np_block_params block_places(const np_params *params, const char *list, int i) {
  char base[64];
  snprintf(base, sizeof base, "%s.%d", list, i);
  return (np_block_params){
      .norm1_gain = place(params, base, "norm_1.weight"),
      .norm1_bias = place(params, base, "norm_1.bias"),
      .qkv = place(params, base, "attn.qkv.weight"),
      .proj = place(params, base, "attn.proj.weight"),
      .norm2_gain = place(params, base, "norm_2.weight"),
      .norm2_bias = place(params, base, "norm_2.bias"),
      .fc1 = place(params, base, "mlp.fc1.weight"),
      .fc2 = place(params, base, "mlp.fc2.weight"),
  };
}

void np_model_find_places(np_model *m) {
  const np_params *p = &m->params;
  const char *patchifier = "preprocessor.patchifier";
  m->embed_weight = place(p, patchifier, "proj.weight"), m->embed_bias = place(p, patchifier, "proj.bias");
  m->embed_norm_gain = place(p, patchifier, "norm.weight"), m->embed_norm_bias = place(p, patchifier, "norm.bias");
  m->post_gain = place(p, "trunk.post_trunk_norm", "weight"), m->post_bias = place(p, "trunk.post_trunk_norm", "bias");
  for (int i = 0; i < m->config.blocks; i++) m->blocks[i] = block_places(p, "trunk.blocks", i);
  if (!m->options.head) return;
  m->decode_weight = place(p, "head.decoder_projection", "weight"),
  m->decode_bias = place(p, "head.decoder_projection", "bias");
  m->decode_norm_gain = place(p, "head.decoder_norm", "weight"),
  m->decode_norm_bias = place(p, "head.decoder_norm", "bias");
  m->pred_weight = place(p, "head.decoder_pred", "weight"), m->pred_bias = place(p, "head.decoder_pred", "bias");
  for (int i = 0; i < m->config.head_blocks; i++) m->head_blocks[i] = block_places(p, "head.decoder_blocks", i);
}

/* On the host, once: a step allocates nothing. */
static np_status take_staging(np_model *m) {
  if (!m->options.head) return NP_OK;
  m->rows_host = malloc((size_t)m->options.batch * (size_t)np_model_tokens(m) * sizeof *m->rows_host);
  return m->rows_host ? NP_OK : np_error(NP_ERR_MEMORY, "out of memory for the list of loss tokens");
}

static void lay_parameters(np_model *m, np_arena *arena) {
  size_t total = (size_t)m->params.total;
  m->weights = np_arena_take(arena, (size_t)np_model_weight_count(m) * sizeof(float));
  if (m->options.train) m->gradients = np_arena_take(arena, total * sizeof(float));
  if (m->ops->act != NP_F32) m->low = np_arena_take(arena, total * m->act_size);
}

static np_status upload_tables(np_model *m) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  int rows = c->image_size[0] / c->patch_size, columns = c->image_size[1] / c->patch_size;
  size_t widest = (size_t)(c->head_width > c->width ? c->head_width : c->width);
  float *table = malloc((size_t)rows * (size_t)columns * widest * sizeof *table);
  if (!table) return np_error(NP_ERR_MEMORY, "out of memory for the table of positions");
  np_positions(rows, columns, c->width, table);
  NP_TRY(
      m->ops->upload(m->ops, m->trunk_table, table, (size_t)rows * (size_t)columns * (size_t)c->width * sizeof *table));
  if (m->options.head) {
    np_positions(rows, columns, c->head_width, table);
    NP_TRY(m->ops->upload(m->ops, m->head_table, table,
                          (size_t)rows * (size_t)columns * (size_t)c->head_width * sizeof *table));
  }
out:
  free(table);
  return st;
}

np_status np_model_create(np_ops *ops, const np_recipe_model *config, const np_model_options *options, np_model **out) {
  np_status st = NP_OK;
  np_arena arena = {0};
  np_model *m = calloc(1, sizeof *m);
  *out = NULL;
  if (!m) return np_error(NP_ERR_MEMORY, "out of memory for the model");
  m->ops = ops;
  m->config = *config;
  m->options = *options;
  np_model_settle(m);
  m->act_size = np_dtype_size(ops->act);
  NP_TRY(np_params_layout(config, options->head, &m->params));
  NP_TRY(np_model_take_lists(m));
  NP_TRY(take_staging(m));
  np_model_find_places(m);
  np_model_cut(m);
  for (int pass = 0; pass < 2; pass++) { /* count, then hand out */
    arena = (np_arena){.base = m->memory};
    lay_parameters(m, &arena);
    np_model_lay_activations(m, &arena);
    np_model_lay_batch(m, &arena);
    if (pass == 0) NP_TRY(ops->alloc(ops, arena.used, &m->memory));
  }
  /* Gradients of parameters nothing uses (norm_1 of a head block mlp) stay zero. */
  if (m->gradients) NP_TRY(ops->zero(ops, m->gradients, (size_t)m->params.total * sizeof(float)));
  NP_TRY(upload_tables(m));
  *out = m;
  return NP_OK;
out:
  np_model_destroy(m);
  return st;
}

void np_model_destroy(np_model *m) {
  if (!m) return;
  np_model_forget(m);
  m->ops->release(m->ops, m->memory);
  np_model_free_lists(m);
  np_params_free(&m->params);
  free(m->rows_host);
  free(m);
}

np_ops *np_model_ops(const np_model *m) { return m->ops; }
const np_recipe_model *np_model_config(const np_model *m) { return &m->config; }
const np_params *np_model_params(const np_model *m) { return &m->params; }
float *np_model_weights(np_model *m) { return m->weights; }
float *np_model_gradients(np_model *m) { return m->gradients; }
void *np_model_low(np_model *m) { return m->low; }

/* The low-precision copy of all, by way of the gradients, which are zeros again afterwards: what nothing uses must be.
 */
static np_status set_low(np_model *m, const float *host) {
  np_status st = NP_OK;
  const size_t bytes = (size_t)m->params.total * sizeof *host;
  NP_TRY(m->ops->upload(m->ops, m->gradients, host, bytes));
  NP_TRY(m->ops->to_act(m->ops, m->params.total, m->gradients, m->low));
  NP_TRY(m->ops->zero(m->ops, m->gradients, bytes));
out:
  return st;
}

np_status np_model_set_weights(np_model *m, const float *host) {
  np_status st = NP_OK;
  if (np_model_weight_count(m) < m->params.total) {
    NP_TRY(set_low(m, host));
    return np_pieces_upload(m->ops, &m->pieces, host, m->weights);
  }
  NP_TRY(m->ops->upload(m->ops, m->weights, host, (size_t)m->params.total * sizeof *host));
  if (m->low) st = m->ops->to_act(m->ops, m->params.total, m->weights, m->low);
out:
  return st;
}

np_status np_model_get_weights(np_model *m, float *host) {
  if (np_model_weight_count(m) < m->params.total)
    return np_error(NP_ERR_ARGUMENT, "a rank that keeps pieces of the weights does not have them all");
  return m->ops->download(m->ops, host, m->weights, (size_t)m->params.total * sizeof *host);
}

/* ---- passes
 * ---------------------------------------------------------------------------------------------------------- */

static np_status check_targets(const np_model *m) {
  if (!m->loss_ready)
    return np_error(NP_ERR_ARGUMENT,
                    "a loss needs a model with its pixel head, fed with prefix lengths since its last prediction");
  if ((m->options.all_tokens ? m->loss_rows : m->rows).count < 1)
    return np_error(NP_ERR_ARGUMENT, "no patch of this batch is a target: every prefix covers its image");
  return NP_OK;
}

static np_status forward(np_model *m) {
  np_status st = NP_OK;
  NP_TRY(np_trunk_forward(m, m->config.blocks - 1, NULL, NULL));
  NP_TRY(np_pixel_head_forward(m));
out:
  return st;
}

/* Loss of `pred` and, where wanted, its gradient in its place: zeros in the rows of the padding. */
static np_status loss(np_model *m, bool gradient, bool first) {
  np_status st = NP_OK;
  bool standardise = m->config.pixel_target == NP_TARGET_STANDARDISED, all = m->options.all_tokens;
  int values = np_recipe_patch_values(&m->config);
  int64_t rows = all ? m->loss_rows.padded : m->rows.padded;
  const int32_t *index = all ? m->loss_index : m->index;
  void *pred = all ? m->loss_pred : m->pred;
  if (all) NP_TRY(m->ops->gather_rows(m->ops, rows, values, index, m->pred, pred));
  NP_TRY(m->ops->pixel_loss(m->ops, &m->pixels, rows, index, standardise, gradient ? m->scale : NULL, pred,
                            gradient ? pred : NULL, m->loss, !first));
  if (all && gradient) NP_TRY(m->ops->scatter_rows(m->ops, rows, np_model_rows(m), values, index, pred, m->pred));
out:
  return st;
}

np_status np_model_pass(np_model *m, bool first) {
  np_status st = NP_OK;
  NP_TRY(forward(m));
  NP_TRY(loss(m, true, first));
  np_model_begin_slices(m);
  NP_TRY(np_pixel_head_backward(m, !first));
  NP_TRY(np_trunk_backward(m, !first));
out:
  return st;
}

np_status np_model_train(np_model *m, int64_t targets, bool first) {
  np_status st = NP_OK;
  const float scale = 1.0f / (float)(targets > 0 ? targets : 1);
  NP_TRY(check_targets(m));
  NP_TRY(m->ops->upload(m->ops, m->scale, &scale, sizeof scale));
  st = np_model_run(m, first);
out:
  return st;
}

np_status np_model_loss(np_model *m, bool first) {
  np_status st = NP_OK;
  NP_TRY(check_targets(m));
  NP_TRY(forward(m));
  NP_TRY(loss(m, false, first));
out:
  return st;
}

double *np_model_loss_sum(np_model *m) { return m->loss; }

np_status np_model_read_loss(np_model *m, double *sum) { return m->ops->download(m->ops, sum, m->loss, sizeof *sum); }

np_status np_model_fetch_loss(np_model *m, int slot) { return m->ops->fetch(m->ops, slot, m->loss, sizeof *m->loss); }

np_status np_model_arrive_loss(np_model *m, int slot, double *sum) {
  return m->ops->arrive(m->ops, slot, sum, sizeof *sum);
}

/* act → float32 on the host. */
static np_status read_act(np_model *m, const void *device, int64_t count, float *out) {
  np_status st = NP_OK;
  NP_TRY(m->ops->download(m->ops, out, device, (size_t)count * m->act_size));
  if (m->ops->act == NP_BF16) { /* widen in place, from the end: element i is read before anything lands on it */
    const unsigned char *bytes = (const unsigned char *)out;
    for (int64_t i = count - 1; i >= 0; i--) {
      np_bf16 value;
      memcpy(&value, bytes + (size_t)i * sizeof value, sizeof value);
      out[i] = np_bf16_to_f32(value);
    }
  }
out:
  return st;
}

np_status np_model_predict(np_model *m, float *pred) {
  np_status st = NP_OK;
  if (!m->options.head) return np_error(NP_ERR_ARGUMENT, "predictions need a model with its pixel head");
  m->loss_ready = false;
  NP_TRY(np_model_choose_rows(m, NULL));
  NP_TRY(np_trunk_forward(m, m->config.blocks - 1, NULL, NULL));
  NP_TRY(np_pixel_head_forward(m));
  NP_TRY(read_act(m, m->pred, m->rows.count * np_recipe_patch_values(&m->config), pred));
out:
  return st;
}

typedef struct feature_mean {
  np_model *model;
  const int *layers;
  int layer_count;
  float *out;
} feature_mean;

static np_status add_features(void *context, int block, const void *output) {
  const feature_mean *f = context;
  np_model *m = f->model;
  for (int i = 0; i < f->layer_count; i++)
    if (f->layers[i] == block)
      return m->ops->axpy(m->ops, np_model_rows(m) * m->config.width, 1.0f / (float)f->layer_count, output, f->out);
  return NP_OK;
}

np_status np_model_features(np_model *m, const int *layers, int layer_count, float *out) {
  np_status st = NP_OK;
  feature_mean mean = {.model = m, .layers = layers, .layer_count = layer_count, .out = out};
  if (layer_count < 1) return np_error(NP_ERR_ARGUMENT, "features need at least one block");
  for (int i = 0; i < layer_count; i++)
    if (layers[i] < 0 || layers[i] >= m->config.blocks || (i > 0 && layers[i] <= layers[i - 1]))
      return np_error(NP_ERR_ARGUMENT, "block %d among the features' blocks: expected ascending indices in 0..%d",
                      layers[i], m->config.blocks - 1);
  NP_TRY(m->ops->zero(m->ops, out, (size_t)np_model_rows(m) * (size_t)m->config.width * sizeof *out));
  NP_TRY(np_trunk_forward(m, layers[layer_count - 1], add_features, &mean));
out:
  return st;
}

np_status np_model_read_block(np_model *m, int i, float *out) {
  if (!m->options.train || i < 0 || i > m->config.blocks)
    return np_error(NP_ERR_ARGUMENT, "block %d is not kept by this model", i);
  const void *x = i == m->config.blocks ? m->post : i == m->config.blocks - 1 ? m->trunk_out : m->acts[i + 1].x;
  return read_act(m, x, np_model_rows(m) * m->config.width, out);
}
