#include "data/transform.h"

#include "util/philox.h"

#include <stdlib.h>
#include <string.h>

static np_status augment(const np_transform *t, const np_image *in, np_image *out) {
  np_status st = NP_OK;
  const np_loader_options *o = t->options;
  np_rng crop = np_rng_make(o->seed, NP_PURPOSE_CROP, t->epoch, (uint64_t)t->index);
  np_rng jitter = np_rng_make(o->seed, NP_PURPOSE_JITTER, t->epoch, (uint64_t)t->index);
  bool flip = np_rng_uniform(&crop) < o->flip; /* before the box, which takes more or fewer draws */
  np_box box = np_image_random_box(in->height, in->width, &o->crop, &crop);
  NP_TRY(np_image_resize(in, box, o->height, o->width, o->interpolation, out));
  if (flip) np_image_flip(out);
  if (np_rng_uniform(&jitter) < o->jitter_probability) {
    np_jitter drawn = np_jitter_draw(o->jitter, &jitter);
    NP_TRY(np_image_jitter(out, &drawn));
  }
out:
  return st;
}

static np_status shape(const np_transform *transform, const np_image *in, np_image *out) {
  const np_loader_options *o = transform->options;
  return o->train ? augment(transform, in, out) : np_image_eval_crop(in, o->height, o->width, out);
}

np_status np_transform_load(const np_transform *transform, const np_dataset *dataset, int64_t sample, uint8_t *pixels) {
  np_status st = NP_OK;
  const np_loader_options *o = transform->options;
  np_image decoded = {0}, image = {0};
  NP_TRY(np_dataset_read(dataset, sample, o->channels, o->max_pixels, &decoded));
  st = shape(transform, &decoded, &image);
  if (st != NP_OK) {
    char *name = np_dataset_name(dataset, sample);
    np_error_context(st, "%s", name); /* unlike reading, cropping does not know the file */
    free(name);
    goto out;
  }
  memcpy(pixels, image.pixels, (size_t)o->height * (size_t)o->width * (size_t)o->channels);
out:
  np_image_free(&decoded);
  np_image_free(&image);
  return st;
}
