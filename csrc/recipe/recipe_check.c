/* Ranges of single values, then what values must be to each other. Runs once on the final recipe, so that an override
 * can mend a file and every message tells where the value that counts came from. */
#include "recipe/recipe_schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct check {
  np_recipe *recipe;
  const np_origins *origins;
  bool trains; /* the recipe is to be trained */
} check;

/* sizeof makes the compiler check that the struct has the field. */
#define KEY(field) np_key_find("", sizeof(((np_recipe *)0)->field) > 0 ? #field : "")

np_status np_origin_error(const np_origins *origins, const np_key *key, const np_key *other, const char *format, ...) {
  const np_origin *own = &origins->of[key - np_keys];
  const np_origin *place = !own->where && other ? &origins->of[other - np_keys] : own;
  const char *text = own->text ? own->text : key->fallback, *where = place->where ? place->where : "defaults";
  char rest[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(rest, sizeof rest, format, arguments);
  va_end(arguments);
  if (place->line > 0) return np_error(NP_ERR_ARGUMENT, "%s:%d: %s: %s%s", where, place->line, key->name, text, rest);
  return np_error(NP_ERR_ARGUMENT, "%s: %s=%s%s", where, key->name, text, rest);
}

static double number(const np_key *key, const np_recipe *recipe, unsigned i) {
  const char *at = (const char *)recipe + key->offset + i * np_key_value_size(key->type);
  switch (key->type) {
  case NP_KEY_INT:
    return *(const int *)at;
  case NP_KEY_INT64:
    return (double)*(const int64_t *)at;
  case NP_KEY_DOUBLE:
    return *(const double *)at;
  default:
    return 0; /* any is in range */
  }
}

static np_status ranges(check c) {
  char allowed[NP_ALLOWED_ROOM];
  for (unsigned k = 0; k < np_key_count; k++) {
    const np_key *key = &np_keys[k];
    bool is_number = key->type == NP_KEY_INT || key->type == NP_KEY_INT64 || key->type == NP_KEY_DOUBLE;
    for (unsigned i = 0; is_number && i < np_key_values(key, c.recipe); i++)
      if (!np_range_holds(key->range, number(key, c.recipe, i)))
        return np_origin_error(c.origins, key, NULL, ": expected %s", np_key_allowed(key, allowed));
  }
  return NP_OK;
}

static np_status check_model(check c) {
  const np_recipe_model *m = &c.recipe->model;
  if (m->image_size[0] % m->patch_size != 0 || m->image_size[1] % m->patch_size != 0)
    return np_origin_error(c.origins, KEY(model.patch_size), KEY(model.image_size),
                           " does not divide model.image_size [%d, %d]; allowed: a divisor of both", m->image_size[0],
                           m->image_size[1]);
  if (c.trains && np_recipe_tokens(m) < 2)
    return np_origin_error(c.origins, KEY(model.image_size), KEY(model.patch_size),
                           " is one patch of model.patch_size %d, and none is left to predict; allowed: two patches or "
                           "more",
                           m->patch_size);
  if (m->channels == 2) return np_origin_error(c.origins, KEY(model.channels), NULL, ": expected 1 (grey) or 3 (RGB)");
  if (m->pixel_target == NP_TARGET_STANDARDISED && np_recipe_patch_values(m) < 2)
    return np_origin_error(c.origins, KEY(model.patch_size), NULL,
                           " makes patches of a single value, which has no deviation for model.pixel_target "
                           "standardised; allowed: a larger patch, or model.pixel_target: raw");
  if (m->width % 4 != 0)
    return np_origin_error(c.origins, KEY(model.width), NULL,
                           ": expected a multiple of 4 (the position table has four parts)");
  if (m->width % m->heads != 0)
    return np_origin_error(c.origins, KEY(model.heads), KEY(model.width),
                           " does not divide model.width %d; allowed: a divisor of it", m->width);
  int head = m->width / m->heads;
  if (head < 8 || head > 256 || head % 8 != 0)
    return np_origin_error(
        c.origins, KEY(model.heads), KEY(model.width),
        " makes heads of model.width / heads = %d / %d = %d; allowed: a head width from 8 to 256, a multiple of 8",
        m->width, m->heads, head);
  if (m->head_width % 4 != 0)
    return np_origin_error(c.origins, KEY(model.head_width), NULL,
                           ": expected a multiple of 4 (the position table has four parts)");
  return NP_OK;
}

/* What only some backends can do; np_ops_choose looks again where the backend is auto. */
static np_status check_backend(check c) {
  const np_recipe *r = c.recipe;
  int head = r->model.width / r->model.heads;
  if (r->backend == NP_BACKEND_CUDA && r->precision != NP_PRECISION_FP32 && head > 128)
    return np_origin_error(c.origins, KEY(model.heads), KEY(model.width),
                           " makes heads of model.width / heads = %d / %d = %d; backend cuda takes up to 128 in bf16: "
                           "more heads, or precision: fp32",
                           r->model.width, r->model.heads, head);
  if (r->attention == NP_ATTENTION_HOPPER && (head % 32 != 0 || head > 128))
    return np_origin_error(
        c.origins, KEY(attention), NULL,
        " takes heads 32, 64, 96 or 128 wide, and model.width / heads = %d / %d = %d; allowed: auto, portable",
        r->model.width, r->model.heads, head);
  if (c.trains && r->attention == NP_ATTENTION_CUDNN)
    return np_origin_error(c.origins, KEY(attention), NULL,
                           " has no prefix mask, which training needs; it serves features, probes and bench attention; "
                           "allowed: auto, portable, hopper");
  return NP_OK;
}

static np_status pair(check c, const np_key *key, const double value[2]) {
  if (value[0] <= value[1]) return NP_OK;
  return np_origin_error(c.origins, key, NULL, ": expected the smaller value first");
}

static np_status check_prefix(check c) {
  int *prefix = c.recipe->data.prefix, last = np_recipe_tokens(&c.recipe->model) - 1;
  /* A change of shape or of the default's ends is told where the shape was given. */
  const np_key *key = KEY(data.prefix), *shape = KEY(model.patch_size), *size = KEY(model.image_size);
  const char *patch_at = c.origins->of[shape - np_keys].where, *size_at = c.origins->of[size - np_keys].where;
  if (!patch_at || (size_at && !strcmp(size_at, NP_COMMAND_LINE)))
    shape = size; /* what came last is the likelier slip */
  if (prefix[1] == -1) prefix[1] = last;
  if (prefix[0] < 0 || prefix[1] > last || prefix[0] > prefix[1])
    return np_origin_error(c.origins, key, shape,
                           " is not a range of prefix lengths for N = %d patches; allowed: [smallest, largest] within "
                           "0..%d, or -1 as largest",
                           last + 1, last);
  return NP_OK;
}

static np_status check_data(check c) {
  const np_recipe_data *d = &c.recipe->data;
  np_status st;
  NP_TRY(pair(c, KEY(data.crop_scale), d->crop_scale));
  NP_TRY(pair(c, KEY(data.crop_ratio), d->crop_ratio));
  if (d->jitter[3] > 0.5)
    st = np_origin_error(c.origins, KEY(data.jitter), NULL, ": expected a hue (the last value) from 0 to 0.5");
  else st = check_prefix(c);
out:
  return st;
}

static np_status check_train(check c) {
  const np_recipe_train *t = &c.recipe->train;
  if (t->micro_batch > 0 && t->batch % t->micro_batch != 0)
    return np_origin_error(c.origins, KEY(train.micro_batch), KEY(train.batch),
                           " does not divide train.batch %d; allowed: a divisor of it, or 0", t->batch);
  return NP_OK;
}

static np_status check_probe(check c) {
  const np_recipe_probe *p = &c.recipe->probe;
  int blocks = c.recipe->model.blocks;
  const np_key *key = KEY(probe.layers);
  for (unsigned i = 0; i < p->layers_count; i++) {
    if (p->layers[i] >= blocks)
      return np_origin_error(c.origins, key, KEY(model.blocks), " names block %d; allowed: 0..%d, model.blocks is %d",
                             p->layers[i], blocks - 1, blocks);
    if (i > 0 && p->layers[i] <= p->layers[i - 1])
      return np_origin_error(c.origins, key, NULL, " names block %d behind %d; allowed: ascending, each once",
                             p->layers[i], p->layers[i - 1]);
  }
  if (p->lr_count == 0) return np_origin_error(c.origins, KEY(probe.lr), NULL, ": expected at least one value");
  if (p->weight_decay_count == 0)
    return np_origin_error(c.origins, KEY(probe.weight_decay), NULL, ": expected at least one value");
  return pair(c, KEY(probe.crop_scale), p->crop_scale);
}

np_status np_recipe_check(np_recipe *recipe, const np_origins *origins, bool trains) {
  check c = {recipe, origins, trains};
  np_status st;
  NP_TRY(ranges(c));
  NP_TRY(check_model(c));
  NP_TRY(check_backend(c));
  NP_TRY(check_data(c));
  NP_TRY(check_train(c));
  NP_TRY(check_probe(c));
out:
  return st;
}

np_status np_recipe_share(const np_recipe *recipe, int ranks, int *step, int *micro) {
  const int batch = recipe->train.batch;
  *step = batch / ranks;
  *micro = recipe->train.micro_batch ? recipe->train.micro_batch : *step;
  if (batch % ranks == 0 && *micro <= *step && *step % *micro == 0) return NP_OK;
  if (recipe->train.micro_batch == 0)
    return np_error(NP_ERR_ARGUMENT, "train.batch: %d among %d ranks; expected a multiple of %d", batch, ranks, ranks);
  return np_error(
      NP_ERR_ARGUMENT,
      "train.batch: %d among %d ranks in passes of train.micro_batch %d images; expected a multiple of %lld", batch,
      ranks, recipe->train.micro_batch, (long long)ranks * recipe->train.micro_batch);
}
