#include "model/params.h"

#include "util/philox.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- layout
 * ---------------------------------------------------------------------------------------------------------- */

typedef struct builder {
  np_params *params;
  int capacity;
} builder;

static np_param *add(builder *b, np_param_role role, int ndim, const int64_t *shape, const char *format, va_list args) {
  if (b->params->count == b->capacity) return NULL;
  np_param *p = &b->params->items[b->params->count++];
  vsnprintf(p->name, sizeof p->name, format, args);
  p->role = role;
  p->ndim = ndim;
  p->count = 1;
  for (int i = 0; i < ndim; i++) {
    p->shape[i] = shape[i];
    p->count *= shape[i];
  }
  p->rows = ndim > 1 ? shape[0] : 1;
  p->columns = p->count / p->rows;
  b->params->elements += p->count;
  return p;
}

__attribute__((format(printf, 4, 5))) static void matrix(builder *b, int64_t out, int64_t in, const char *format, ...) {
  va_list args;
  va_start(args, format);
  add(b, NP_PARAM_MATRIX, 2, (int64_t[]){out, in}, format, args);
  va_end(args);
}

__attribute__((format(printf, 4, 5))) static void vector(builder *b, np_param_role role, int64_t count,
                                                         const char *format, ...) {
  va_list args;
  va_start(args, format);
  add(b, role, 1, &count, format, args);
  va_end(args);
}

__attribute__((format(printf, 3, 4))) static void norm(builder *b, int64_t width, const char *format, ...) {
  char name[64];
  va_list args;
  va_start(args, format);
  vsnprintf(name, sizeof name, format, args);
  va_end(args);
  vector(b, NP_PARAM_GAIN, width, "%s.weight", name);
  vector(b, NP_PARAM_BIAS, width, "%s.bias", name);
}

/* Last layer first: the order in which the backward pass completes gradients. */
static void head(builder *b, const np_recipe_model *m) {
  int64_t E = m->head_width, hidden = E * m->mlp_ratio, values = np_recipe_patch_values(m);
  matrix(b, values, E, "head.decoder_pred.weight");
  vector(b, NP_PARAM_BIAS, values, "head.decoder_pred.bias");
  norm(b, E, "head.decoder_norm");
  for (int i = m->head_blocks - 1; i >= 0; i--) {
    matrix(b, E, hidden, "head.decoder_blocks.%d.mlp.fc2.weight", i);
    matrix(b, hidden, E, "head.decoder_blocks.%d.mlp.fc1.weight", i);
    norm(b, E, "head.decoder_blocks.%d.norm_2", i);
    norm(b, E, "head.decoder_blocks.%d.norm_1", i); /* stands unused with head_block: mlp, as in the published files */
  }
  matrix(b, E, m->width, "head.decoder_projection.weight");
  vector(b, NP_PARAM_BIAS, E, "head.decoder_projection.bias");
}

static void trunk(builder *b, const np_recipe_model *m) {
  int64_t D = m->width, hidden = D * m->mlp_ratio, P = m->patch_size;
  norm(b, D, "trunk.post_trunk_norm");
  for (int i = m->blocks - 1; i >= 0; i--) {
    matrix(b, D, hidden, "trunk.blocks.%d.mlp.fc2.weight", i);
    matrix(b, hidden, D, "trunk.blocks.%d.mlp.fc1.weight", i);
    norm(b, D, "trunk.blocks.%d.norm_2", i);
    matrix(b, D, D, "trunk.blocks.%d.attn.proj.weight", i);
    matrix(b, 3 * D, D, "trunk.blocks.%d.attn.qkv.weight", i);
    norm(b, D, "trunk.blocks.%d.norm_1", i);
  }
  norm(b, D, "preprocessor.patchifier.norm");
  matrix(b, D, P * P * m->channels, "preprocessor.patchifier.proj.weight");
  np_param *convolution = &b->params->items[b->params->count - 1];
  convolution->ndim = 4; /* stored as the convolution it is: [D, C, P, P] */
  convolution->shape[1] = m->channels;
  convolution->shape[2] = convolution->shape[3] = P;
  vector(b, NP_PARAM_BIAS, D, "preprocessor.patchifier.proj.bias");
}

static void place(np_params *params, bool matrices) {
  for (int i = 0; i < params->count; i++) {
    np_param *p = &params->items[i];
    if ((p->role == NP_PARAM_MATRIX) != matrices) continue;
    p->offset = params->total;
    params->total += np_param_room(p->count);
  }
}

np_status np_params_layout(const np_recipe_model *model, bool with_head, np_params *out) {
  builder b = {.params = out, .capacity = 6 + 8 * model->blocks + (with_head ? 6 + 6 * model->head_blocks : 0)};
  *out = (np_params){0};
  out->items = calloc((size_t)b.capacity, sizeof *out->items);
  if (!out->items) return np_error(NP_ERR_MEMORY, "out of memory for the table of parameters");
  if (with_head) head(&b, model);
  out->head_elements = out->elements;
  trunk(&b, model);
  place(out, true);
  place(out, false);
  return NP_OK;
}

void np_params_free(np_params *params) {
  free(params->items);
  *params = (np_params){0};
}

const np_param *np_params_find(const np_params *params, const char *name) {
  for (int i = 0; i < params->count; i++)
    if (strcmp(params->items[i].name, name) == 0) return &params->items[i];
  return NULL;
}

/* ---- initialisation
 * -------------------------------------------------------------------------------------------------- */

/* FNV-1a of the name: a parameter's draws do not move when a layer is added elsewhere. */
static uint64_t name_index(const char *name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
  return hash & ((UINT64_C(1) << 56) - 1);
}

void np_params_init(const np_params *params, uint64_t seed, float *weights) {
  memset(weights, 0, (size_t)params->total * sizeof *weights);
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < params->count; i++) {
    const np_param *p = &params->items[i];
    float *w = weights + p->offset;
    if (p->role == NP_PARAM_GAIN)
      for (int64_t j = 0; j < p->count; j++) w[j] = 1.0f;
    if (p->role != NP_PARAM_MATRIX) continue;
    np_rng rng = np_rng_make(seed, NP_PURPOSE_INIT, 0, name_index(p->name));
    double bound = sqrt(6.0 / (double)(p->rows + p->columns)); /* Glorot and Bengio 2010, uniform */
    for (int64_t j = 0; j < p->count; j++) w[j] = (float)((np_rng_u32(&rng) * 0x1p-32 * 2.0 - 1.0) * bound);
  }
}

/* ---- files
 * ----------------------------------------------------------------------------------------------------------- */

static void shape_text(int ndim, const int64_t *shape, char *out, size_t size) {
  size_t used = (size_t)snprintf(out, size, "[");
  for (int i = 0; i < ndim && used < size; i++)
    used += (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
  if (used < size) snprintf(out + used, size - used, "]");
}

static np_status check_shape(const np_param *p, const np_tensor *t, const char *name) {
  bool same = p->ndim == t->ndim;
  for (int i = 0; same && i < p->ndim; i++) same = p->shape[i] == t->shape[i];
  if (same) return NP_OK;
  char found[128], expected[128];
  shape_text(t->ndim, t->shape, found, sizeof found);
  shape_text(p->ndim, p->shape, expected, sizeof expected);
  return np_error(NP_ERR_FORMAT, "%s: tensor %s has shape %s; the recipe's model expects %s", name, p->name, found,
                  expected);
}

static bool is_head(const char *name) { return strncmp(name, "head.", 5) == 0; }

static const np_tensor *projection_in(const np_safetensors *file) {
  return np_safetensors_find(file, "head.decoder_projection.weight");
}

bool np_params_head_in(const np_safetensors *file) { return projection_in(file) != NULL; }

static np_status load(const np_params *params, const np_safetensors *file, const char *name, bool with_head,
                      float *weights) {
  np_status st = NP_OK;
  for (int i = 0; i < params->count; i++) {
    const np_param *p = &params->items[i];
    const np_tensor *t = np_safetensors_find(file, p->name);
    if (!with_head && is_head(p->name)) continue;
    if (!t) return np_error(NP_ERR_FORMAT, "%s: tensor %s is missing", name, p->name);
    NP_TRY(check_shape(p, t, name));
    NP_TRY(np_tensor_to_f32(t, weights + p->offset, p->count));
  }
  for (int i = 0; i < np_safetensors_count(file); i++) {
    const char *have = np_safetensors_at(file, i)->name;
    if (!with_head && is_head(have)) continue;
    if (strstr(have, "pos_embed")) continue; /* the published files carry the fixed table along */
    if (!np_params_find(params, have))
      return np_error(NP_ERR_FORMAT, "%s: tensor %s has no place in the recipe's model", name, have);
  }
out:
  return st;
}

np_status np_params_load(const np_params *params, const np_safetensors *file, const char *name, float *weights) {
  memset(weights, 0, (size_t)params->total * sizeof *weights);
  return load(params, file, name, params->head_elements > 0, weights);
}

np_status np_params_load_trunk(const np_params *params, const np_safetensors *file, const char *name, float *weights) {
  return load(params, file, name, false, weights);
}

np_status np_params_tensors(const np_params *params, const float *values, const char *prefix, np_tensor **out) {
  enum { NAME_BYTES = 112 };
  size_t count = (size_t)params->count;
  np_tensor *tensors = calloc(count, sizeof *tensors + NAME_BYTES);
  *out = tensors;
  if (!tensors) return np_error(NP_ERR_MEMORY, "out of memory for the list of tensors");
  char *names = (char *)(tensors + count);
  for (size_t i = 0; i < count; i++, names += NAME_BYTES) {
    const np_param *p = &params->items[i];
    snprintf(names, NAME_BYTES, "%s%s", prefix ? prefix : "", p->name);
    tensors[i] = (np_tensor){.name = names,
                             .dtype = NP_F32,
                             .ndim = p->ndim,
                             .data = values + p->offset,
                             .bytes = (size_t)p->count * sizeof *values};
    memcpy(tensors[i].shape, p->shape, sizeof p->shape);
  }
  return NP_OK;
}

/* One past the largest I among names "prefixI.…". */
static int count_blocks(const np_safetensors *file, const char *prefix) {
  int most = 0;
  size_t length = strlen(prefix);
  for (int i = 0; i < np_safetensors_count(file); i++) {
    const char *name = np_safetensors_at(file, i)->name;
    if (strncmp(name, prefix, length) != 0) continue;
    long index = strtol(name + length, NULL, 10);
    if (index >= most && index < 4096) most = (int)index + 1;
  }
  return most;
}

np_status np_params_infer(const np_safetensors *file, const char *name, np_recipe_model *model, bool *has_head) {
  const np_tensor *proj = np_safetensors_find(file, "preprocessor.patchifier.proj.weight");
  if (!proj || proj->ndim != 4)
    return np_error(NP_ERR_FORMAT, "%s: no tensor preprocessor.patchifier.proj.weight [D, C, P, P]: not an AIM model",
                    name);
  model->width = (int)proj->shape[0];
  model->channels = (int)proj->shape[1];
  model->patch_size = (int)proj->shape[2];
  model->blocks = count_blocks(file, "trunk.blocks.");
  const np_tensor *fc1 = np_safetensors_find(file, "trunk.blocks.0.mlp.fc1.weight");
  if (!fc1 || fc1->ndim != 2 || fc1->shape[1] != proj->shape[0] || model->width < 1)
    return np_error(NP_ERR_FORMAT, "%s: no tensor trunk.blocks.0.mlp.fc1.weight [hidden, D]: not an AIM model", name);
  model->mlp_ratio = (int)(fc1->shape[0] / fc1->shape[1]);
  const np_tensor *projection = projection_in(file);
  *has_head = projection && projection->ndim == 2;
  if (*has_head) {
    model->head_width = (int)projection->shape[0];
    model->head_blocks = count_blocks(file, "head.decoder_blocks.");
  }
  return NP_OK;
}
