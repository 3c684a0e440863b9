#include "probe/complete.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PANELS = 3, GAP = 2, GREY = 128, WHITE = 255 };

/* Patches as the pixel head orders them: value (r·P + c)·C + channel of patch k. */
static size_t pixel_at(const np_recipe_model *m, int patch, int value) {
  const int P = m->patch_size, C = m->channels, columns = m->image_size[1] / P;
  const int row = patch / columns * P + value / (P * C), column = patch % columns * P + value / C % P;
  return ((size_t)row * (size_t)m->image_size[1] + (size_t)column) * (size_t)C + (size_t)(value % C);
}

/* Write the prediction [P·P·C] of `patch` into `image`, with the mean and variance of the true patch (model.md 7,
 * backwards). */
static void draw_patch(const np_recipe_model *m, const uint8_t *truth, int patch, const float *prediction,
                       uint8_t *image) {
  const int values = np_recipe_patch_values(m);
  double sum = 0, square = 0;
  for (int i = 0; i < values; i++) {
    const int c = i % m->channels;
    const double x = (truth[pixel_at(m, patch, i)] / 255.0 - m->pixel_mean[c]) / m->pixel_std[c];
    sum += x;
    square += x * x;
  }
  const double mean = sum / values, variance = values > 1 ? fmax(0, (square - sum * mean) / (values - 1)) : 0;
  const bool raw = m->pixel_target == NP_TARGET_RAW;
  const double deviation = raw ? 1 : sqrt(variance + 1e-6), shift = raw ? 0 : mean;
  for (int i = 0; i < values; i++) {
    const int c = i % m->channels;
    const double x = prediction[i] * deviation + shift;
    const double level = round((x * m->pixel_std[c] + m->pixel_mean[c]) * 255);
    image[pixel_at(m, patch, i)] = (uint8_t)(level >= 255 ? 255 : level > 0 ? level : 0); /* NaN: 0 */
  }
}

/* Replace the patches from `prefix` on in `image` (which begins as the truth). */
static np_status predict(np_model *model, const uint8_t *truth, int prefix, bool rollout, uint8_t *image) {
  np_status st = NP_OK;
  const np_recipe_model *m = np_model_config(model);
  const int tokens = np_recipe_tokens(m), values = np_recipe_patch_values(m);
  const int32_t given = prefix;
  float *predictions = malloc((size_t)tokens * (size_t)values * sizeof *predictions);
  if (!predictions) return np_error(NP_ERR_MEMORY, "complete: out of memory");
  for (int k = prefix; k < tokens; k++) {
    /* The mask hides patches from k on, so what still stands there does not matter. */
    if (k == prefix || rollout) {
      NP_TRY(np_model_feed(model, 1, rollout ? image : truth, NULL, &given));
      NP_TRY(np_model_predict(model, predictions));
    }
    draw_patch(m, truth, k, predictions + (size_t)(k - 1) * (size_t)values, image);
  }
out:
  free(predictions);
  return st;
}

/* Grey out the patches from `prefix` on. */
static void hide(const np_recipe_model *m, int prefix, uint8_t *image) {
  for (int k = prefix; k < np_recipe_tokens(m); k++)
    for (int i = 0; i < np_recipe_patch_values(m); i++) image[pixel_at(m, k, i)] = GREY;
}

static void draw_panel(const np_image *panel, int place, int scale, np_image *out) {
  const size_t channels = (size_t)panel->channels, left = (size_t)(place * (panel->width + GAP) * scale);
  for (int y = 0; y < out->height; y++) {
    uint8_t *to = out->pixels + ((size_t)y * (size_t)out->width + left) * channels;
    const uint8_t *from = panel->pixels + (size_t)(y / scale) * (size_t)panel->width * channels;
    for (int x = 0; x < panel->width * scale; x++)
      memcpy(to + (size_t)x * channels, from + (size_t)(x / scale) * channels, channels);
  }
}

np_status np_complete_picture(np_model *model, const np_image *image, int prefix, bool rollout, int scale,
                              np_image *out) {
  np_status st = NP_OK;
  const np_recipe_model *m = np_model_config(model);
  const int tokens = np_recipe_tokens(m);
  const size_t bytes = (size_t)image->height * (size_t)image->width * (size_t)image->channels;
  np_image panels[PANELS] = {*image, *image, *image};
  *out = (np_image){0};
  for (int i = 0; i < PANELS; i++) panels[i].pixels = NULL;
  if (image->height != m->image_size[0] || image->width != m->image_size[1] || image->channels != m->channels)
    return np_error(NP_ERR_ARGUMENT, "complete: the image is %d × %d × %d, the model wants %d × %d × %d", image->height,
                    image->width, image->channels, m->image_size[0], m->image_size[1], m->channels);
  if (prefix < 1 || prefix >= tokens)
    return np_error(NP_ERR_ARGUMENT, "prefix=%d: expected 1..%d patches of the %d", prefix, tokens - 1, tokens);
  if (scale < 1 || scale > 64) return np_error(NP_ERR_ARGUMENT, "scale=%d: expected 1..64", scale);
  const int width = (PANELS * image->width + (PANELS - 1) * GAP) * scale;
  *out = (np_image){.height = image->height * scale, .width = width, .channels = image->channels};
  const size_t size = (size_t)out->height * (size_t)width * (size_t)out->channels;
  out->pixels = malloc(size);
  for (int i = 0; i < PANELS; i++) panels[i].pixels = malloc(bytes);
  if (!out->pixels || !panels[0].pixels || !panels[1].pixels || !panels[2].pixels) {
    st = np_error(NP_ERR_MEMORY, "complete: out of memory");
    goto out;
  }
  for (int i = 0; i < PANELS; i++) memcpy(panels[i].pixels, image->pixels, bytes);
  hide(m, prefix, panels[0].pixels);
  NP_TRY(predict(model, image->pixels, prefix, rollout, panels[1].pixels));
  memset(out->pixels, WHITE, size);
  for (int i = 0; i < PANELS; i++) draw_panel(&panels[i], i, scale, out);
out:
  for (int i = 0; i < PANELS; i++) free(panels[i].pixels);
  if (st != NP_OK) np_image_free(out);
  return st;
}
