/* A folder for a test's files, removed at the end. */
#ifndef NP_TESTS_UNIT_TEMP_H
#define NP_TESTS_UNIT_TEMP_H

#include "util/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* CMocka set-up and tear-down of one test or group: *state is the folder's path. */
static inline int temp_setup(void **state) {
  char *folder = np_format("%s/nextpatch-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  if (!mkdtemp(folder)) return -1;
  *state = folder;
  return 0;
}

static inline int temp_teardown(void **state) {
  np_status st = np_folder_remove(*state);
  free(*state);
  return st == NP_OK ? 0 : -1;
}

#define assert_ok(expr)                                                                                                \
  do {                                                                                                                 \
    if ((expr) != NP_OK) fail_msg("%s: %s", #expr, np_error_message());                                                \
  } while (0)

/* The call fails with `code`, and its message holds `part`. */
#define assert_error(expr, code, part)                                                                                 \
  do {                                                                                                                 \
    const char *part_ = (part);                                                                                        \
    assert_int_equal((expr), (code));                                                                                  \
    if (!strstr(np_error_message(), part_)) fail_msg("message '%s' lacks '%s'", np_error_message(), part_);            \
  } while (0)

#endif
