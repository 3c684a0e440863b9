/* Where everything of a model lies: one plan, counted first and taken once (architecture.md, decision 3). */
#include "model/internal.h"

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* What the blocks keep (recipe key train.recompute):
 *
 *               a block's own                               made again in the backward pass
 *   none        everything                                  -
 *   gelu_norm   all but the outputs of norms and GELU       these, where a gradient goes next: grad_y, grad_wide
 *   block       its input                                   everything else, in one set for all blocks
 *
 * A model that does not train lets all blocks share one set, inputs and all. The pixel head's rows are the loss tokens:
 * about half of all, with room for a little more (np_model_head_rows). */
static void lay_block(np_model *m, np_arena *arena, np_block_acts *a, size_t rows, size_t act) {
  size_t D = (size_t)m->config.width, hidden = D * (size_t)m->config.mlp_ratio, heads = (size_t)m->config.heads;
  bool keeps = m->options.recompute != NP_RECOMPUTE_GELU_NORM, train = m->options.train;
  a->n1 = keeps ? np_arena_take(arena, rows * D * act) : m->grad_y;
  a->qkv = np_arena_take(arena, rows * 3 * D * act);
  a->attention = np_arena_take(arena, rows * D * act);
  a->mid = np_arena_take(arena, rows * D * act);
  a->n2 = keeps ? np_arena_take(arena, rows * D * act) : m->grad_y;
  a->fc1 = np_arena_take(arena, rows * hidden * act);
  if (!train) a->gelu = a->fc1;
  else a->gelu = keeps ? np_arena_take(arena, rows * hidden * act) : m->grad_wide;
  if (!train) return;
  a->lse = np_arena_take(arena, rows * heads * sizeof(float));
  a->mean1 = np_arena_take(arena, rows * sizeof(float));
  a->rstd1 = np_arena_take(arena, rows * sizeof(float));
  a->mean2 = np_arena_take(arena, rows * sizeof(float));
  a->rstd2 = np_arena_take(arena, rows * sizeof(float));
}

static void lay_blocks(np_model *m, np_arena *arena, size_t rows, size_t act) {
  bool own_insides = m->options.train && m->options.recompute != NP_RECOMPUTE_BLOCK;
  for (int i = 0; i < m->config.blocks; i++) {
    np_block_acts *a = &m->acts[i];
    if (i > 0) *a = m->acts[0];
    if (i == 0 || own_insides) lay_block(m, arena, a, rows, act);
    if (i == 0 || m->options.train) a->x = np_arena_take(arena, rows * (size_t)m->config.width * act);
  }
}

static void lay_head_block(np_model *m, np_arena *arena, np_head_acts *a, size_t rows, size_t act) {
  size_t E = (size_t)m->config.head_width, hidden = E * (size_t)m->config.mlp_ratio;
  bool keeps = m->options.recompute != NP_RECOMPUTE_GELU_NORM, train = m->options.train;
  if (m->config.head_block == NP_HEAD_L3M) a->mid = np_arena_take(arena, rows * E * act);
  a->n2 = keeps ? np_arena_take(arena, rows * E * act) : m->grad_y;
  a->fc1 = np_arena_take(arena, rows * hidden * act);
  if (!train) a->gelu = a->fc1;
  else a->gelu = keeps ? np_arena_take(arena, rows * hidden * act) : m->grad_wide;
  if (!train) return;
  a->mean1 = np_arena_take(arena, rows * sizeof(float));
  a->rstd1 = np_arena_take(arena, rows * sizeof(float));
  a->mean2 = np_arena_take(arena, rows * sizeof(float));
  a->rstd2 = np_arena_take(arena, rows * sizeof(float));
}

static void lay_head_blocks(np_model *m, np_arena *arena, size_t rows, size_t act) {
  bool own_insides = m->options.train && m->options.recompute != NP_RECOMPUTE_BLOCK;
  int count = m->config.head_blocks > 0 ? m->config.head_blocks : 1; /* the first x stands even without blocks */
  for (int i = 0; i < count; i++) {
    np_head_acts *a = &m->head_acts[i];
    if (i > 0) *a = m->head_acts[0];
    if (i == 0 || own_insides) lay_head_block(m, arena, a, rows, act);
    if (i == 0 || m->options.train) a->x = np_arena_take(arena, rows * (size_t)m->config.head_width * act);
    if (m->config.head_block != NP_HEAD_L3M) a->mid = a->x;
  }
}

static void lay_head(np_model *m, np_arena *arena, size_t act) {
  size_t rows = (size_t)m->options.head_rows, D = (size_t)m->config.width, E = (size_t)m->config.head_width,
         values = (size_t)np_recipe_patch_values(&m->config);
  m->kept_attention = np_arena_take(arena, rows * D * act);
  if (m->options.all_tokens) m->loss_pred = np_arena_take(arena, rows * values * act);
  lay_head_blocks(m, arena, rows, act);
  m->head_out = np_arena_take(arena, rows * E * act);
  m->decoded = np_arena_take(arena, rows * E * act);
  m->pred = np_arena_take(arena, rows * values * act);
  /* A gradient that does not exist while a block runs: with gelu_norm n2 takes grad_y, with block grad_x is taken. */
  if (!m->options.train) m->branch = np_arena_take(arena, rows * E * act);
  else m->branch = m->options.recompute == NP_RECOMPUTE_GELU_NORM ? m->grad_x : m->grad_y;
  if (!m->options.train) return;
  m->decode_mean = np_arena_take(arena, rows * sizeof(float));
  m->decode_rstd = np_arena_take(arena, rows * sizeof(float));
}

void np_model_lay_activations(np_model *m, np_arena *arena) {
  const np_recipe_model *c = &m->config;
  size_t rows = (size_t)m->options.batch * (size_t)np_recipe_tokens(c), act = m->act_size;
  size_t D = (size_t)c->width, head = m->options.head ? (size_t)m->options.head_rows * (size_t)c->head_width : 0;
  size_t stream = max_size(rows * D, head) * act; /* bytes of the residual stream, in the trunk or the head */
  if (m->options.train) {                         /* first: blocks may borrow them */
    m->grad_x = np_arena_take(arena, stream);
    m->grad_y = np_arena_take(arena, stream);
    m->grad_wide = np_arena_take(arena, stream * max_size((size_t)c->mlp_ratio, 3));
    m->embed_mean = np_arena_take(arena, rows * sizeof(float));
    m->embed_rstd = np_arena_take(arena, rows * sizeof(float));
    m->post_mean = np_arena_take(arena, rows * sizeof(float));
    m->post_rstd = np_arena_take(arena, rows * sizeof(float));
  }
  m->patches = np_arena_take(arena, rows * (size_t)np_recipe_patch_values(c) * act);
  m->embedded = np_arena_take(arena, rows * D * act);
  lay_blocks(m, arena, rows, act);
  m->trunk_out = np_arena_take(arena, rows * D * act);
  m->post = np_arena_take(arena, rows * D * act);
  m->delta = np_arena_take(arena, stream);
  if (m->options.head) lay_head(m, arena, act);
}

void np_model_lay_batch(np_model *m, np_arena *arena) {
  const np_recipe_model *c = &m->config;
  size_t batch = (size_t)m->options.batch, tokens = (size_t)np_recipe_tokens(c);
  size_t values = batch * tokens * (size_t)np_recipe_patch_values(c);
  m->trunk_table = np_arena_take(arena, tokens * (size_t)c->width * sizeof(float));
  if (m->options.head) m->head_table = np_arena_take(arena, tokens * (size_t)c->head_width * sizeof(float));
  m->pixels_f32 = np_arena_take(arena, values * sizeof(float));
  m->pixels_u8 = (uint8_t *)m->pixels_f32; /* a batch comes in one form or the other */
  m->prefix = np_arena_take(arena, batch * sizeof(int32_t));
  m->index = np_arena_take(arena, batch * tokens * sizeof(int32_t));
  if (m->options.all_tokens) m->loss_index = np_arena_take(arena, batch * tokens * sizeof(int32_t));
  m->loss = np_arena_take(arena, sizeof(double));
  m->scale = np_arena_take(arena, sizeof(float));
}

/* A recording has a node for each kernel: 24 in a block of the trunk, fewer in one of the head, more where products are
 * split or blocks are made again. Of each the driver keeps something on the device: with driver 580 an H200 was short
 * of 40 MB, scratch and libraries' kernels included, for a few recordings of about 1500 nodes each. */
enum { NODES_A_BLOCK = 28, OTHER_NODES = 50, NODE_BYTES = 8 << 10 };

static np_status plan_recordings(np_model *m, size_t *out) {
  np_status st = NP_OK;
  size_t nodes = NODES_A_BLOCK * (size_t)(m->config.blocks + m->config.head_blocks) + OTHER_NODES;
  *out = 0;
  if (!m->options.step) return NP_OK;
  NP_TRY(np_model_list_passes(m, true));
  *out = (size_t)m->recorded_count * nodes * NODE_BYTES;
out:
  return st;
}

np_status np_model_plan(const np_recipe_model *config, const np_model_options *options, np_dtype act,
                        np_memory_plan *out) {
  np_status st = NP_OK;
  np_model m = {.config = *config, .options = *options, .act_size = np_dtype_size(act)};
  np_arena activations = {0}, batch = {0};
  np_model_settle(&m);
  *out = (np_memory_plan){0};
  NP_TRY(np_params_layout(config, options->head, &m.params));
  NP_TRY(np_model_take_lists(&m));
  np_model_find_places(&m);
  np_model_cut(&m);
  np_model_lay_activations(&m, &activations);
  np_model_lay_batch(&m, &batch);
  const size_t all = (size_t)m.params.total;
  out->weights = (size_t)np_model_weight_count(&m) * sizeof(float);
  out->low = act == NP_F32 ? 0 : all * m.act_size;
  out->gradients = options->train ? all * sizeof(float) : 0;
  out->moments = options->train ? 2 * (size_t)m.pieces.kept * sizeof(float) : 0;
  out->activations = activations.used;
  out->batch = batch.used;
  NP_TRY(plan_recordings(&m, &out->recordings));
  out->total = out->weights + out->low + out->gradients + out->moments + out->activations + out->batch;
out:
  np_model_free_lists(&m);
  np_params_free(&m.params);
  return st;
}
