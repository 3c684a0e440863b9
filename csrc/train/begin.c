#include "train/begin.h"

#include "checkpoint/checkpoint.h"
#include "util/log.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Keys of the model section that no shape tells of. The grid may be another: its positions are a fixed table. */
static bool tells_no_shape(const np_begin *b, const char *line) {
  static const char *const always[] = {"heads:", "norm_eps:", "pixel_mean:", "pixel_std:"};
  static const char *const of_head[] = {"head_block:", "pixel_target:"};
  for (size_t i = 0; i < sizeof always / sizeof *always; i++)
    if (!strncmp(line, always[i], strlen(always[i]))) return true;
  for (size_t i = 0; i < sizeof of_head / sizeof *of_head; i++)
    if (!strncmp(line, of_head[i], strlen(of_head[i]))) return np_params_head_in(b->file);
  return false;
}

static void warn_of(const np_begin *b, const char *now, const char *then) {
  np_difference d = {.a = now, .b = then};
  while (np_recipe_next_difference(&d))
    if (!strcmp(d.section, "model.") && tells_no_shape(b, d.a_line))
      np_warn("run.init: '%s' was trained with %s%.*s, this run has %.*s", b->path, d.section, d.b_length, d.b_line,
              d.a_length, d.a_line);
}

/* A recipe that this program does not read is no reason to refuse the weights. */
static np_status compare(const np_begin *b, const np_recipe *recipe) {
  np_status st = NP_OK;
  np_recipe *old = NULL;
  char *now = NULL, *then = NULL;
  const char *text = np_safetensors_metadata(b->file, NP_METADATA_RECIPE);
  if (!text || np_recipe_parse(text, strlen(text), b->path, NULL, 0, &old) != NP_OK) {
    np_warn("run.init: '%s' holds no recipe%s: whether it was trained with model.heads: %d, norm_eps: %g, and this "
            "run's head_block, pixel_target, pixel_mean and pixel_std, it does not tell (published models: "
            "heads of width 128, norm_eps: 1e-6)",
            b->path, text ? " that can be read" : "", recipe->model.heads, recipe->model.norm_eps);
    return NP_OK;
  }
  NP_TRY(np_recipe_dump(recipe, &now));
  NP_TRY(np_recipe_dump(old, &then));
  warn_of(b, now, then);
out:
  free(then);
  free(now);
  np_recipe_free(old);
  return st;
}

np_status np_begin_open(const np_recipe *recipe, bool tell, np_begin *out) {
  np_status st = NP_OK;
  *out = (np_begin){0};
  if (!recipe->run.init || !*recipe->run.init) return NP_OK;
  NP_TRY(np_checkpoint_locate(recipe->run.init, &out->path));
  NP_TRY(np_checkpoint_verify_model(out->path));
  NP_TRY(np_safetensors_open(out->path, &out->file));
  if (!tell) return NP_OK;
  np_info("weights: those of '%s'%s", out->path,
          np_params_head_in(out->file) ? "" : ", which has no pixel head: that is drawn from the seed");
  st = compare(out, recipe);
out:
  if (st != NP_OK) np_error_context(st, "run.init");
  return st;
}

void np_begin_close(np_begin *b) {
  np_safetensors_close(b->file);
  free(b->path);
  *b = (np_begin){0};
}

/* NP_ERR_NUMERIC and the tensor's name, where a value is not finite. */
static np_status check_finite(const np_begin *b, const np_params *params, const float *weights) {
  for (int i = 0; i < params->count; i++) {
    const np_param *p = &params->items[i];
    const float *w = weights + p->offset;
    uint32_t most = 0; /* of exponents */
    for (int64_t j = 0; j < p->count; j++) {
      uint32_t bits;
      memcpy(&bits, &w[j], sizeof bits);
      bits &= 0x7f800000u;
      most = bits > most ? bits : most;
    }
    if (most == 0x7f800000u) return np_error(NP_ERR_NUMERIC, "%s: tensor %s is not finite", b->path, p->name);
  }
  return NP_OK;
}

np_status np_begin_weights(np_begin *b, const np_recipe *recipe, const np_params *params, float *weights) {
  np_status st = NP_OK;
  const bool head = b->file && np_params_head_in(b->file);
  if (!head) np_params_init(params, recipe->seed, weights);
  if (!b->file) return NP_OK;
  NP_TRY(head ? np_params_load(params, b->file, b->path, weights)
              : np_params_load_trunk(params, b->file, b->path, weights));
  NP_TRY(check_finite(b, params, weights));
  b->hash = XXH3_64bits(weights, (size_t)params->total * sizeof *weights);
out:
  if (st != NP_OK) np_error_context(st, "run.init");
  return st;
}
