/* The public C API (include/nextpatch/nextpatch.h) as thin calls into the rooms. */
#include "nextpatch/nextpatch.h"

#include "image/image.h"
#include "probe/open.h"
#include "recipe/recipe.h"
#include "util/build.h"
#include "util/log.h"
#include "util/status.h"

#include <stdlib.h>
#include <string.h>

_Static_assert((int)NEXTPATCH_OK == (int)NP_OK && (int)NEXTPATCH_ERROR_ARGUMENT == (int)NP_ERR_ARGUMENT &&
                   (int)NEXTPATCH_ERROR_IO == (int)NP_ERR_IO && (int)NEXTPATCH_ERROR_FORMAT == (int)NP_ERR_FORMAT &&
                   (int)NEXTPATCH_ERROR_MEMORY == (int)NP_ERR_MEMORY &&
                   (int)NEXTPATCH_ERROR_LIBRARY == (int)NP_ERR_LIBRARY &&
                   (int)NEXTPATCH_ERROR_NUMERIC == (int)NP_ERR_NUMERIC &&
                   (int)NEXTPATCH_ERROR_INTERRUPTED == (int)NP_ERR_INTERRUPTED,
               "the public status is the internal one by value");

const char *nextpatch_version(void) { return np_build_version(); }
const char *nextpatch_error(void) { return np_error_message(); }

nextpatch_status nextpatch_recipe_check(const char *path, const char *const *overrides, int override_count) {
  np_recipe *recipe = NULL;
  np_status st = np_recipe_load(path, overrides, override_count, &recipe);
  if (st == NP_OK) np_recipe_free(recipe);
  return (nextpatch_status)st;
}

nextpatch_status nextpatch_image_decode(const void *bytes, size_t size, int channels, int64_t max_pixels,
                                        nextpatch_image *out) {
  np_image image = {0};
  np_status st = NP_OK;
  *out = (nextpatch_image){0};
  if (channels != 1 && channels != 3) {
    st = np_error(NP_ERR_ARGUMENT, "nextpatch_image_decode: channels %d: expected 1 or 3", channels);
  } else if ((st = np_image_decode(bytes, size, "image", channels, max_pixels ? max_pixels : 100000000, &image)) ==
             NP_OK) {
    *out = (nextpatch_image){image.height, image.width, image.channels, image.pixels};
  }
  return (nextpatch_status)st;
}

void nextpatch_image_free(nextpatch_image *image) {
  np_image inner = {image->height, image->width, image->channels, image->pixels};
  np_image_free(&inner);
  *image = (nextpatch_image){0};
}

/* ---- models ---- */

struct nextpatch_model {
  np_opened opened;
  int batch; /* images of one pass */
};

nextpatch_status nextpatch_model_load(const char *path, const char *const *overrides, int override_count,
                                      nextpatch_model **out) {
  np_status st = NP_OK;
  np_open_options how = {.overrides = overrides, .override_count = override_count};
  nextpatch_model *model = calloc(1, sizeof *model);
  *out = NULL;
  if (!model) return (nextpatch_status)np_error(NP_ERR_MEMORY, "%s: out of memory", path);
  np_log_set_level(NP_LOG_QUIET);
  NP_TRY(np_open_model(path, &how, &model->opened));
  model->batch = model->opened.recipe->probe.batch;
  *out = model;
  model = NULL;
out:
  nextpatch_model_free(model);
  return (nextpatch_status)st;
}

void nextpatch_model_free(nextpatch_model *model) {
  if (!model) return;
  np_open_close(&model->opened);
  free(model);
}

nextpatch_model_info nextpatch_model_describe(const nextpatch_model *model) {
  const np_recipe_model *m = np_model_config(model->opened.model);
  return (nextpatch_model_info){
      .height = m->image_size[0],
      .width = m->image_size[1],
      .channels = m->channels,
      .patch_size = m->patch_size,
      .tokens = np_recipe_tokens(m),
      .feature_width = m->width,
      .blocks = m->blocks,
      .parameters = np_model_params(model->opened.model)->elements,
  };
}

nextpatch_status nextpatch_image_prepare(const nextpatch_model *model, const void *bytes, size_t size,
                                         uint8_t *pixels) {
  const np_recipe *recipe = model->opened.recipe;
  const np_recipe_model *m = &recipe->model;
  np_image image = {0}, fitted = {0};
  np_status st;
  NP_TRY(np_image_decode(bytes, size, "image", m->channels, recipe->data.max_pixels, &image));
  NP_TRY(np_image_eval_crop(&image, m->image_size[0], m->image_size[1], &fitted));
  memcpy(pixels, fitted.pixels, (size_t)fitted.height * (size_t)fitted.width * (size_t)fitted.channels);
out:
  np_image_free(&image);
  np_image_free(&fitted);
  return (nextpatch_status)st;
}

/* The chosen blocks, or the last six. */
static np_status choose_layers(const np_recipe_model *m, const int *layers, int layer_count, int chosen[NP_MAX_LAYERS],
                               int *count) {
  if (!layer_count) {
    *count = m->blocks < 6 ? m->blocks : 6;
    for (int i = 0; i < *count; i++) chosen[i] = m->blocks - *count + i;
    return NP_OK;
  }
  for (int i = 0; i < layer_count; i++) {
    if (i == NP_MAX_LAYERS || layers[i] < 0 || layers[i] >= m->blocks || (i && layers[i] <= layers[i - 1]))
      return np_error(NP_ERR_ARGUMENT, "nextpatch_encode: layers[%d]: expected ascending blocks from 0 to %d", i,
                      m->blocks - 1);
    chosen[i] = layers[i];
  }
  *count = layer_count;
  return NP_OK;
}

nextpatch_status nextpatch_encode(nextpatch_model *model, int count, const uint8_t *pixels, const int *layers,
                                  int layer_count, float *out) {
  const np_recipe_model *m = np_model_config(model->opened.model);
  np_ops *ops = np_model_ops(model->opened.model);
  const size_t image = (size_t)m->image_size[0] * (size_t)m->image_size[1] * (size_t)m->channels;
  const size_t values = (size_t)np_recipe_tokens(m) * (size_t)m->width;
  int chosen[NP_MAX_LAYERS], chosen_count = 0;
  void *device = NULL;
  np_status st;
  NP_TRY(choose_layers(m, layers, layer_count, chosen, &chosen_count));
  NP_TRY(ops->alloc(ops, (size_t)model->batch * values * sizeof(float), &device));
  for (int done = 0; done < count; done += model->batch) {
    int part = count - done < model->batch ? count - done : model->batch;
    NP_TRY(np_model_feed(model->opened.model, part, pixels + (size_t)done * image, NULL, NULL));
    NP_TRY(np_model_features(model->opened.model, chosen, chosen_count, device));
    NP_TRY(ops->download(ops, out + (size_t)done * values, device, (size_t)part * values * sizeof(float)));
  }
out:
  ops->release(ops, device);
  return (nextpatch_status)st;
}
