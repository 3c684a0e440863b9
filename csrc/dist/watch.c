#include "dist/watch.h"

#include "util/log.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { STATUS = 1, LOOK_EVERY = 1 /* seconds */ };

struct np_watch {
  pthread_t thread;
  pthread_mutex_t lock; /* over all below */
  pthread_cond_t changed;
  int seconds;
  bool stop;
  const char *what;      /* NULL: no wait */
  struct timespec begun; /* of the wait */
  np_status (*look)(void *context);
  void *context;
};

/* The process may be inside a library that will not come back: nothing is cleaned up. */
__attribute__((noreturn)) static void leave(const char *text) {
  np_log_end("error", text);
  _exit(STATUS);
}

static double since(const struct timespec *begun) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - begun->tv_sec) + 1e-9 * (double)(now.tv_nsec - begun->tv_nsec);
}

/* The lock is held. */
static void judge(np_watch *w) {
  char text[1100];
  if (!w->what) return;
  if (w->look && w->look(w->context) != NP_OK) leave(np_error_message());
  double waited = since(&w->begun);
  if (w->seconds == 0 || waited < w->seconds) return;
  snprintf(text, sizeof text,
           "waited %.0f seconds for %s: another rank is gone or stuck (its own line says why); run.patience is %d",
           waited, w->what, w->seconds);
  leave(text);
}

static void *watch(void *argument) {
  np_watch *w = argument;
  pthread_mutex_lock(&w->lock);
  while (!w->stop) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += LOOK_EVERY;
    pthread_cond_timedwait(&w->changed, &w->lock, &until);
    judge(w);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

/* Its thread blocks every signal: they are for the one that trains. */
static int start_thread(np_watch *w) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int failed = pthread_create(&w->thread, NULL, watch, w);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return failed;
}

np_status np_watch_start(int seconds, np_watch **out) {
  pthread_condattr_t monotonic;
  np_watch *w = calloc(1, sizeof *w);
  *out = NULL;
  if (!w) return np_error(NP_ERR_MEMORY, "not enough memory for a watch");
  w->seconds = seconds;
  pthread_mutex_init(&w->lock, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&w->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  int failed = start_thread(w);
  if (failed) {
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return np_error(NP_ERR_IO, "cannot start a thread: %s", strerror(failed));
  }
  *out = w;
  return NP_OK;
}

void np_watch_stop(np_watch *w) {
  if (!w) return;
  pthread_mutex_lock(&w->lock);
  w->stop = true;
  w->what = NULL;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
  pthread_join(w->thread, NULL);
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w);
}

void np_watch_begin(np_watch *w, const char *what) {
  if (!w) return;
  pthread_mutex_lock(&w->lock);
  clock_gettime(CLOCK_MONOTONIC, &w->begun);
  w->what = what;
  pthread_mutex_unlock(&w->lock);
}

void np_watch_end(np_watch *w) {
  if (!w) return;
  pthread_mutex_lock(&w->lock);
  w->what = NULL;
  pthread_mutex_unlock(&w->lock);
}

void np_watch_look(np_watch *w, np_status (*look)(void *context), void *context) {
  if (!w) return;
  pthread_mutex_lock(&w->lock);
  w->look = look;
  w->context = context;
  pthread_mutex_unlock(&w->lock);
}
