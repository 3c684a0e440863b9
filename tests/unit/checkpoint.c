/* Checkpoints: what is written is read back, damage of every kind is refused with its reason, what must stay stays. */
#include "unit/temp.h"

#include "checkpoint/checkpoint_files.h"
#include "util/log.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TOTAL = 256 };
static np_param items[] = {
    {.name = "head.w", .ndim = 2, .shape = {10, 7}, .rows = 10, .columns = 7, .offset = 0, .count = 70},
    {.name = "trunk.b", .ndim = 1, .shape = {5}, .rows = 1, .columns = 5, .offset = 128, .count = 5},
};
static const np_params params = {.count = 2, .items = items, .total = TOTAL, .elements = 75};
static const char recipe[] = "seed: 7\n";
static float staging[2 * TOTAL];

static float value(int array, int64_t step, int i) { return (float)(1000 * array + 10 * step) + (float)i / 8; }

static void fill(float *out, int array, int64_t step) {
  memset(out, 0, TOTAL * sizeof *out);
  for (int p = 0; p < params.count; p++)
    for (int64_t i = items[p].offset; i < items[p].offset + items[p].count; i++) out[i] = value(array, step, (int)i);
}

static np_status weights(void *step, float *out) {
  fill(out, 1, *(int64_t *)step);
  return NP_OK;
}

static np_status moments(void *step, float *first, float *second) {
  fill(first, 2, *(int64_t *)step);
  fill(second, 3, *(int64_t *)step);
  return NP_OK;
}

static np_status save(const char *run, int64_t step) {
  const np_checkpoint_content content = {
      .state = {.step = step,
                .applied = step - 1,
                .bad_in_row = 1,
                .seconds = 0.375,
                .act = NP_BF16,
                .threads = 2,
                .micro_batch = 4,
                .hardware = "cuda, some GPU",
                .attention = "portable",
                .sharded = true,
                .images = 40,
                .listing = 0xfedcba9876543210u,
                .images_seen = 96,
                .images_bad = 11},
      .params = &params,
      .recipe = recipe,
      .staging = staging,
      .weights = weights,
      .moments = moments,
      .context = &step,
  };
  return np_checkpoint_save(run, &content);
}

static char *inside(const char *run, int64_t step, const char *name) {
  char *folder = np_checkpoint_path(run, step), *path = np_path_join(folder, name);
  free(folder);
  return path;
}

static bool exists(const char *path) { return access(path, F_OK) == 0; }

static bool step_exists(const char *run, int64_t step) {
  char *path = np_checkpoint_path(run, step);
  bool there = exists(path);
  free(path);
  return there;
}

/* ---- reading back ------------------------------------------------------------------------------------------------ */

static void read_back(void **state) {
  np_checkpoint *checkpoint;
  float got[3][TOTAL], want[TOTAL];
  assert_ok(save(*state, 12));
  assert_ok(np_checkpoint_newest(*state, false, &checkpoint));
  assert_non_null(checkpoint);
  const np_checkpoint_state *s = &checkpoint->state;
  assert_true(s->step == 12 && s->applied == 11 && s->bad_in_row == 1 && s->seconds == 0.375);
  assert_string_equal(s->hardware, "cuda, some GPU");
  assert_string_equal(s->attention, "portable");
  assert_true(s->sharded);
  assert_true(s->act == NP_BF16 && s->threads == 2 && s->micro_batch == 4 && s->images == 40);
  assert_true(s->listing == 0xfedcba9876543210u && s->images_seen == 96 && s->images_bad == 11);
  assert_string_equal(checkpoint->recipe, recipe);
  assert_string_equal(np_safetensors_metadata(checkpoint->model, NP_METADATA_STEP), "12");
  assert_ok(np_checkpoint_weights(checkpoint, &params, got[0]));
  assert_ok(np_checkpoint_moments(checkpoint, &params, got[1], got[2]));
  for (int a = 0; a < 3; a++) {
    fill(want, a + 1, 12);
    assert_memory_equal(got[a], want, sizeof want);
  }
  assert_non_null(np_safetensors_find(checkpoint->model, "trunk.b"));
  assert_non_null(np_safetensors_find(checkpoint->moments, "exp_avg.head.w"));
  assert_non_null(np_safetensors_find(checkpoint->moments, "exp_avg_sq.trunk.b"));
  np_checkpoint_close(checkpoint);
}

static void another_model(void **state) {
  np_checkpoint *checkpoint;
  np_param other[2];
  float got[TOTAL];
  np_params changed = params;
  changed.items = other;
  assert_ok(save(*state, 1));
  assert_ok(np_checkpoint_newest(*state, false, &checkpoint));
  memcpy(other, items, sizeof items);
  other[0].shape[0] = 7, other[0].shape[1] = 10;
  assert_error(np_checkpoint_weights(checkpoint, &changed, got), NP_ERR_FORMAT, "'head.w' has another shape");
  memcpy(other, items, sizeof items);
  snprintf(other[1].name, sizeof other[1].name, "trunk.c");
  assert_error(np_checkpoint_weights(checkpoint, &changed, got), NP_ERR_FORMAT, "lacks the tensor 'trunk.c'");
  np_checkpoint_close(checkpoint);
}

static void none_there(void **state) {
  np_checkpoint *checkpoint;
  assert_ok(np_checkpoint_newest(*state, false, &checkpoint));
  assert_null(checkpoint);
  assert_ok(np_checkpoint_clean(*state));
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

static void flip_byte(const char *path, int64_t at) {
  int fd = open(path, O_RDWR);
  struct stat about;
  uint8_t byte;
  assert_true(fd >= 0 && fstat(fd, &about) == 0);
  if (at < 0) at += about.st_size;
  assert_int_equal(pread(fd, &byte, 1, at), 1);
  byte ^= 1;
  assert_int_equal(pwrite(fd, &byte, 1, at), 1);
  close(fd);
}

static void cut(const char *path, int64_t bytes) {
  struct stat about;
  assert_int_equal(stat(path, &about), 0);
  assert_int_equal(truncate(path, about.st_size - bytes), 0);
}

static void cut_one(const char *path) { cut(path, 1); }
static void flip_first(const char *path) { flip_byte(path, 0); }
static void flip_last(const char *path) { flip_byte(path, -1); }
static void flip_inside(const char *path) { flip_byte(path, 60); }
static void empty(const char *path) { assert_int_equal(truncate(path, 0), 0); }
static void take_away(const char *path) { assert_int_equal(unlink(path), 0); }
static void lengthen(const char *path) {
  FILE *file = fopen(path, "ab");
  fputc(0, file);
  fclose(file);
}
/* Well-formed JSON that says something else. */
static void change_step(const char *path) {
  char *text;
  size_t size;
  assert_ok(np_file_read(path, 1 << 20, &text, &size));
  char *at = strstr(text, "20");
  assert_non_null(at);
  at[0] = '3';
  assert_ok(np_file_write(path, text, size));
  free(text);
}

static void damage_is_refused(void **state) {
  static const struct {
    const char *file;
    void (*damage)(const char *path);
    np_status status;
    const char *reason;
  } cases[] = {
      {NP_CHECKPOINT_MODEL, cut_one, NP_ERR_FORMAT, "bytes, "},
      {NP_CHECKPOINT_MODEL, lengthen, NP_ERR_FORMAT, "bytes, "},
      {NP_CHECKPOINT_MODEL, empty, NP_ERR_FORMAT, "has 0 bytes"},
      {NP_CHECKPOINT_MODEL, flip_first, NP_ERR_FORMAT, "was altered"},
      {NP_CHECKPOINT_MODEL, flip_inside, NP_ERR_FORMAT, "was altered"},
      {NP_CHECKPOINT_MODEL, flip_last, NP_ERR_FORMAT, "was altered"},
      {NP_CHECKPOINT_MODEL, take_away, NP_ERR_FORMAT, "model.safetensors is missing"},
      {NP_CHECKPOINT_MOMENTS, cut_one, NP_ERR_FORMAT, "optimizer.safetensors has"},
      {NP_CHECKPOINT_MOMENTS, flip_last, NP_ERR_FORMAT, "optimizer.safetensors was altered"},
      {NP_CHECKPOINT_MOMENTS, take_away, NP_ERR_FORMAT, "optimizer.safetensors is missing"},
      {NP_CHECKPOINT_ABOUT, change_step, NP_ERR_FORMAT, "checkpoint.json was altered"},
      {NP_CHECKPOINT_ABOUT, cut_one, NP_ERR_FORMAT, "checkpoint.json is not complete"},
      {NP_CHECKPOINT_ABOUT, empty, NP_ERR_FORMAT, "checkpoint.json is not complete"},
      {NP_CHECKPOINT_ABOUT, take_away, NP_ERR_FORMAT, "checkpoint.json is missing"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    np_checkpoint *checkpoint;
    char *run = np_format("%s/%zu", (const char *)*state, i), *path = inside(run, 20, cases[i].file);
    assert_ok(save(run, 10));
    assert_ok(save(run, 20));
    cases[i].damage(path);
    assert_error(np_checkpoint_newest(run, false, &checkpoint), cases[i].status, cases[i].reason);
    assert_null(checkpoint);
    assert_non_null(strstr(np_error_message(), "checkpoint.fallback=true goes back to step 10"));
    assert_ok(np_checkpoint_newest(run, true, &checkpoint));
    assert_int_equal(checkpoint->state.step, 10);
    np_checkpoint_close(checkpoint);
    /* Going on from step 10 will write step 20 again: the damaged one makes room, but is kept. */
    assert_ok(np_checkpoint_set_aside(run, 10));
    assert_false(step_exists(run, 20));
    assert_ok(save(run, 20));
    assert_ok(np_checkpoint_newest(run, false, &checkpoint));
    assert_int_equal(checkpoint->state.step, 20);
    np_checkpoint_close(checkpoint);
    char *aside = np_format("%s/" NP_CHECKPOINT_FOLDER "/step-00000020.damaged", run);
    assert_true(exists(aside));
    free(aside);
    free(path);
    free(run);
  }
}

/* Not to be read, though it was there: what stat, open and read say where permission or a device fails. */
static void make_unreadable(const char *path) {
  take_away(path);
  assert_int_equal(symlink(path, path), 0);
}

/* checkpoint.json as another program would have written it, whole: its format, and the keys it does not know. */
static void make_other(const char *path, int format, const char *const without[4]) {
  char *text, hash[NP_HASH_TEXT];
  size_t size;
  assert_ok(np_file_read(path, 1 << 20, &text, &size));
  cJSON *about = cJSON_ParseWithLength(text, size);
  assert_non_null(about);
  cJSON_SetNumberValue(cJSON_GetObjectItem(about, "format"), format);
  cJSON_DeleteItemFromObject(about, "xxh3_128");
  for (int i = 0; i < 4; i++)
    if (without[i]) cJSON_DeleteItemFromObject(about, without[i]);
  assert_ok(np_checkpoint_hash_json(about, hash));
  cJSON_AddStringToObject(about, "xxh3_128", hash);
  free(text);
  text = cJSON_Print(about);
  assert_ok(np_file_write(path, text, strlen(text)));
  cJSON_free(text);
  cJSON_Delete(about);
}

static void later(const char *path) { make_other(path, NP_CHECKPOINT_FORMAT + 1, (const char *const[4]){NULL}); }

static void later_and_other(const char *path) {
  make_other(path, NP_CHECKPOINT_FORMAT + 1, (const char *const[4]){"seconds"});
}

/* For those who read the weights alone: a step's folder is judged by its checkpoint.json, a file elsewhere by itself.
 */
static void a_model_is_verified(void **state) {
  char *model = inside(*state, 20, NP_CHECKPOINT_MODEL), *about = inside(*state, 20, NP_CHECKPOINT_ABOUT),
       *copy = np_path_join(*state, NP_CHECKPOINT_MODEL);
  assert_ok(save(*state, 20));
  assert_ok(np_checkpoint_verify_model(model));
  assert_int_equal(link(model, copy), 0);
  take_away(about);
  assert_error(np_checkpoint_verify_model(model), NP_ERR_FORMAT, "checkpoint.json is missing");
  assert_ok(np_checkpoint_verify_model(copy));
  free(model);
  free(about);
  free(copy);
}

/* Before the loader's counts and the attention kernels were written. */
static void older_is_read(void **state) {
  np_checkpoint *checkpoint;
  char *path = inside(*state, 20, NP_CHECKPOINT_ABOUT);
  assert_ok(save(*state, 20));
  make_other(path, NP_CHECKPOINT_FORMAT, (const char *const[4]){"images_seen", "images_bad", "attention", "sharded"});
  assert_ok(np_checkpoint_newest(*state, false, &checkpoint));
  assert_true(checkpoint->state.step == 20 && checkpoint->state.images == 40);
  assert_true(checkpoint->state.images_seen == 0 && checkpoint->state.images_bad == 0);
  assert_string_equal(checkpoint->state.attention, "");
  assert_false(checkpoint->state.sharded);
  np_checkpoint_close(checkpoint);
  free(path);
}

/* What may be whole is not stepped over, with fallback either: the run would train those steps again and set the
 * checkpoint aside. */
static void what_is_not_damaged_stays(void **state) {
  static const struct {
    const char *file;
    void (*change)(const char *path);
    np_status status;
    const char *reason;
  } cases[] = {
      {NP_CHECKPOINT_ABOUT, make_unreadable, NP_ERR_IO, "symbolic links"},
      {NP_CHECKPOINT_MODEL, make_unreadable, NP_ERR_IO, "symbolic links"},
      {NP_CHECKPOINT_MOMENTS, make_unreadable, NP_ERR_IO, "symbolic links"},
      {NP_CHECKPOINT_ABOUT, later, NP_ERR_ARGUMENT, "has format 2; this program reads format 1"},
      {NP_CHECKPOINT_ABOUT, later_and_other, NP_ERR_ARGUMENT, "has format 2; this program reads format 1"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    np_checkpoint *checkpoint;
    char *run = np_format("%s/%zu", (const char *)*state, i), *path = inside(run, 20, cases[i].file);
    assert_ok(save(run, 10));
    assert_ok(save(run, 20));
    cases[i].change(path);
    for (int fallback = 0; fallback < 2; fallback++) {
      assert_error(np_checkpoint_newest(run, fallback, &checkpoint), cases[i].status, cases[i].reason);
      assert_null(checkpoint);
      assert_null(strstr(np_error_message(), "checkpoint.fallback")); /* it would not help */
    }
    free(path);
    free(run);
  }
}

static void all_damaged(void **state) {
  np_checkpoint *checkpoint;
  char *path = inside(*state, 5, NP_CHECKPOINT_MODEL);
  assert_ok(save(*state, 5));
  flip_last(path);
  assert_error(np_checkpoint_newest(*state, false, &checkpoint), NP_ERR_FORMAT, "was altered");
  assert_null(strstr(np_error_message(), "fallback"));
  assert_error(np_checkpoint_newest(*state, true, &checkpoint), NP_ERR_FORMAT, "every checkpoint");
  free(path);
}

/* ---- keeping and removing ---------------------------------------------------------------------------------------- */

static void keep_rules(void **state) {
  for (int64_t step = 5; step <= 45; step += 5) assert_ok(save(*state, step));
  assert_ok(np_checkpoint_prune(*state, 2, 15));
  for (int64_t step = 5; step <= 45; step += 5) {
    bool kept = step >= 40 || step % 15 == 0;
    if (step_exists(*state, step) != kept) fail_msg("step %d was %s", (int)step, kept ? "removed" : "kept");
  }
  assert_ok(np_checkpoint_prune(*state, 1, 0));
  for (int64_t step = 5; step < 45; step += 5) assert_false(step_exists(*state, step));
  assert_true(step_exists(*state, 45));
}

/* A step has one folder, the one that np_checkpoint_path names: what is called otherwise is nobody's checkpoint. */
static void other_names(void **state) {
  static const char *const names[] = {"step-",          "step-5",        "step-+5",        "step- 5",
                                      "step-000000005", "step--0000005", "step-00000005x", "step-99999999999999999999"};
  int64_t *steps;
  int count;
  assert_ok(save(*state, 4));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path = np_format("%s/" NP_CHECKPOINT_FOLDER "/%s", (char *)*state, names[i]);
    assert_ok(np_folder_make(path));
    free(path);
  }
  assert_ok(np_checkpoint_list(*state, &steps, &count));
  assert_int_equal(count, 1);
  assert_int_equal(steps[0], 4);
  free(steps);
}

static void leftovers_go(void **state) {
  char *tmp = np_format("%s/checkpoints/.step-00000020.tmp", (char *)*state), *file = np_path_join(tmp, "x");
  char *old = np_format("%s/checkpoints/.step-00000010.old", (char *)*state);
  assert_ok(save(*state, 15));
  assert_ok(np_folder_make(tmp));
  assert_ok(np_folder_make(old));
  assert_ok(np_file_write(file, "x", 1));
  assert_ok(np_checkpoint_clean(*state));
  assert_false(exists(tmp));
  assert_false(exists(old));
  assert_true(step_exists(*state, 15));
  free(old);
  free(file);
  free(tmp);
}

/* A disk that is full after so many bytes of a file, for every place where the writing may stop: an error, the last
 * checkpoint good, nothing half-written left. */
static void full_disk(void **state) {
  struct rlimit before, small;
  np_checkpoint *checkpoint;
  int64_t *steps;
  int count, failures = 0;
  signal(SIGXFSZ, SIG_IGN);
  assert_ok(save(*state, 1));
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  for (rlim_t limit = 0; limit < 2048; limit += 64) {
    small = (struct rlimit){limit, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    np_status st = save(*state, 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    if (st == NP_OK) break;
    failures++;
    assert_int_equal(st, NP_ERR_IO);
    assert_non_null(strstr(np_error_message(), "File too large"));
    assert_ok(np_checkpoint_list(*state, &steps, &count));
    assert_int_equal(count, 1);
    free(steps);
    assert_ok(np_checkpoint_newest(*state, false, &checkpoint));
    assert_int_equal(checkpoint->state.step, 1);
    np_checkpoint_close(checkpoint);
    char *hidden = np_format("%s/checkpoints/.step-00000002.tmp", (char *)*state);
    assert_false(exists(hidden));
    free(hidden);
  }
  assert_true(failures > 10);
  assert_true(step_exists(*state, 2));
}

int main(void) {
  np_log_set_level(NP_LOG_QUIET); /* each refusal that is fallen back from is a warning */
#define TEST(name) cmocka_unit_test_setup_teardown(name, temp_setup, temp_teardown)
  const struct CMUnitTest tests[] = {
      TEST(read_back),
      TEST(another_model),
      TEST(none_there),
      TEST(damage_is_refused),
      TEST(what_is_not_damaged_stays),
      TEST(older_is_read),
      TEST(a_model_is_verified),
      TEST(all_damaged),
      TEST(keep_rules),
      TEST(other_names),
      TEST(leftovers_go),
      TEST(full_disk),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
