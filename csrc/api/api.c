/* The public C API (include/nextpatch/nextpatch.h) as thin calls into the rooms. */
#include "nextpatch/nextpatch.h"

#include "image/image.h"
#include "recipe/recipe.h"
#include "util/build.h"
#include "util/status.h"

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
