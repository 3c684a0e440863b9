/* loader_bench IMAGE...: how many images a second one core decodes, and decodes and augments as pretraining does:
 * random crop 0.4..1 to 224 × 224 bicubic, flip, colour jitter. Files are read before the clock starts. Each figure is
 * the best of REPEATS passes over all images, printed as JSON. The peer on Pillow is bench/peers/loader_peer.py. */
#include "image/image.h"
#include "util/file.h"
#include "util/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SIZE = 224, REPEATS = 3 };
static const int64_t MAX_PIXELS = INT64_C(1) << 28;

typedef struct bytes {
  char *data;
  size_t size;
} bytes;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static np_status augment(const np_image *image, uint64_t index) {
  static const np_crop_range range = {.scale_min = 0.4, .scale_max = 1, .ratio_min = 3. / 4, .ratio_max = 4. / 3};
  static const double strength[4] = {0.4, 0.4, 0.2, 0.1};
  np_rng rng = np_rng_make(0, NP_PURPOSE_CROP, 0, index);
  const np_box box = np_image_random_box(image->height, image->width, &range, &rng);
  np_image crop;
  np_status st = np_image_resize(image, box, SIZE, SIZE, NP_BICUBIC, &crop);
  if (st != NP_OK) return st;
  if (np_rng_uniform(&rng) < 0.5) np_image_flip(&crop);
  const np_jitter jitter = np_jitter_draw(strength, &rng);
  if (np_rng_uniform(&rng) < 0.8) st = np_image_jitter(&crop, &jitter);
  np_image_free(&crop);
  return st;
}

/* Seconds of one pass; negative after an error. */
static double pass(const bytes *files, int count, int augmented) {
  const double start = now();
  for (int i = 0; i < count; i++) {
    np_image image;
    np_status st = np_image_decode(files[i].data, files[i].size, "image", 3, MAX_PIXELS, &image);
    if (st == NP_OK && augmented) st = augment(&image, (uint64_t)i);
    np_image_free(&image);
    if (st != NP_OK) return -1;
  }
  return now() - start;
}

static double best(const bytes *files, int count, int augmented) {
  double shortest = pass(files, count, augmented);
  for (int i = 1; i < REPEATS && shortest >= 0; i++) {
    const double seconds = pass(files, count, augmented);
    if (seconds < shortest) shortest = seconds;
  }
  return shortest;
}

int main(int argc, char **argv) {
  const int count = argc - 1;
  int failed = 1;
  bytes *files = calloc((size_t)count + 1, sizeof *files);
  if (!files || count < 1) {
    fprintf(stderr, "usage: loader_bench IMAGE...\n");
    goto out;
  }
  for (int i = 0; i < count; i++)
    if (np_file_read(argv[i + 1], (size_t)1 << 30, &files[i].data, &files[i].size) != NP_OK) goto report;
  const double decode = best(files, count, 0), all = decode < 0 ? -1 : best(files, count, 1);
  if (all < 0) goto report;
  printf("{\"program\": \"nextpatch\", \"images\": %d, \"threads\": 1, \"decode_images_per_s\": %.1f, "
         "\"decode_augment_images_per_s\": %.1f}\n",
         count, count / decode, count / all);
  failed = 0;
  goto out;
report:
  fprintf(stderr, "error: %s\n", np_error_message());
out:
  for (int i = 0; i < count && files; i++) free(files[i].data);
  free(files);
  return failed;
}
