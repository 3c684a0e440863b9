#include "train/begin.h"

#include "checkpoint/checkpoint.h"
#include "util/log.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Lines of the model section that differ; the grid may, for its positions are a fixed table. */
static void warn_of(const np_begin *b, const char *now, const char *then) {
  np_difference d = {.a = now, .b = then};
  while (np_recipe_next_difference(&d)) {
    if (strcmp(d.section, "model.") != 0 || !strncmp(d.a_line, "image_size:", 11)) continue;
    if (!strncmp(d.a_line, "head_", 5) && !np_params_head_in(b->file)) continue;
    np_warn("run.init: '%s' was trained with %s%.*s, this run has %.*s", b->path, d.section, d.b_length, d.b_line,
            d.a_length, d.a_line);
  }
}

static np_status compare(const np_begin *b, const np_recipe *recipe) {
  np_status st = NP_OK;
  np_recipe *old = NULL;
  char *now = NULL, *then = NULL;
  const char *text = np_safetensors_metadata(b->file, NP_METADATA_RECIPE);
  if (!text) {
    np_warn(
        "run.init: '%s' holds no recipe: whether it was trained with model.heads: %d and model.norm_eps: %g it does "
        "not tell",
        b->path, recipe->model.heads, recipe->model.norm_eps);
    return NP_OK;
  }
  NP_TRY(np_recipe_parse(text, strlen(text), b->path, NULL, 0, &old));
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

np_status np_begin_weights(const np_begin *b, const np_recipe *recipe, const np_params *params, float *weights) {
  if (b->file && np_params_head_in(b->file)) return np_params_load(params, b->file, b->path, weights);
  np_params_init(params, recipe->seed, weights);
  return b->file ? np_params_load_trunk(params, b->file, b->path, weights) : NP_OK;
}
