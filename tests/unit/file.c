/* Whole reads, all-or-nothing writes, folders, .npy headers. */
#include "util/file.h"
#include "unit/temp.h"
#include "util/npy.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char *path_in(void **state, const char *name) { return np_path_join(*state, name); }

static int entries(const char *folder) {
  int count = 0;
  DIR *dir = opendir(folder);
  assert_non_null(dir);
  for (const struct dirent *e; (e = readdir(dir));)
    count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
  closedir(dir);
  return count;
}

static void assert_holds(const char *path, const char *text) {
  char *bytes;
  size_t size;
  assert_ok(np_file_read(path, 1 << 20, &bytes, &size));
  assert_int_equal(size, strlen(text));
  assert_string_equal(bytes, text);
  free(bytes);
}

static void test_paths(void **state) {
  (void)state;
  const char *const cases[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *joined = np_path_join(cases[i][0], cases[i][1]);
    assert_string_equal(joined, cases[i][2]);
    free(joined);
  }
}

static void test_read(void **state) {
  char *path = path_in(state, "a"), *bytes, *fifo = path_in(state, "pipe");
  size_t size;
  assert_ok(np_file_write(path, "hello", 5));
  assert_ok(np_file_read(path, 5, &bytes, &size));
  assert_int_equal(size, 5);
  assert_string_equal(bytes, "hello"); /* a NUL stands behind */
  free(bytes);
  assert_error(np_file_read(path, 4, &bytes, &size), NP_ERR_FORMAT, path);
  assert_null(bytes);
  assert_error(np_file_read(*state, 100, &bytes, &size), NP_ERR_IO, "not a regular file");
  assert_error(np_file_read("/nowhere/a", 100, &bytes, &size), NP_ERR_IO, "/nowhere/a");
  assert_int_equal(mkfifo(fifo, 0600), 0);
  assert_error(np_file_read(fifo, 100, &bytes, &size), NP_ERR_IO, "not a regular file"); /* and does not hang */
  free(path);
  free(fifo);
}

static void test_write_replaces(void **state) {
  char *path = path_in(state, "a");
  struct stat about;
  assert_ok(np_file_write(path, "old", 3));
  assert_ok(np_file_write(path, "newer", 5));
  assert_holds(path, "newer");
  assert_int_equal(entries(*state), 1); /* no temporary is left */
  mode_t mask = umask(0);
  umask(mask);
  assert_int_equal(stat(path, &about), 0);
  assert_int_equal(about.st_mode & 0777, 0666 & ~mask);
  free(path);
}

static void test_abort_leaves_old(void **state) {
  char *path = path_in(state, "a");
  np_file_writer writer;
  assert_ok(np_file_write(path, "old", 3));
  assert_ok(np_file_begin(&writer, path));
  assert_ok(np_file_put(&writer, "half", 4));
  assert_holds(path, "old");
  np_file_abort(&writer);
  np_file_abort(&writer); /* twice is fine */
  assert_holds(path, "old");
  assert_int_equal(entries(*state), 1);
  free(path);
}

static void test_begin_fails(void **state) {
  np_file_writer writer;
  char *file = path_in(state, "file"), *below = path_in(state, "file/below"), *folder = path_in(state, "folder/");
  assert_ok(np_file_write(file, "", 0));
  assert_error(np_file_begin(&writer, below), NP_ERR_IO, below);
  np_file_abort(&writer);
  assert_error(np_file_begin(&writer, "/nowhere/x"), NP_ERR_IO, "/nowhere/x");
  np_file_abort(&writer);
  assert_error(np_file_begin(&writer, folder), NP_ERR_IO, "folder/");
  np_file_abort(&writer);
  assert_error(np_file_write(*state, "x", 1), NP_ERR_IO, *state); /* a folder stands in the way of the rename */
  free(file);
  free(below);
  free(folder);
}

/* Only a regular file is replaced; behind a link the one it leads to. */
static void test_other_than_files(void **state) {
  char *pipe = path_in(state, "pipe"), *target = path_in(state, "target"), *link = path_in(state, "link"),
       *nothing = path_in(state, "nothing"), *aim = path_in(state, "aim");
  struct stat about;
  assert_int_equal(mkfifo(pipe, 0600), 0);
  assert_error(np_file_write(pipe, "x", 1), NP_ERR_IO, "no regular file");
  assert_error(np_file_check_target(pipe), NP_ERR_IO, pipe);
  assert_error(np_file_write("/dev/null", "x", 1), NP_ERR_IO, "'/dev/null' is there and no regular file");
  assert_true(lstat(pipe, &about) == 0 && S_ISFIFO(about.st_mode));
  assert_ok(np_file_write(target, "old", 3));
  assert_int_equal(symlink("target", link), 0);
  assert_ok(np_file_write(link, "new", 3));
  assert_holds(target, "new");
  assert_true(lstat(link, &about) == 0 && S_ISLNK(about.st_mode));
  assert_int_equal(symlink("aim", nothing), 0);
  assert_error(np_file_write(nothing, "x", 1), NP_ERR_IO, "a symbolic link to nothing");
  assert_ok(np_file_check_target(aim));
  assert_int_equal(entries(*state), 4);
  free(pipe);
  free(target);
  free(link);
  free(nothing);
  free(aim);
}

static void test_stale_temporary(void **state) {
  char *path = path_in(state, "a"), *temporary = path_in(state, ".a.tmp");
  assert_ok(np_file_write(temporary, "what a killed program left: longer than the new text", 52));
  assert_ok(np_file_write(path, "new", 3));
  assert_holds(path, "new");
  assert_int_equal(entries(*state), 1);
  free(path);
  free(temporary);
}

static void test_two_writers(void **state) {
  char *path = path_in(state, "a");
  np_file_writer first, second;
  assert_ok(np_file_begin(&first, path));
  assert_ok(np_file_put(&first, "first", 5));
  assert_error(np_file_begin(&second, path), NP_ERR_IO, "another program");
  np_file_abort(&second);
  assert_ok(np_file_commit(&first));
  assert_holds(path, "first");
  free(path);
}

/* A limit on file size stands for the full disk: write fails half way with EFBIG. */
static void test_full_disk(void **state) {
  char *path = path_in(state, "a");
  static char large[1 << 16];
  struct rlimit old, small;
  assert_ok(np_file_write(path, "old", 3));
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  small = old;
  small.rlim_cur = 1000;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  np_status st = np_file_write(path, large, sizeof large);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
  signal(SIGXFSZ, handler);
  assert_int_equal(st, NP_ERR_IO);
  assert_non_null(strstr(np_error_message(), path));
  assert_holds(path, "old");
  assert_int_equal(entries(*state), 1);
  free(path);
}

static void test_folders(void **state) {
  char *deep = path_in(state, "x/y//z/"), *file = path_in(state, "x/y/f"), *top = path_in(state, "x"),
       *under = path_in(state, "x/y/f/g"), *link = path_in(state, "x/link"), *kept = path_in(state, "kept"),
       *in_kept = path_in(state, "kept/file");
  struct stat about;
  assert_ok(np_folder_make(deep));
  assert_ok(np_folder_make(deep));
  assert_int_equal(stat(deep, &about), 0);
  assert_ok(np_file_write(file, "f", 1));
  assert_error(np_folder_make(file), NP_ERR_IO, "Not a directory");
  assert_error(np_folder_make(under), NP_ERR_IO, file);
  assert_error(np_folder_remove(file), NP_ERR_IO, "not a folder");
  assert_ok(np_folder_make(kept));
  assert_ok(np_file_write(in_kept, "k", 1));
  assert_int_equal(symlink(kept, link), 0);
  assert_ok(np_folder_sync(top));
  assert_ok(np_folder_remove(top));
  assert_int_not_equal(stat(top, &about), 0);
  assert_holds(in_kept, "k"); /* what a link points at stays */
  assert_ok(np_folder_remove(top));
  assert_error(np_folder_sync(top), NP_ERR_IO, top);
  free(deep), free(file), free(top), free(under), free(link), free(kept), free(in_kept);
}

/* The bytes numpy.save wrote for zeros of these shapes ("<f4"): its own header texts, length from the preamble. */
static void test_npy(void **state) {
  const struct {
    int ndim;
    int64_t shape[3];
    const char *dictionary;
  } cases[] = {
      {0, {0}, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }"},
      {1, {5}, "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }"},
      {3, {1000000, 3, 2}, "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 3, 2), }"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *path = path_in(state, "a.npy"), *bytes;
    size_t size;
    np_file_writer writer;
    assert_ok(np_file_begin(&writer, path));
    assert_ok(np_npy_header_f32(&writer, cases[i].shape, cases[i].ndim));
    assert_ok(np_file_commit(&writer));
    assert_ok(np_file_read(path, 1000, &bytes, &size));
    assert_memory_equal(bytes, "\x93NUMPY\1\0", 8);
    assert_int_equal(size % 64, 0);
    assert_int_equal((unsigned char)bytes[8] | (unsigned char)bytes[9] << 8, size - 10);
    assert_memory_equal(bytes + 10, cases[i].dictionary, strlen(cases[i].dictionary));
    for (size_t at = 10 + strlen(cases[i].dictionary); at + 1 < size; at++) assert_int_equal(bytes[at], ' ');
    assert_int_equal(bytes[size - 1], '\n');
    free(bytes);
    free(path);
  }
}

#define IN_TEMP(test) cmocka_unit_test_setup_teardown(test, temp_setup, temp_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_paths),   IN_TEMP(test_read),
      IN_TEMP(test_write_replaces),   IN_TEMP(test_abort_leaves_old),
      IN_TEMP(test_begin_fails),      IN_TEMP(test_full_disk),
      IN_TEMP(test_stale_temporary),  IN_TEMP(test_two_writers),
      IN_TEMP(test_folders),          IN_TEMP(test_npy),
      IN_TEMP(test_other_than_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
