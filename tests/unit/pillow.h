/* What Pillow made of small images (tests/data/make_pillow.py), for the tests of the image room. */
#ifndef NP_TESTS_UNIT_PILLOW_H
#define NP_TESTS_UNIT_PILLOW_H

#include "image/image.h"
#include "util/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static np_safetensors *pillow;

static inline int open_pillow(void **state) {
  (void)state;
  return np_safetensors_open(NP_SOURCE_DIR "/tests/data/pillow.safetensors", &pillow) == NP_OK ? 0 : -1;
}

static inline int close_pillow(void **state) {
  (void)state;
  np_safetensors_close(pillow);
  return 0;
}

/* Tensor "GROUP.I.WHAT"; NULL when there are no more. */
static inline const np_tensor *pillow_case(const char *group, int i, const char *what) {
  char name[64];
  snprintf(name, sizeof name, "%s.%d.%s", group, i, what);
  return np_safetensors_find(pillow, name);
}

/* A copy of the top left corner of the source image; 0 takes all. */
static inline np_image pillow_source(int grey, int height, int width) {
  const np_tensor *tensor = np_safetensors_find(pillow, grey ? "source-grey" : "source");
  assert_non_null(tensor);
  const size_t channels = grey ? 1 : 3, full = (size_t)tensor->shape[1];
  np_image image = {.height = height ? height : (int)tensor->shape[0],
                    .width = width ? width : (int)tensor->shape[1],
                    .channels = (int)channels};
  const size_t row = (size_t)image.width * channels;
  image.pixels = malloc((size_t)image.height * row);
  assert_non_null(image.pixels);
  for (size_t y = 0; y < (size_t)image.height; y++)
    memcpy(image.pixels + y * row, (const uint8_t *)tensor->data + y * full * channels, row);
  return image;
}

static inline void assert_image(const np_image *got, const np_tensor *want, const char *name) {
  assert_non_null(want);
  if (got->height != want->shape[0] || got->width != want->shape[1] || got->channels != (want->ndim == 3 ? 3 : 1))
    fail_msg("%s: made %d x %d x %d", name, got->height, got->width, got->channels);
  const uint8_t *values = want->data;
  for (size_t i = 0; i < want->bytes; i++)
    if (got->pixels[i] != values[i]) fail_msg("%s: value %zu is %d, expected %d", name, i, got->pixels[i], values[i]);
}

#endif
