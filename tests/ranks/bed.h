/* What the tests of several processes share: how much is run, and what is expected of it. They stand in one folder with
 * recipe.yaml, images/train, images/val and the run of one process, `whole`. */
#ifndef NP_TESTS_RANKS_BED_H
#define NP_TESTS_RANKS_BED_H

#include "ranks/start.h"
#include "system/run.h"
#include "unit/temp.h"

#include "util/safetensors.h"

#include <math.h>
#include <time.h>

#ifdef NP_RANKS_MPI
#define BACKEND "backend=cpu"
#else
#define BACKEND "backend=cuda"
#endif
#if defined(NP_RANKS_MPI) || defined(NP_RANKS_GPU)
#define STEPS 300
#define LAST  "00300"
#define LONG  "probe.epochs=200"
#else
#define STEPS 12 /* they are slow */
#define LAST  "00012"
#define LONG  "probe.epochs=20"
#endif
#define PATIENCE "12" /* seconds: more than one process is late behind another on a busy machine */
#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

/* Start, wait, and expect this exit status of every rank (of mpirun, which has that of the first to fail). */
static inline void expect(int world, const char *const *words, int exit_code, const char *what) {
  np_ranks r;
  np_ranks_start(&r, world, words);
  np_ranks_wait(&r);
  for (int i = 0; i < r.count; i++)
    if (r.exit_code[i] != exit_code) fail_msg("exit status %d, wanted %d: %s", r.exit_code[i], exit_code, r.err);
  if (what && !strstr(r.err, what)) fail_msg("'%s' is not in: %s", what, r.err);
}

/* The largest difference between the weights of two files. */
static inline double difference_of(const char *path, const char *other) {
  np_safetensors *a, *b;
  double most = 0;
  assert_ok(np_safetensors_open(path, &a));
  assert_ok(np_safetensors_open(other, &b));
  assert_int_equal(np_safetensors_count(a), np_safetensors_count(b));
  for (int i = 0; i < np_safetensors_count(a); i++) {
    const np_tensor *x = np_safetensors_at(a, i), *y = np_safetensors_find(b, x->name);
    assert_true(y && x->bytes == y->bytes);
    const float *p = x->data, *q = y->data;
    for (size_t j = 0; j < x->bytes / sizeof *p; j++) most = fmax(most, fabs((double)p[j] - (double)q[j]));
  }
  np_safetensors_close(a);
  np_safetensors_close(b);
  return most;
}

static inline void nap(int milliseconds) {
  nanosleep(&(struct timespec){.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000}, NULL);
}

/* use.c */
void probed(void **state);
void features(void **state);
void probe_stopped_and_gone_on(void **state);

#endif
