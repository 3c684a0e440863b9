/* The loader: contents as a function of (seed, dataset, options, batch), damaged images, ends and errors. */
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

static char *image_path(void **state, int i) { return np_format("%s/c%d/%03d.png", (char *)*state, i % 3, i / 3); }

/* One colour that names the image, or a pattern that shows crop, flip and jitter. */
static void write_image(const char *path, int i, int height, int width, bool plain) {
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
static np_dataset *make(void **state, int count, bool plain) {
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
static int number_at(const np_dataset *dataset, int64_t index) {
  const char *path = dataset->samples[index].path;
  return dataset->samples[index].label + 3 * atoi(strrchr(path, '/') + 1);
}

enum damage { EMPTY, CUT, TEXT, GONE, FOLDER, DEAD_LINK, HUGE, DAMAGES };

static void damage(const char *path, enum damage how) {
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

static void damage_at(const np_dataset *dataset, int64_t index, enum damage how) {
  damage(dataset->samples[index].path, how);
}

static np_loader_options options(bool train) {
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

static void append(record *r, const void *bytes, size_t size) {
  r->bytes = realloc(r->bytes, r->used + size);
  assert_non_null(r->bytes);
  memcpy(r->bytes + r->used, bytes, size);
  r->used += size;
}

static record run(const np_dataset *dataset, const np_loader_options *o) {
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

static void assert_same(const record *a, const record *b) {
  assert_int_equal(a->status, b->status);
  assert_string_equal(a->message, b->message);
  assert_int_equal(a->batches, b->batches);
  assert_int_equal(a->stats.bad, b->stats.bad);
  assert_int_equal(a->stats.images, b->stats.images);
  assert_int_equal(a->used, b->used);
  if (a->used) assert_memory_equal(a->bytes, b->bytes, a->used);
}

/* ---- tests ---- */

/* Batches straddle epochs (8 a batch, 21 images); every sample once an epoch; pixels, labels and prefixes belong to it.
 */
static void test_training_order(void **state) {
  np_dataset *dataset = make(state, 21, true);
  np_loader_options o = options(true);
  np_loader *loader;
  const np_batch *b;
  int met[21] = {0};
  int64_t place = 0;
  o.batches = 21; /* eight epochs */
  assert_ok(np_loader_open(dataset, &o, &loader));
  for (int64_t t = 0; t < o.batches; t++) {
    int32_t prefix[8];
    assert_ok(np_loader_next(loader, &b));
    assert_int_equal(b->number, t);
    assert_int_equal(b->count, 8);
    assert_ok(np_sampler_prefix(&o, dataset->count, t, prefix));
    assert_memory_equal(prefix, b->prefix, sizeof prefix);
    for (int i = 0; i < 8; i++, place++) {
      int64_t index = b->indices[i];
      assert_int_equal(met[index], place / 21);
      met[index]++;
      assert_int_equal(b->labels[i], dataset->samples[index].label);
      const uint8_t *pixels = b->pixels + i * BYTES;
      int number = number_at(dataset, index);
      for (int p = 0; p < BYTES; p += 3) { /* one colour stays itself under crop, resize and flip */
        assert_int_equal(pixels[p], number);
        assert_int_equal(pixels[p + 1], 255 - number);
      }
    }
  }
  for (int again = 0; again < 2; again++) {
    assert_ok(np_loader_next(loader, &b));
    assert_null(b);
  }
  assert_int_equal(np_loader_stats_read(loader).images, 21 * 8);
  assert_int_equal(np_loader_stats_read(loader).bad, 0);
  np_loader_close(loader);
  np_dataset_close(dataset);
}

/* What stands in the batch is what the image functions make of the documented draws. */
static void test_training_transform(void **state) {
  np_dataset *dataset = make(state, 12, false);
  np_loader_options o = options(true);
  np_loader *loader;
  const np_batch *b;
  int flipped = 0, jittered = 0;
  o.jitter_probability = .5;
  o.batches = 6;
  assert_ok(np_loader_open(dataset, &o, &loader));
  for (int64_t t = 0; t < o.batches; t++) {
    assert_ok(np_loader_next(loader, &b));
    for (int i = 0; i < b->count; i++) {
      uint32_t epoch = (uint32_t)((t * 8 + i) / 12);
      np_rng crop = np_rng_make(42, NP_PURPOSE_CROP, epoch, (uint64_t)b->indices[i]);
      np_rng jitter = np_rng_make(42, NP_PURPOSE_JITTER, epoch, (uint64_t)b->indices[i]);
      np_image in, out;
      assert_ok(np_image_read(dataset->samples[b->indices[i]].path, 3, 10000, &in));
      bool flip = np_rng_uniform(&crop) < .5;
      np_box box = np_image_random_box(in.height, in.width, &o.crop, &crop);
      assert_ok(np_image_resize(&in, box, SIDE, SIDE, NP_BICUBIC, &out));
      if (flip) np_image_flip(&out);
      if (np_rng_uniform(&jitter) < .5) {
        np_jitter drawn = np_jitter_draw(o.jitter, &jitter);
        assert_ok(np_image_jitter(&out, &drawn));
        jittered++;
      }
      flipped += flip;
      assert_memory_equal(out.pixels, b->pixels + i * BYTES, BYTES);
      np_image_free(&in);
      np_image_free(&out);
    }
  }
  assert_in_range(flipped, 12, 36);
  assert_in_range(jittered, 12, 36);
  np_loader_close(loader);
  np_dataset_close(dataset);
}

/* Bit for bit the same with any number of workers and batches ahead, damaged images included. */
static void test_workers_do_not_matter(void **state) {
  np_dataset *dataset = make(state, 30, false);
  np_loader_options o = options(true);
  o.jitter_probability = .8;
  for (int i = 0; i < DAMAGES; i++) damage_at(dataset, i * 4, (enum damage)i);
  o.workers = o.prefetch = 1;
  record one = run(dataset, &o);
  assert_int_equal(one.status, NP_OK);
  assert_int_equal(one.batches, 20);
  const int shapes[][2] = {{4, 1}, {4, 7}, {3, 2}, {0, 3}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    o.workers = shapes[i][0];
    o.prefetch = shapes[i][1];
    record other = run(dataset, &o);
    assert_same(&one, &other);
    free(other.bytes);
  }
  o.seed++;
  record other = run(dataset, &o);
  assert_int_equal(other.used, one.used);
  assert_memory_not_equal(one.bytes, other.bytes, one.used);
  free(other.bytes);
  free(one.bytes);
  np_dataset_close(dataset);
}

static void test_resume(void **state) {
  np_dataset *dataset = make(state, 9, false);
  np_loader_options o = options(true);
  damage_at(dataset, 4, CUT);
  record whole = run(dataset, &o);
  size_t one_batch = whole.used / 20;
  for (o.first_batch = 1; o.first_batch <= 20; o.first_batch += 6) {
    record rest = run(dataset, &o);
    size_t skipped = one_batch * (size_t)o.first_batch;
    assert_int_equal(rest.used, whole.used - skipped);
    if (rest.used) assert_memory_equal(rest.bytes, whole.bytes + skipped, rest.used);
    free(rest.bytes);
  }
  free(whole.bytes);
  np_dataset_close(dataset);
}

/* A damaged image's place is taken by the next good one; round the end of the dataset too. */
static void test_stand_in(void **state) {
  np_dataset *dataset = make(state, 12, true);
  np_loader_options o = options(true);
  np_loader *loader;
  const np_batch *b;
  np_sampler sampler;
  const int64_t stand_in[12] = {2, 2, 2, 3, 8, 8, 8, 8, 8, 9, 10, 2}; /* 0, 1, 4..7 and 11 are damaged */
  const int broken[] = {0, 1, 4, 5, 6, 7, 11};
  for (int i = 0; i < 7; i++) damage_at(dataset, broken[i], (enum damage)i);
  assert_ok(np_sampler_open(&sampler, o.seed, 12));
  assert_ok(np_loader_open(dataset, &o, &loader));
  int64_t bad = 0, place = 0;
  for (int t = 0; t < 6; t++) {
    assert_ok(np_loader_next(loader, &b));
    for (int i = 0; i < 8; i++, place++) {
      uint32_t epoch;
      int64_t drawn = np_sampler_at(&sampler, place, &epoch);
      assert_int_equal(b->indices[i], stand_in[drawn]);
      assert_int_equal(b->labels[i], dataset->samples[stand_in[drawn]].label);
      assert_int_equal(b->pixels[i * BYTES], number_at(dataset, stand_in[drawn]));
      assert_int_equal(b->prefix[i], np_sampler_draw_prefix(&o, epoch, drawn)); /* the drawn one's */
      bad += stand_in[drawn] != drawn;
    }
  }
  assert_int_equal(np_loader_stats_read(loader).bad, bad); /* of batches handed over, whatever is ready ahead */
  assert_int_equal(bad, 4 * 7);                            /* four epochs */
  np_loader_close(loader);
  np_sampler_close(&sampler);
  np_dataset_close(dataset);
}

/* In order, once; damaged ones left out; a batch without any image does not appear; the last one is short. */
static void test_evaluation(void **state) {
  np_dataset *dataset = make(state, 30, false);
  np_loader_options o = options(false);
  for (int i = 8; i < 16; i++) damage_at(dataset, i, (enum damage)(i % DAMAGES));
  damage_at(dataset, 0, EMPTY);
  damage_at(dataset, 18, CUT);
  const int counts[] = {7, 7, 6};
  const int64_t numbers[] = {0, 2, 3};
  np_loader *loader;
  const np_batch *b;
  int64_t index = 0;
  assert_ok(np_loader_open(dataset, &o, &loader));
  for (int t = 0; t < 3; t++) {
    assert_ok(np_loader_next(loader, &b));
    assert_non_null(b);
    assert_int_equal(b->number, numbers[t]);
    assert_int_equal(b->count, counts[t]);
    for (int i = 0; i < b->count; i++, index++) {
      np_image in, out;
      while (index == 0 || (index >= 8 && index < 16) || index == 18) index++;
      assert_int_equal(b->indices[i], index);
      assert_int_equal(b->labels[i], index / 10);
      assert_int_equal(b->prefix[i], np_sampler_draw_prefix(&o, 0, index));
      assert_ok(np_image_read(dataset->samples[index].path, 3, 10000, &in));
      assert_ok(np_image_eval_crop(&in, SIDE, SIDE, &out));
      assert_memory_equal(out.pixels, b->pixels + i * BYTES, BYTES);
      np_image_free(&in);
      np_image_free(&out);
    }
  }
  assert_ok(np_loader_next(loader, &b));
  assert_null(b);
  assert_int_equal(np_loader_stats_read(loader).images, 20);
  assert_int_equal(np_loader_stats_read(loader).bad, 10);
  np_loader_close(loader);
  np_dataset_close(dataset);
}

static void test_one_channel_not_square(void **state) {
  np_dataset *dataset = make(state, 6, false);
  np_loader_options o = options(false);
  o.channels = 1, o.height = 8, o.width = 12;
  np_loader *loader;
  const np_batch *b;
  np_image in, out;
  assert_ok(np_loader_open(dataset, &o, &loader));
  assert_ok(np_loader_next(loader, &b));
  assert_int_equal(b->count, 6);
  assert_ok(np_image_read(dataset->samples[5].path, 1, 10000, &in));
  assert_ok(np_image_eval_crop(&in, 8, 12, &out));
  assert_memory_equal(out.pixels, b->pixels + 5 * 96, 96);
  np_image_free(&in);
  np_image_free(&out);
  np_loader_close(loader);
  np_dataset_close(dataset);
}

/* Ten are forgiven, unless none is; then the share counts, at the same batch whatever the workers do; the error stays.
 */
static void test_bad_share(void **state) {
  np_dataset *dataset = make(state, 60, true);
  np_loader_options o = options(true);
  np_loader *loader;
  const np_batch *b;
  for (int i = 0; i < 60; i += 6) damage_at(dataset, i, TEXT); /* ten of sixty */
  o.max_bad_share = 1e-9;
  o.batches = 7; /* 56 images: at most the ten */
  record forgiven = run(dataset, &o);
  assert_int_equal(forgiven.status, NP_OK);
  free(forgiven.bytes);
  o.max_bad_share = 0;
  record strict = run(dataset, &o);
  assert_int_equal(strict.status, NP_ERR_FORMAT);
  free(strict.bytes);
  o.batches = 100;
  o.max_bad_share = .2;
  record allowed = run(dataset, &o);
  assert_int_equal(allowed.status, NP_OK);
  assert_int_equal(allowed.batches, 100);
  free(allowed.bytes);
  o.max_bad_share = .1;
  o.workers = 1;
  record one = run(dataset, &o);
  assert_int_equal(one.status, NP_ERR_FORMAT);
  assert_true(one.batches > 0 && one.batches < 10);
  assert_non_null(strstr(one.message, "more than the allowed share of 0.1"));
  o.workers = 4, o.prefetch = 6;
  record four = run(dataset, &o);
  assert_same(&one, &four);
  free(one.bytes);
  free(four.bytes);
  assert_ok(np_loader_open(dataset, &o, &loader));
  while (np_loader_next(loader, &b) == NP_OK) assert_non_null(b);
  assert_null(b);
  assert_error(np_loader_next(loader, &b), NP_ERR_FORMAT, "allowed share");
  assert_null(b);
  np_loader_close(loader);
  np_dataset_close(dataset);
}

/* The share is the whole run's: a loader that goes on from the counts of the one before it ends as one without a break,
 * in a stop or not. */
static void test_bad_share_goes_on(void **state) {
  np_dataset *dataset = make(state, 60, true);
  np_loader_options o = options(true);
  for (int i = 0; i < 12; i++) damage_at(dataset, i, TEXT); /* a fifth; its luck varies along an epoch */
  o.batches = 40;
  int stopped = 0, alone = 0;
  for (int percent = 18; percent <= 30; percent++) {
    o.max_bad_share = percent / 100.;
    record whole = run(dataset, &o);
    stopped += whole.status != NP_OK;
    for (int64_t half = 4; half < whole.batches; half += 4) {
      np_loader_options first = o, rest = o;
      first.batches = rest.first_batch = half;
      record one = run(dataset, &first);
      record without = run(dataset, &rest);
      rest.seen = one.stats.seen;
      rest.bad = one.stats.bad;
      record two = run(dataset, &rest);
      assert_int_equal(one.stats.seen, half * 8);
      assert_int_equal(two.status, whole.status);
      assert_string_equal(two.message, whole.message);
      assert_int_equal(half + two.batches, whole.batches);
      assert_true(two.stats.seen == whole.stats.seen && two.stats.bad == whole.stats.bad);
      alone += without.status != whole.status; /* what the counts are for */
      free(one.bytes);
      free(two.bytes);
      free(without.bytes);
    }
    free(whole.bytes);
  }
  assert_true(stopped > 0 && stopped < 13 && alone > 0);
  np_dataset_close(dataset);
}

static void test_nothing_readable(void **state) {
  np_dataset *dataset = make(state, 9, true);
  np_loader_options o = options(true);
  for (int i = 0; i < 9; i++) damage_at(dataset, i, (enum damage)(i % DAMAGES));
  record r = run(dataset, &o);
  assert_int_equal(r.status, NP_ERR_FORMAT);
  assert_int_equal(r.batches, 0);
  assert_non_null(strstr(r.message, "9 damaged images in a row"));
  o = options(false);
  r = run(dataset, &o);
  assert_int_equal(r.status, NP_OK); /* share 1 is allowed: an evaluation of nothing */
  assert_int_equal(r.batches, 0);
  assert_int_equal(r.stats.bad, 9);
  np_dataset_close(dataset);
}

/* An error that is not the image's fault (here a hue that cannot be) is no damage: it ends the run, with the worker's
 * message. */
static void test_other_errors(void **state) {
  np_dataset *dataset = make(state, 12, true);
  np_loader_options o = options(true);
  o.jitter_probability = 1;
  o.jitter[3] = 1e6;
  o.workers = 4;
  record four = run(dataset, &o);
  assert_int_equal(four.status, NP_ERR_ARGUMENT);
  assert_int_equal(four.batches, 0);
  assert_non_null(strstr(four.message, "hue"));
  assert_non_null(strstr(four.message, ".png"));
  o.workers = 1;
  record one = run(dataset, &o);
  assert_same(&one, &four); /* the first image in order is named */
  np_dataset_close(dataset);
}

/* A file that is away for an epoch is read again when it is back; one that is damaged is not. */
static void test_away_for_a_while(void **state) {
  np_dataset *dataset = make(state, 9, true);
  np_loader_options o = options(true);
  np_loader *loader;
  const np_batch *b;
  char *bytes[2];
  size_t size[2];
  int met[2] = {0, 0};
  o.workers = o.prefetch = 1;
  o.batch = 9; /* an epoch */
  for (int i = 0; i < 2; i++) {
    assert_ok(np_file_read(dataset->samples[i].path, 1 << 20, &bytes[i], &size[i]));
    damage_at(dataset, i, i ? TEXT : GONE);
  }
  assert_ok(np_loader_open(dataset, &o, &loader));
  for (int batch = 0; batch < 12; batch++) {
    assert_ok(np_loader_next(loader, &b));
    for (int i = 0; i < b->count; i++)
      if (b->indices[i] < 2) met[b->indices[i]]++;
    for (int i = 0; batch == 2 && i < 2; i++) {
      assert_true(met[i] == 0);
      assert_ok(np_file_write_unsynced(dataset->samples[i].path, bytes[i], size[i]));
    }
  }
  assert_true(met[0] > 5 && met[1] == 0);
  np_loader_close(loader);
  np_dataset_close(dataset);
  free(bytes[0]);
  free(bytes[1]);
}

static int lines_of(const char *text) {
  int lines = 0;
  for (; (text = strchr(text, '\n')); text++) lines++;
  return lines;
}

/* What a run with 30 damaged images says, with a list or without. */
static char *said(void **state, const char *list) {
  np_dataset *dataset = make(state, 36, true);
  np_loader_options o = options(true);
  o.bad_list = list;
  for (int i = 0; i < 30; i++) damage_at(dataset, i, i % 2 ? EMPTY : GONE);
  char *path = np_path_join(*state, "log"), *text;
  int kept = dup(STDERR_FILENO), file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  size_t size;
  np_log_set_level(NP_LOG_WARNING);
  dup2(file, STDERR_FILENO);
  record r = run(dataset, &o);
  dup2(kept, STDERR_FILENO);
  np_log_set_level(NP_LOG_QUIET);
  close(kept);
  close(file);
  free(r.bytes);
  assert_ok(np_file_read(path, 1 << 20, &text, &size));
  free(path);
  np_dataset_close(dataset);
  return text;
}

/* Each path once; beside a list of all twenty at most, then one more line. */
static void test_log(void **state) {
  char *list = np_path_join(*state, "bad"), *text = said(state, NULL);
  size_t size;
  assert_int_equal(lines_of(text), 30);
  free(text);
  text = said(state, list);
  assert_int_equal(lines_of(text), 21);
  assert_true(strstr(text, ".png") && strstr(text, "more damaged images, listed in '"));
  free(text);
  assert_ok(np_file_read(list, 1 << 20, &text, &size));
  assert_int_equal(lines_of(text), 30);
  free(text);
  free(list);
}

/* Closed at any moment: at once, in the middle, with batches ready ahead. */
static void test_close_any_time(void **state) {
  np_dataset *dataset = make(state, 12, false);
  np_loader_options o = options(true);
  o.workers = 4;
  for (int i = 0; i < 40; i++) {
    np_loader *loader;
    const np_batch *b;
    o.prefetch = 1 + i % 4;
    assert_ok(np_loader_open(dataset, &o, &loader));
    for (int t = 0; t < i % 5; t++) assert_ok(np_loader_next(loader, &b));
    np_loader_close(loader);
  }
  np_loader_close(NULL);
  np_dataset_close(dataset);
}

static int blocks;
static void *allocate(size_t bytes) { return blocks++ < 3 ? malloc(bytes) : NULL; }
static void release(void *memory) {
  blocks--;
  free(memory);
}

static void test_memory_of_batches(void **state) {
  np_dataset *dataset = make(state, 12, false);
  np_loader_options o = options(true);
  np_loader *loader;
  o.allocate = allocate;
  o.release = release;
  o.prefetch = 2; /* three slots */
  blocks = 0;
  assert_ok(np_loader_open(dataset, &o, &loader));
  np_loader_close(loader);
  assert_int_equal(blocks, 0);
  o.prefetch = 3;
  assert_error(np_loader_open(dataset, &o, &loader), NP_ERR_MEMORY, "8 images");
  assert_null(loader);
  assert_int_equal(blocks, 1); /* three given back; the fourth was never given */
  o = options(true);
  o.prefix_max = 0;
  assert_error(np_loader_open(dataset, &o, &loader), NP_ERR_ARGUMENT, "loader");
  np_dataset_close(dataset);
}

#define IN_TEMP(test) cmocka_unit_test_setup_teardown(test, temp_setup, temp_teardown)

/* ---- shares ---- */

/* What three ranks read of each batch, one behind the other, is what one alone reads; and each knows all prefixes. */
static void test_shares(void **state) {
  enum { RANKS = 3, SHARE = 4, WHOLE = RANKS * SHARE, BATCHES = 5 };
  np_dataset *dataset = make(state, 30, false);
  np_loader_options o = options(true);
  np_loader *alone, *rank[RANKS];
  o.batches = BATCHES;
  o.batch = WHOLE;
  assert_ok(np_loader_open(dataset, &o, &alone));
  for (int r = 0; r < RANKS; r++) {
    o.batch = SHARE, o.whole = WHOLE, o.first = r * SHARE;
    assert_ok(np_loader_open(dataset, &o, &rank[r]));
  }
  for (int t = 0; t < BATCHES; t++) {
    const np_batch *all, *b;
    int32_t prefix[SHARE];
    assert_ok(np_loader_next(alone, &all));
    assert_true(all->whole == all->prefix);
    for (int r = 0; r < RANKS; r++) {
      assert_ok(np_loader_next(rank[r], &b));
      assert_int_equal(b->count, SHARE);
      assert_memory_equal(b->pixels, all->pixels + (size_t)r * SHARE * BYTES, SHARE * BYTES);
      assert_memory_equal(b->indices, all->indices + (size_t)r * SHARE, SHARE * sizeof *b->indices);
      assert_memory_equal(b->labels, all->labels + (size_t)r * SHARE, SHARE * sizeof *b->labels);
      assert_memory_equal(b->prefix, all->prefix + (size_t)r * SHARE, SHARE * sizeof *b->prefix);
      assert_memory_equal(b->whole, all->prefix, WHOLE * sizeof *b->whole);
      o.first = r * SHARE;
      assert_ok(np_sampler_prefix(&o, dataset->count, t, prefix));
      assert_memory_equal(b->prefix, prefix, sizeof prefix);
    }
  }
  np_loader_close(alone);
  for (int r = 0; r < RANKS; r++) np_loader_close(rank[r]);
  o.first = WHOLE - SHARE + 1;
  assert_error(np_loader_open(dataset, &o, &alone), NP_ERR_ARGUMENT, "cannot be");
  np_dataset_close(dataset);
}

/* ---- tars ---- */

/* The same images as files and in tars, one a class: the same batches to the bit, damaged ones included, which are
 * named after their tar; however many threads read. */
static void test_tars(void **state) {
  char *shards = np_path_join(*state, "shards"), *list = np_path_join(*state, "bad"), *text;
  size_t size;
  np_dataset *files = make(state, 30, false), *members;
  damage_at(files, 3, CUT);
  damage_at(files, 14, EMPTY);
  damage_at(files, 15, TEXT);
  damage_at(files, 29, HUGE);
  char *command = np_format(
      "cd '%s' && mkdir shards && for c in c0 c1 c2; do tar --sort=name -cf shards/$c.tar $c; done", (char *)*state);
  assert_int_equal(system(command), 0);
  assert_ok(np_dataset_open(shards, true, &members));
  assert_int_equal(members->count, 30);
  for (int train = 0; train < 2; train++) {
    np_loader_options o = options(train);
    o.jitter_probability = .5;
    record one = run(files, &o);
    assert_int_equal(one.status, NP_OK);
    assert_true(one.stats.bad >= 4);
    for (o.workers = 1; o.workers < 6; o.workers += 2) {
      record other = run(members, &o);
      assert_same(&one, &other);
      free(other.bytes);
    }
    free(one.bytes);
  }
  for (int i = 0; i < members->shard_count; i++) { /* as the thousandth tar, which is not kept open */
    close(members->shards[i].descriptor);
    members->shards[i].descriptor = -1;
  }
  np_loader_options o = options(false);
  o.bad_list = list;
  record one = run(members, &o);
  assert_int_equal(one.stats.bad, 4);
  free(one.bytes);
  assert_ok(np_file_read(list, 1 << 20, &text, &size));
  assert_true(strstr(text, "/shards/c0.tar:c0/003.png: ") && strstr(text, "/shards/c2.tar:c2/009.png: "));
  free(text);
  np_dataset_close(members);
  np_dataset_close(files);
  free(command);
  free(list);
  free(shards);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_TEMP(test_training_order),
      IN_TEMP(test_training_transform),
      IN_TEMP(test_workers_do_not_matter),
      IN_TEMP(test_resume),
      IN_TEMP(test_stand_in),
      IN_TEMP(test_evaluation),
      IN_TEMP(test_bad_share),
      IN_TEMP(test_bad_share_goes_on),
      IN_TEMP(test_one_channel_not_square),
      IN_TEMP(test_nothing_readable),
      IN_TEMP(test_away_for_a_while),
      IN_TEMP(test_log),
      IN_TEMP(test_other_errors),
      IN_TEMP(test_close_any_time),
      IN_TEMP(test_memory_of_batches),
      IN_TEMP(test_shares),
      IN_TEMP(test_tars),
  };
  np_log_set_level(NP_LOG_QUIET);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
