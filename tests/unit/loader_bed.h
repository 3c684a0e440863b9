/* What the loader's tests share: images that name themselves, ways to damage them, and a whole run, written down. */
#ifndef NP_TESTS_UNIT_LOADER_BED_H
#define NP_TESTS_UNIT_LOADER_BED_H

#include "data/loader.h"
#include "data/sampler.h"
#include "unit/temp.h"
#include "util/log.h"
#include "util/philox.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

enum { SIDE = 16, CHANNELS = 3, BYTES = SIDE * SIDE * CHANNELS };

/* ---- images ---- */

static inline char *image_path(void **state, int i) {
  return np_format("%s/c%d/%03d.png", (char *)*state, i % 3, i / 3);
}

/* One colour that names the image, or a pattern that shows crop, flip and jitter. */
static inline void write_image(const char *path, int i, int height, int width, bool plain) {
  uint8_t *pixels = malloc((size_t)height * (size_t)width * 3), *bytes;
  size_t size;
  for (int p = 0; p < height * width; p++) {
    pixels[3 * p] = (uint8_t)(plain ? i : p % width * 255 / width);
    pixels[3 * p + 1] = (uint8_t)(plain ? 255 - i : p / width * 255 / height);
    pixels[3 * p + 2] = (uint8_t)(i * 37);
  }
  const np_image image = {.height = height, .width = width, .channels = 3, .pixels = pixels};
  assert_ok(np_image_encode_png(&image, &bytes, &size));
  assert_ok(np_file_write_unsynced(path, bytes, size));
  free(bytes);
  free(pixels);
}

/* Three classes; in the order of the dataset, image i is of class i / (count / 3). */
static inline np_dataset *make(void **state, int count, bool plain) {
  np_dataset *dataset;
  for (int i = 0; i < count; i++) {
    char *path = image_path(state, i);
    *strrchr(path, '/') = 0;
    if (i < 3) assert_ok(np_folder_make(path));
    path[strlen(path)] = '/';
    write_image(path, i, 20 + i % 5, 24 - i % 3, plain);
    free(path);
  }
  assert_ok(np_dataset_open(*state, true, &dataset));
  assert_int_equal(dataset->count, count);
  return dataset;
}

/* Which image lies at a place of the dataset: "…/cK/NNN.png". */
static inline int number_at(const np_dataset *dataset, int64_t index) {
  const char *path = dataset->samples[index].path;
  return dataset->samples[index].label + 3 * atoi(strrchr(path, '/') + 1);
}

enum damage { EMPTY, CUT, TEXT, GONE, FOLDER, DEAD_LINK, HUGE, DAMAGES };

static inline void damage(const char *path, enum damage how) {
  char *bytes;
  size_t size;
  assert_ok(np_file_read(path, 1 << 20, &bytes, &size));
  unlink(path);
  if (how == EMPTY) assert_ok(np_file_write_unsynced(path, "", 0));
  if (how == CUT) assert_ok(np_file_write_unsynced(path, bytes, size / 2));
  if (how == TEXT) assert_ok(np_file_write_unsynced(path, "not an image at all", 19));
  if (how == FOLDER) assert_ok(np_folder_make(path));
  if (how == DEAD_LINK) assert_int_equal(symlink("nowhere", path), 0);
  if (how == HUGE) write_image(path, 0, 200, 200, true); /* over max_pixels */
  free(bytes);
}

static inline void damage_at(const np_dataset *dataset, int64_t index, enum damage how) {
  damage(dataset->samples[index].path, how);
}

static inline np_loader_options options(bool train) {
  return (np_loader_options){.height = SIDE,
                             .width = SIDE,
                             .channels = CHANNELS,
                             .batch = 8,
                             .seed = 42,
                             .train = train,
                             .batches = train ? 20 : 0,
                             .crop = {.4, 1, .75, 4. / 3},
                             .interpolation = NP_BICUBIC,
                             .flip = .5,
                             .jitter_probability = 0,
                             .jitter = {.4, .4, .2, .1},
                             .prefix_min = 1,
                             .prefix_max = 15,
                             .workers = 2,
                             .prefetch = 2,
                             .max_pixels = 10000,
                             .max_bad_share = 1};
}

/* ---- a whole run, written down ---- */

typedef struct record {
  uint8_t *bytes;
  size_t used;
  int batches;
  np_loader_stats stats;
  np_status status;
  char message[1024];
} record;

static inline void append(record *r, const void *bytes, size_t size) {
  r->bytes = realloc(r->bytes, r->used + size);
  assert_non_null(r->bytes);
  memcpy(r->bytes + r->used, bytes, size);
  r->used += size;
}

static inline record run(const np_dataset *dataset, const np_loader_options *o) {
  record r = {0};
  np_loader *loader;
  const np_batch *b;
  assert_ok(np_loader_open(dataset, o, &loader));
  while ((r.status = np_loader_next(loader, &b)) == NP_OK && b) {
    size_t n = (size_t)b->count;
    append(&r, &b->number, sizeof b->number);
    append(&r, b->pixels, n * (size_t)o->height * (size_t)o->width * (size_t)o->channels);
    append(&r, b->prefix, n * sizeof *b->prefix);
    append(&r, b->labels, n * sizeof *b->labels);
    append(&r, b->indices, n * sizeof *b->indices);
    r.batches++;
  }
  if (r.status != NP_OK) snprintf(r.message, sizeof r.message, "%s", np_error_message());
  r.stats = np_loader_stats_read(loader);
  np_loader_close(loader);
  return r;
}

static inline void assert_same(const record *a, const record *b) {
  assert_int_equal(a->status, b->status);
  assert_string_equal(a->message, b->message);
  assert_int_equal(a->batches, b->batches);
  assert_int_equal(a->stats.bad, b->stats.bad);
  assert_int_equal(a->stats.images, b->stats.images);
  assert_int_equal(a->used, b->used);
  if (a->used) assert_memory_equal(a->bytes, b->bytes, a->used);
}

#define IN_TEMP(test) cmocka_unit_test_setup_teardown(test, temp_setup, temp_teardown)

#endif
