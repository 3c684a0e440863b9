/* Patience ends a process; nothing else does. Each case runs in a process of its own. */
#include "dist/watch.h"
#include "system/run.h"
#include "unit/temp.h"
#include "util/log.h"

#include <fcntl.h>
#include <time.h>

static char said[4096];

/* Runs `body` in a child; its exit status, its standard error in `said`. */
static int in_a_child(void (*body)(void)) {
  FILE *err = tmpfile();
  int status;
  assert_non_null(err);
  fflush(NULL);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    dup2(fileno(err), 2);
    body();
    _exit(0);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  np_run_slurp(err, said, sizeof said);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void nap(double seconds) {
  nanosleep(&(struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)},
            NULL);
}

static void wait_for_nobody(void) {
  np_watch *w;
  if (np_watch_start(1, &w) != NP_OK) _exit(9);
  np_log_set_name("rank 5");
  np_watch_begin(w, "the others");
  nap(60);
}

/* Longer than patience together, and each with seconds to spare, for a busy machine. */
static void wait_now_and_then(void) {
  np_watch *w;
  if (np_watch_start(4, &w) != NP_OK) _exit(9);
  for (int i = 0; i < 5; i++) {
    np_watch_begin(w, "the others");
    nap(1);
    np_watch_end(w);
  }
  nap(5.5); /* which is no wait */
  np_watch_stop(w);
}

static void wait_for_ever(void) {
  np_watch *w;
  if (np_watch_start(0, &w) != NP_OK) _exit(9);
  np_watch_begin(w, "the others");
  nap(2.5);
  np_watch_stop(w);
}

static np_status broken(void *context) { return np_error(NP_ERR_LIBRARY, "the %s is broken", (const char *)context); }

static void look(void) {
  np_watch *w;
  static char what[] = "network";
  if (np_watch_start(0, &w) != NP_OK) _exit(9);
  np_watch_look(w, broken, what);
  nap(1.5); /* nobody waits, nobody looks */
  np_watch_begin(w, "the others");
  nap(60);
}

static void patience_ends(void **state) {
  (void)state;
  assert_int_equal(in_a_child(wait_for_nobody), 1);
  if (strncmp(said, "error: rank 5: waited ", 22) != 0 ||
      !strstr(said, " for the others: another rank is gone or stuck"))
    fail_msg("%s", said);
}

static void patience_lasts(void **state) {
  (void)state;
  assert_int_equal(in_a_child(wait_now_and_then), 0);
  assert_int_equal(in_a_child(wait_for_ever), 0);
  assert_string_equal(said, "");
}

static void a_look_ends_it(void **state) {
  (void)state;
  assert_int_equal(in_a_child(look), 1);
  assert_string_equal(said, "error: the network is broken\n");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(patience_ends),
      cmocka_unit_test(patience_lasts),
      cmocka_unit_test(a_look_ends_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
