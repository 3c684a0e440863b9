/* nextpatch: features of images from autoregressively pretrained models (AIM), for programs that embed the engine.
 *
 *   nextpatch_model *model;
 *   if (nextpatch_model_load("aim_600M.safetensors", NULL, 0, &model)) die(nextpatch_error());
 *   nextpatch_model_info info = nextpatch_model_describe(model);
 *   uint8_t *pixels = malloc(info.height * info.width * info.channels);
 *   float *features = malloc(sizeof(float) * info.tokens * info.feature_width);
 *   if (nextpatch_image_prepare(model, bytes, size, pixels)) die(nextpatch_error());
 *   if (nextpatch_encode(model, 1, pixels, NULL, 0, features)) die(nextpatch_error());
 *   nextpatch_model_free(model);
 *
 * Every function that can fail returns a status, 0 when it did what it says; nextpatch_error then tells what was wrong,
 * in one line. Nothing prints, nothing exits. Different models may be used from different threads at the same time, one
 * model by one thread at a time. Link through CMake: find_package(nextpatch), target nextpatch::nextpatch. */
#ifndef NEXTPATCH_NEXTPATCH_H
#define NEXTPATCH_NEXTPATCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nextpatch_status {
  NEXTPATCH_OK = 0,
  NEXTPATCH_ERROR_ARGUMENT,    /* asked for what cannot be: a recipe, a shape, a key */
  NEXTPATCH_ERROR_IO,          /* the operating system refused */
  NEXTPATCH_ERROR_FORMAT,      /* bytes that are not what they should be */
  NEXTPATCH_ERROR_MEMORY,      /* not enough memory */
  NEXTPATCH_ERROR_LIBRARY,     /* a library underneath failed */
  NEXTPATCH_ERROR_NUMERIC,     /* non-finite numbers */
  NEXTPATCH_ERROR_INTERRUPTED, /* stopped by a signal */
} nextpatch_status;

/* "0.1.0" */
const char *nextpatch_version(void);

/* What went wrong in this thread's last call that failed: one line, valid until the next failure. Never NULL. */
const char *nextpatch_error(void);

/* ---- recipes ---- */

/* Read a recipe (YAML) with overrides ("model.width=384") on top and check every value and combination. */
nextpatch_status nextpatch_recipe_check(const char *path, const char *const *overrides, int override_count);

/* ---- images ---- */

typedef struct nextpatch_image {
  int height, width, channels; /* channels 1 or 3 */
  uint8_t *pixels;             /* [height, width, channels] */
} nextpatch_image;

/* Decode PNG or JPEG to grey (channels 1) or RGB (3). Damaged bytes and images of more than `max_pixels` (0: 100
 * million) are NEXTPATCH_ERROR_FORMAT, and *out is empty then. Release with nextpatch_image_free. */
nextpatch_status nextpatch_image_decode(const void *bytes, size_t size, int channels, int64_t max_pixels,
                                        nextpatch_image *out);
void nextpatch_image_free(nextpatch_image *image);

/* ---- models ---- */

typedef struct nextpatch_model nextpatch_model;

typedef struct nextpatch_model_info {
  int height, width, channels; /* of the images it takes */
  int patch_size;
  int tokens;        /* N: patches of an image, row by row */
  int feature_width; /* D */
  int blocks;        /* L */
  int64_t parameters;
} nextpatch_model_info;

/* Load the trunk of a run folder, a checkpoint or a published weight file (safetensors). What such a file does not tell
 * is taken from `overrides`, recipe keys as "key=value": "model.image_size=[224, 224]", "model.heads=12",
 * "precision=bf16", "threads=4", "probe.batch=64" (the most images encoded at once; larger counts are cut into such
 * pieces). NULL, 0: none. */
nextpatch_status nextpatch_model_load(const char *path, const char *const *overrides, int override_count,
                                      nextpatch_model **out);
void nextpatch_model_free(nextpatch_model *model); /* NULL is fine */
nextpatch_model_info nextpatch_model_describe(const nextpatch_model *model);

/* Decode an image and cut it to the model's size as in evaluation (short side resampled, then the centre): pixels
 * [height, width, channels]. */
nextpatch_status nextpatch_image_prepare(const nextpatch_model *model, const void *bytes, size_t size, uint8_t *pixels);

/* Features of `count` images: the mean of the raw outputs of the chosen blocks (0 = first, ascending; NULL, 0: the last
 * six), with every patch seeing every other. pixels [count, height, width, channels] → out [count, tokens,
 * feature_width]. */
nextpatch_status nextpatch_encode(nextpatch_model *model, int count, const uint8_t *pixels, const int *layers,
                                  int layer_count, float *out);

#ifdef __cplusplus
}
#endif

#endif
