/* A folder for a group of tests to work in, as the current one: recipe.yaml, and images/train (40 of 4 classes) and
 * images/val. */
#ifndef NP_TESTS_SYSTEM_WORK_H
#define NP_TESTS_SYSTEM_WORK_H

#include "system/run.h"
#include "unit/temp.h"

#include <unistd.h>

static char *work; /* its path */

/* val and size: synth's words, "val=4", "size=16". 0, or what a set-up of CMocka returns when it failed. */
static inline int work_make(void **state, const char *recipe, const char *val, const char *size) {
  np_run_result made;
  if (temp_setup(state) != 0) return -1;
  work = *state;
  if (chdir(work) != 0 || np_file_write("recipe.yaml", recipe, strlen(recipe)) != NP_OK) return -1;
  np_run((const char *const[]){NP_PROGRAM, "synth", "images", "classes=4", "train=40", val, size, NULL}, &made);
  if (made.exit_code != 0) fprintf(stderr, "%s", made.err);
  return made.exit_code;
}

static int work_remove(void **state) {
  *state = work;
  return chdir("/") != 0 || temp_teardown(state) != 0;
}

#endif
