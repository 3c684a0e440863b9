/* Run the program under test and keep what it printed. */
#ifndef NP_TESTS_SYSTEM_RUN_H
#define NP_TESTS_SYSTEM_RUN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct np_run_result {
  int exit_code; /* the exit status, or -SIGNAL */
  char out[65536], err[65536];
} np_run_result;

static inline void np_run_slurp(FILE *file, char *text, size_t size) {
  rewind(file);
  text[fread(text, 1, size - 1, file)] = 0;
  fclose(file);
}

/* argv[0] is NP_PROGRAM, the last entry NULL. Output goes through files, so a long one cannot block the program. A test
 * that cannot even start a process ends with a message. */
static inline void np_run(const char *const *argv, np_run_result *result) {
  FILE *out = tmpfile(), *err = tmpfile();
  int status = 0;
  if (!out || !err) perror("tmpfile"), abort();
  fflush(NULL);
  pid_t child = fork();
  if (child < 0) perror("fork"), abort();
  if (!child) {
    dup2(fileno(out), 1);
    dup2(fileno(err), 2);
    execv(argv[0], (char *const *)argv);
    _exit(127);
  }
  if (waitpid(child, &status, 0) != child) perror("waitpid"), abort();
  result->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  np_run_slurp(out, result->out, sizeof result->out);
  np_run_slurp(err, result->err, sizeof result->err);
}

#endif
