/* What is demanded of the run that a test of the program made last, and of the files it left. Behind unit/temp.h. */
#ifndef NP_TESTS_SYSTEM_RESULT_H
#define NP_TESTS_SYSTEM_RESULT_H

#include "system/run.h"

static np_run_result result;

static inline void assert_done(void) {
  if (result.exit_code != 0) fail_msg("exit status %d: %s", result.exit_code, result.err);
}

/* Exit status, and `what` in the one error line, which comes last. */
static inline void assert_failed(int exit_code, const char *what) {
  const char *line = strstr(result.err, "error: ");
  if (result.exit_code != exit_code || !line || !strstr(line, what) || strchr(line, '\n') != line + strlen(line) - 1)
    fail_msg("wanted exit status %d and an error line with '%s', got %d: %s", exit_code, what, result.exit_code,
             result.err);
}

/* The two files hold the same. */
static inline void assert_same_files(const char *a, const char *b) {
  char *bytes[2];
  size_t size[2];
  assert_ok(np_file_read(a, 1 << 24, &bytes[0], &size[0]));
  assert_ok(np_file_read(b, 1 << 24, &bytes[1], &size[1]));
  assert_int_equal(size[0], size[1]);
  assert_memory_equal(bytes[0], bytes[1], size[0]);
  free(bytes[0]);
  free(bytes[1]);
}

#endif
