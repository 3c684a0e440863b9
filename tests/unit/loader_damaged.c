/* The loader and damaged images: stand-ins, how many are too many, and what is said of them. */
#include "unit/loader_bed.h"

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

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_TEMP(test_stand_in),         IN_TEMP(test_bad_share),        IN_TEMP(test_bad_share_goes_on),
      IN_TEMP(test_nothing_readable), IN_TEMP(test_away_for_a_while), IN_TEMP(test_log),
  };
  np_log_set_level(NP_LOG_QUIET);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
