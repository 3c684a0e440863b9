/* The loader: contents as a function of (seed, dataset, options, batch), shares, tars, ends and errors. */
#include "unit/loader_bed.h"

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
      IN_TEMP(test_evaluation),
      IN_TEMP(test_one_channel_not_square),
      IN_TEMP(test_other_errors),
      IN_TEMP(test_close_any_time),
      IN_TEMP(test_memory_of_batches),
      IN_TEMP(test_shares),
      IN_TEMP(test_tars),
  };
  np_log_set_level(NP_LOG_QUIET);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
