/* Listing of class folders and flat folders. */
#include "data/dataset.h"
#include "unit/temp.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* Make an empty file, with its folders, below the test's folder. */
static void touch(void **state, const char *name) {
  char *path = np_path_join(*state, name);
  char *slash = strrchr(path, '/');
  *slash = 0;
  assert_ok(np_folder_make(path));
  *slash = '/';
  FILE *file = fopen(path, "w"); /* not np_file_write: thousands of syncs take long */
  assert_non_null(file);
  fclose(file);
  free(path);
}

static void link_to(void **state, const char *target, const char *name) {
  char *path = np_path_join(*state, name);
  assert_int_equal(symlink(target, path), 0);
  free(path);
}

/* The dataset holds exactly these paths (below the test's folder) with these labels, in this order. */
static void assert_lists(void **state, const np_dataset *d, const char *const *paths, const int *labels, int count) {
  assert_int_equal(d->count, count);
  for (int i = 0; i < count; i++) {
    char *path = np_path_join(*state, paths[i]);
    assert_string_equal(d->samples[i].path, path);
    assert_int_equal(d->samples[i].label, labels[i]);
    free(path);
  }
}

static void test_classes(void **state) {
  static const char *const files[] = {"b/1.png",         "b/a/2.JPG",   "B/3.jpeg",    "a/10.png",      "a/9.png",
                                      "a/deep/er/x.Png", "a/notes.txt", "a/.hid.png",  ".h/1.png",      "a/.d/1.png",
                                      "a/png",           "a/.png",      "a/x.png.bak", "\xc3\xa9/1.jpg"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) touch(state, files[i]);
  np_dataset *d;
  assert_ok(np_dataset_open(*state, true, &d));
  const char *const classes[] = {"B", "a", "b", "\xc3\xa9"}; /* bytewise, whatever the locale */
  assert_int_equal(d->class_count, 4);
  for (int i = 0; i < 4; i++) assert_string_equal(d->classes[i], classes[i]);
  const char *const paths[] = {"B/3.jpeg", "a/10.png",  "a/9.png",       "a/deep/er/x.Png",
                               "b/1.png",  "b/a/2.JPG", "\xc3\xa9/1.jpg"};
  const int labels[] = {0, 1, 1, 1, 2, 2, 3};
  assert_lists(state, d, paths, labels, 7);
  np_dataset_close(d);
  np_dataset_close(NULL);
}

static void test_flat_and_mixed(void **state) {
  np_dataset *d;
  touch(state, "2.png");
  touch(state, "10.png");
  assert_ok(np_dataset_open(*state, false, &d));
  assert_int_equal(d->class_count, 0);
  assert_lists(state, d, (const char *const[]){"10.png", "2.png"}, (const int[]){-1, -1}, 2);
  np_dataset_close(d);
  assert_error(np_dataset_open(*state, true, &d), NP_ERR_ARGUMENT, "10.png");
  assert_null(d);
  touch(state, "0/1.png");
  assert_ok(np_dataset_open(*state, false, &d));
  assert_lists(state, d, (const char *const[]){"10.png", "2.png", "0/1.png"}, (const int[]){-1, -1, 0}, 3);
  np_dataset_close(d);
}

static void test_links(void **state) {
  np_dataset *d;
  touch(state, "a/sub/1.png");
  touch(state, "a/dir.png/2.png");        /* a folder may be named so */
  link_to(state, "..", "a/sub/up");       /* circle over a */
  link_to(state, ".", "a/self");          /* circle on the spot */
  link_to(state, "../..", "a/sub/root");  /* circle over the root */
  link_to(state, "sub/1.png", "a/3.png"); /* a linked file */
  link_to(state, "nowhere", "a/4.png");   /* listed: the loader finds it damaged */
  link_to(state, "nowhere", "a/folder");
  link_to(state, "a", "z"); /* a linked class */
  assert_ok(np_dataset_open(*state, true, &d));
  const char *const paths[] = {"a/3.png", "a/4.png", "a/dir.png/2.png", "a/sub/1.png",
                               "z/3.png", "z/4.png", "z/dir.png/2.png", "z/sub/1.png"};
  assert_lists(state, d, paths, (const int[]){0, 0, 0, 0, 1, 1, 1, 1}, 8);
  np_dataset_close(d);
}

static void test_errors(void **state) {
  np_dataset *d;
  assert_error(np_dataset_open("/nowhere/at/all", false, &d), NP_ERR_IO, "/nowhere/at/all");
  assert_error(np_dataset_open(*state, false, &d), NP_ERR_ARGUMENT, "holds no image");
  assert_error(np_dataset_open(*state, true, &d), NP_ERR_ARGUMENT, "no class folders");
  touch(state, "a/notes.txt");
  assert_error(np_dataset_open(*state, true, &d), NP_ERR_ARGUMENT, "holds no image");
  assert_null(d);
  char *file = np_path_join(*state, "a/notes.txt");
  assert_error(np_dataset_open(file, false, &d), NP_ERR_IO, file);
  free(file);
  if (geteuid() != 0) { /* root may read everything */
    char *closed = np_path_join(*state, "closed");
    touch(state, "closed/1.png");
    assert_int_equal(chmod(closed, 0), 0);
    assert_error(np_dataset_open(*state, true, &d), NP_ERR_IO, closed);
    assert_int_equal(chmod(closed, 0700), 0);
    free(closed);
  }
}

static void test_many(void **state) {
  np_dataset *d;
  char name[32];
  for (int i = 0; i < 3000; i++) {
    snprintf(name, sizeof name, "c%d/%d.png", i % 3, i);
    touch(state, name);
  }
  assert_ok(np_dataset_open(*state, true, &d));
  assert_int_equal(d->count, 3000);
  for (int64_t i = 1; i < d->count; i++) assert_true(strcmp(d->samples[i - 1].path, d->samples[i].path) < 0);
  np_dataset_close(d);
}

#define IN_TEMP(test) cmocka_unit_test_setup_teardown(test, temp_setup, temp_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {IN_TEMP(test_classes), IN_TEMP(test_flat_and_mixed), IN_TEMP(test_links),
                                     IN_TEMP(test_errors), IN_TEMP(test_many)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
