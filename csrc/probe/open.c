#include "probe/open.h"

#include "checkpoint/checkpoint.h"
#include "dist/open.h"
#include "util/file.h"
#include "util/log.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- recipe ---- */

static bool given(const np_open_options *options, const char *key) {
  const size_t length = strlen(key);
  for (int i = 0; i < options->override_count; i++)
    if (!strncmp(options->overrides[i], key, length) && options->overrides[i][length] == '=') return true;
  return false;
}

/* A recipe for weights that came without one: shapes from the file, then the user's overrides. */
static np_status infer_recipe(np_opened *opened, const np_open_options *options) {
  np_status st = NP_OK;
  np_recipe *defaults = NULL;
  enum { OWN = 9 };
  const int most = OWN + options->override_count;
  int count = 0;
  char *own[OWN] = {0};
  const char **all = calloc((size_t)most, sizeof *all);
  bool has_head = false;
  if (!all) return np_error(NP_ERR_MEMORY, "out of memory");
  NP_TRY(np_recipe_load(NULL, NULL, 0, &defaults));
  np_recipe_model shape = defaults->model;
  NP_TRY(np_params_infer(opened->file, opened->path, &shape, &has_head));
  if (!given(options, "model.heads")) {
    if (shape.width % 128) {
      st = np_error(NP_ERR_ARGUMENT,
                    "%s: holds no recipe, and width %d does not tell the attention heads: give model.heads=N",
                    opened->path, shape.width);
      goto out;
    }
    shape.heads = shape.width / 128;
    own[count++] = np_format("model.heads=%d", shape.heads);
  }
  own[count++] = np_format("model.width=%d", shape.width);
  own[count++] = np_format("model.blocks=%d", shape.blocks);
  own[count++] = np_format("model.patch_size=%d", shape.patch_size);
  own[count++] = np_format("model.channels=%d", shape.channels);
  own[count++] = np_format("model.mlp_ratio=%d", shape.mlp_ratio);
  own[count++] = np_format("model.norm_eps=1e-6");
  if (has_head) {
    own[count++] = np_format("model.head_width=%d", shape.head_width);
    own[count++] = np_format("model.head_blocks=%d", shape.head_blocks);
  }
  for (int i = 0; i < count; i++) all[i] = own[i];
  for (int i = 0; i < options->override_count; i++) all[count + i] = options->overrides[i];
  NP_TRY(np_recipe_load(NULL, all, count + options->override_count, &opened->recipe));
  const np_recipe_model *m = &opened->recipe->model;
  np_info(
      "%s holds no recipe: width %d, %d blocks, patch %d from its shapes; image %dx%d, %d heads, norm eps %g assumed",
      opened->path, m->width, m->blocks, m->patch_size, m->image_size[0], m->image_size[1], m->heads, m->norm_eps);
out:
  for (int i = 0; i < count; i++) free(own[i]);
  free(all);
  np_recipe_free(defaults);
  return st;
}

/* Its prefix lengths, in words that fit another grid where they can: up to the last patch, where they were. malloc'ed.
 */
static np_status prefix_words(const char *text, const char *name, char **out) {
  np_recipe *own;
  np_status st = np_recipe_parse(text, strlen(text), name, NULL, 0, &own);
  if (st != NP_OK) return st;
  const int *prefix = own->data.prefix, last = np_recipe_tokens(&own->model) - 1;
  *out = np_format("data.prefix=[%d, %d]", prefix[0], prefix[1] == last ? -1 : prefix[1]);
  np_recipe_free(own);
  return NP_OK;
}

/* What is training's alone nobody should have to change here: the kernels of its attention, which another device may
 * not have, and prefix lengths that a grid of fewer patches has not. The user's words come behind and win. */
static np_status read_recipe(np_opened *opened, const np_open_options *options) {
  np_status st = NP_OK;
  const char *text = np_safetensors_metadata(opened->file, "recipe");
  if (!text) return infer_recipe(opened, options);
  opened->own = true;
  const bool other_grid = given(options, "model.image_size") || given(options, "model.patch_size");
  enum { OWN = 2 };
  const char **words = malloc(((size_t)options->override_count + OWN) * sizeof *words);
  char *name = np_format("%s (its recipe)", opened->path), *prefix = NULL;
  if (!words) st = np_error(NP_ERR_MEMORY, "%s: out of memory", opened->path);
  else st = prefix_words(text, name, &prefix);
  if (st != NP_OK) goto out;
  words[0] = "attention=auto";
  words[1] = other_grid ? prefix : words[0];
  for (int i = 0; i < options->override_count; i++) words[OWN + i] = options->overrides[i];
  st = np_recipe_parse(text, strlen(text), name, words, OWN + options->override_count, &opened->recipe);
  if (st == NP_OK || !other_grid || given(options, "data.prefix")) goto out;
  words[1] = "data.prefix=[1, -1]";
  if (np_recipe_parse(text, strlen(text), name, words, OWN + options->override_count, &opened->recipe) != NP_OK)
    goto out;
  np_info("%s: the grid has no such prefix lengths as %s: [1, -1] instead", opened->path, prefix);
  st = NP_OK;
out:
  free(prefix);
  free(name);
  free(words);
  return st;
}

/* ---- model ---- */

static np_status open_ops(np_opened *opened, const np_launch *launch) {
  static const np_launch alone = {.world = 1, .local_world = 1};
  np_status st;
  const np_recipe *recipe = opened->recipe;
  np_ops_choice choice;
  NP_TRY(np_ranks_open(recipe, launch ? launch : &alone, &choice, &opened->ops, &opened->comm));
  opened->threads = choice.threads;
  snprintf(opened->machine, sizeof opened->machine, "%s, %d threads, %d ranks", choice.hardware, choice.threads,
           np_comm_world(opened->comm));
  if (recipe->backend == NP_BACKEND_AUTO) np_info("backend: %s (%s)", choice.hardware, choice.why);
  st = np_ranks_compare(opened->comm, recipe, choice.act);
out:
  return st;
}

static np_status load_weights(np_opened *opened, const np_open_options *options) {
  np_status st = NP_OK;
  const np_params *params = np_model_params(opened->model);
  float *host = calloc((size_t)params->total, sizeof *host);
  if (!host) return np_error(NP_ERR_MEMORY, "%s: no memory for %lld weights", opened->path, (long long)params->total);
  if (options->fresh) np_params_init(params, opened->recipe->seed, host);
  else NP_TRY(np_params_load(params, opened->file, opened->path, host));
  opened->weights = XXH3_64bits(host, (size_t)params->total * sizeof *host);
  NP_TRY(np_model_set_weights(opened->model, host));
out:
  free(host);
  return st;
}

static np_status take(np_opened *opened, const np_open_options *options) {
  const int ranks = np_comm_world(opened->comm), shared = (opened->recipe->probe.batch + ranks - 1) / ranks;
  const np_model_options how = {.batch = options->batch ? options->batch : shared, .head = options->pixel_head};
  np_status st = np_model_create(opened->ops, &opened->recipe->model, &how, &opened->model);
  return st == NP_OK ? load_weights(opened, options) : st;
}

np_status np_open_model(const char *model, const np_open_options *options, np_opened *out) {
  np_status st = NP_OK;
  *out = (np_opened){0};
  NP_TRY(np_checkpoint_locate(model, &out->path));
  NP_TRY(np_checkpoint_verify_model(out->path));
  NP_TRY(np_safetensors_open(out->path, &out->file));
  NP_TRY(read_recipe(out, options));
  if (options->pixel_head && !np_params_head_in(out->file)) {
    st = np_error(NP_ERR_ARGUMENT, "%s: holds no pixel head (head.decoder_...), so it cannot predict patches",
                  out->path);
    goto out;
  }
  NP_TRY(open_ops(out, options->launch));
  NP_TRY(np_comm_settle(out->comm, take(out, options)));
  st = np_comm_same(out->comm, "the weights", (int64_t)out->weights);
out:
  if (st != NP_OK) np_open_close(out);
  return st;
}

void np_open_close(np_opened *opened) {
  np_comm_close(opened->comm); /* first: a device may be waiting for ranks that are gone */
  np_model_destroy(opened->model);
  if (opened->ops) opened->ops->destroy(opened->ops);
  np_recipe_free(opened->recipe);
  np_safetensors_close(opened->file);
  free(opened->path);
  *opened = (np_opened){0};
}

np_loader_options np_open_loader(const np_recipe *recipe, int batch) {
  return (np_loader_options){
      .height = recipe->model.image_size[0],
      .width = recipe->model.image_size[1],
      .channels = recipe->model.channels,
      .batch = batch,
      .seed = recipe->seed,
      .prefix_min = recipe->data.prefix[0],
      .prefix_max = recipe->data.prefix[1],
      .interpolation = NP_BICUBIC,
      .workers = recipe->data.workers,
      .prefetch = recipe->data.prefetch,
      .max_pixels = recipe->data.max_pixels,
      .max_bad_share = recipe->data.max_bad_share,
  };
}

np_status np_open_float_ops(np_opened *opened, np_ops **out, bool *owned) {
  *owned = opened->ops->act != NP_F32;
  *out = opened->ops;
  np_recipe here = *opened->recipe; /* borrows strings */
  here.threads = opened->threads;
  return *owned ? np_ops_open_f32(&here, opened->ops, out) : NP_OK;
}

/* ---- layers ---- */

static np_status parse_layers(const char *text, int layers[NP_MAX_LAYERS], int *count) {
  const char *at = text;
  for (*count = 0;;) {
    char *end;
    long first = strtol(at, &end, 10), last = first;
    if (end == at || !isdigit((unsigned char)*at)) goto bad;
    if (*end == '-') {
      at = end + 1;
      last = strtol(at, &end, 10);
      if (end == at || !isdigit((unsigned char)*at)) goto bad;
    }
    if (last < first || last - first >= NP_MAX_LAYERS) goto bad;
    for (long i = first; i <= last; i++) {
      if (*count == NP_MAX_LAYERS || i > 1 << 20) goto bad;
      layers[(*count)++] = (int)i;
    }
    if (!*end) return NP_OK;
    if (*end != ',') goto bad;
    at = end + 1;
  }
bad:
  return np_error(NP_ERR_ARGUMENT, "layers=%s: expected block numbers such as 2,3,4 or 14-19, or 'last'", text);
}

np_status np_open_layers(const np_recipe *recipe, const char *text, const np_safetensors *head,
                         int layers[NP_MAX_LAYERS], int *count) {
  np_status st;
  const np_recipe_probe *probe = &recipe->probe;
  const int blocks = recipe->model.blocks;
  *count = 0;
  if (!text && head) text = np_safetensors_metadata(head, "layers");
  if (text && strcmp(text, "last")) {
    if ((st = parse_layers(text, layers, count)) != NP_OK) return st;
  } else if (!text) {
    for (; *count < (int)probe->layers_count; ++*count) layers[*count] = probe->layers[*count];
  }
  if (!*count)
    for (int i = blocks > 6 ? blocks - 6 : 0; i < blocks; i++) layers[(*count)++] = i;
  for (int i = 0; i < *count; i++) {
    if (layers[i] < 0 || layers[i] >= blocks)
      return np_error(NP_ERR_ARGUMENT, "layers: %d is not a block of this model, whose blocks are 0..%d", layers[i],
                      blocks - 1);
    if (i && layers[i] <= layers[i - 1])
      return np_error(NP_ERR_ARGUMENT, "layers: %d stands behind %d; expected ascending block numbers", layers[i],
                      layers[i - 1]);
  }
  return NP_OK;
}

char *np_layers_text(const int *layers, int count) {
  char *text = np_format("%d", layers[0]);
  for (int i = 1; i < count; i++) {
    char *longer = np_format("%s,%d", text, layers[i]);
    free(text);
    text = longer;
  }
  return text;
}
