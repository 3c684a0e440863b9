/* Colour jitter on 8-bit images with the arithmetic of Pillow's ImageEnhance and of its HSV conversions. */
#include "image/internal.h"
#include "util/philox.h"

#include <string.h>

/* from + factor · (to - from) in float, cut (not rounded) to 8 bits: Pillow's Image.blend(from, to, factor). */
static inline uint8_t blend(int from, int to, float factor) {
  const float value = (float)from + factor * (float)(to - from);
  return value <= 0.0f ? 0 : value >= 255.0f ? 255 : (uint8_t)value;
}

static size_t value_count(const np_image *image) {
  return (size_t)image->height * (size_t)image->width * (size_t)image->channels;
}

/* Blend every value with the same grey: 256 results. */
static void blend_with(np_image *image, int grey, float factor) {
  uint8_t table[256];
  for (int i = 0; i < 256; i++) table[i] = blend(grey, i, factor);
  const size_t count = value_count(image);
  for (size_t i = 0; i < count; i++) image->pixels[i] = table[image->pixels[i]];
}

static int mean_grey(const np_image *image) {
  const size_t count = value_count(image);
  uint64_t sum = 0;
  if (image->channels == 1) {
    for (size_t i = 0; i < count; i++) sum += image->pixels[i];
  } else {
    for (size_t i = 0; i < count; i += 3) sum += np_grey(image->pixels + i);
  }
  const double pixels = (double)image->height * image->width;
  return (int)((double)sum / pixels + 0.5);
}

static void saturate(np_image *image, float factor) {
  uint8_t *pixel = image->pixels, *end = pixel + value_count(image);
  for (; pixel < end; pixel += 3) {
    const int grey = np_grey(pixel);
    for (int c = 0; c < 3; c++) pixel[c] = blend(grey, pixel[c], factor);
  }
}

/* Doubles and floats where Pillow's C has them, as they decide the last bit. */
static void rgb_to_hsv(const uint8_t rgb[3], uint8_t hsv[3]) {
  const int r = rgb[0], g = rgb[1], b = rgb[2];
  const int high = r > g ? (r > b ? r : b) : (g > b ? g : b), low = r < g ? (r < b ? r : b) : (g < b ? g : b);
  hsv[0] = hsv[1] = 0;
  hsv[2] = (uint8_t)high;
  if (low == high) return;
  const float span = (float)(high - low), saturation = span / (float)high;
  const float rc = (float)(high - r) / span, gc = (float)(high - g) / span, bc = (float)(high - b) / span;
  float hue;
  if (r == high) hue = bc - gc;
  else if (g == high) hue = (float)(2.0 + rc - bc);
  else hue = (float)(4.0 + gc - rc);
  const double turn = hue / 6.0 + 1.0; /* in [5/6, 11/6] */
  hue = (float)(turn >= 1.0 ? turn - 1.0 : turn);
  hsv[0] = (uint8_t)(int)(hue * 255.0);
  hsv[1] = (uint8_t)(int)(saturation * 255.0);
}

/* v · share rounded half away from zero; both are in range, so adding a half and cutting does it. */
static uint8_t share_of(uint8_t value, double share) { return (uint8_t)(int)((float)value * share + 0.5); }

static void hsv_to_rgb(const uint8_t hsv[3], uint8_t rgb[3]) {
  static const unsigned char pick[6][3] = {{0, 3, 1}, {2, 0, 1}, {1, 0, 3}, {1, 2, 0}, {3, 1, 0}, {0, 1, 2}};
  if (hsv[1] == 0) {
    memset(rgb, hsv[2], 3);
    return;
  }
  const double sixth = (float)hsv[0] * 6.0 / 255.0;
  const int sector = (int)sixth;
  const float rest = (float)(sixth - (float)sector), saturation = (float)((float)hsv[1] / 255.0);
  const uint8_t v = hsv[2];
  const uint8_t vpqt[4] = {v, share_of(v, 1.0 - saturation), share_of(v, 1.0 - saturation * rest),
                           share_of(v, 1.0 - saturation * (1.0 - rest))};
  for (int c = 0; c < 3; c++) rgb[c] = vpqt[pick[sector % 6][c]];
}

static void turn_hue(np_image *image, double hue) {
  const uint8_t shift = (uint8_t)(int)(hue * 255); /* wraps, as NumPy's uint8 does */
  uint8_t *pixel = image->pixels, *end = pixel + value_count(image);
  for (; pixel < end; pixel += 3) {
    uint8_t hsv[3];
    rgb_to_hsv(pixel, hsv);
    hsv[0] = (uint8_t)(hsv[0] + shift);
    hsv_to_rgb(hsv, pixel);
  }
}

np_status np_image_jitter(np_image *image, const np_jitter *jitter) {
  if (!(jitter->hue >= -0.5 && jitter->hue <= 0.5))
    return np_error(NP_ERR_ARGUMENT, "hue turn %g, expected -0.5 to 0.5", jitter->hue);
  if (!(jitter->brightness >= 0 && jitter->contrast >= 0 && jitter->saturation >= 0))
    return np_error(NP_ERR_ARGUMENT, "jitter factors %g, %g, %g, expected none below 0", jitter->brightness,
                    jitter->contrast, jitter->saturation);
  const int colour = image->channels == 3;
  for (int i = 0; i < 4; i++) {
    switch (jitter->order[i]) {
    case 0:
      blend_with(image, 0, (float)jitter->brightness);
      break;
    case 1:
      blend_with(image, mean_grey(image), (float)jitter->contrast);
      break;
    case 2:
      if (colour) saturate(image, (float)jitter->saturation);
      break;
    case 3:
      if (colour) turn_hue(image, jitter->hue);
      break;
    default:
      return np_error(NP_ERR_ARGUMENT, "jitter operation %d, expected 0 to 3", jitter->order[i]);
    }
  }
  return NP_OK;
}

static double factor(double strength, np_rng *rng) {
  const double low = strength < 1 ? 1 - strength : 0;
  return low + (1 + strength - low) * np_rng_uniform(rng);
}

np_jitter np_jitter_draw(const double strength[4], np_rng *rng) {
  np_jitter jitter = {.order = {0, 1, 2, 3}};
  for (uint32_t i = 3; i > 0; i--) { /* Fisher-Yates */
    const uint32_t j = np_rng_below(rng, i + 1);
    const int kept = jitter.order[i];
    jitter.order[i] = jitter.order[j];
    jitter.order[j] = kept;
  }
  jitter.brightness = factor(strength[0], rng);
  jitter.contrast = factor(strength[1], rng);
  jitter.saturation = factor(strength[2], rng);
  jitter.hue = strength[3] * (2 * np_rng_uniform(rng) - 1);
  return jitter;
}
