#include "util/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 2048 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static np_log_level log_level = NP_LOG_INFO;
static char status[LINE_BYTES / 4];
static char owner[48]; /* "rank 3: " */

static void put(const char *text, size_t bytes) {
  while (bytes > 0) {
    ssize_t written = write(STDERR_FILENO, text, bytes);
    if (written <= 0) return; /* nowhere left to complain */
    text += written;
    bytes -= (size_t)written;
  }
}

static void line(np_log_level level, const char *prefix, const char *format, va_list args) {
  char text[LINE_BYTES];
  pthread_mutex_lock(&lock);
  if (level <= log_level) {
    size_t used = 0;
    if (status[0]) used = (size_t)snprintf(text, sizeof text, "\r\x1b[K");
    used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", prefix, level <= NP_LOG_WARNING ? owner : "");
    int n = vsnprintf(text + used, sizeof text - used, format, args);
    used += n < 0 ? 0 : (size_t)n;
    if (used > sizeof text - sizeof status - 2) used = sizeof text - sizeof status - 2;
    text[used++] = '\n';
    used += (size_t)snprintf(text + used, sizeof text - used, "%s", status);
    put(text, used);
  }
  pthread_mutex_unlock(&lock);
}

void np_log_set_level(np_log_level level) {
  pthread_mutex_lock(&lock);
  log_level = level;
  pthread_mutex_unlock(&lock);
}

void np_log_set_name(const char *name) {
  pthread_mutex_lock(&lock);
  snprintf(owner, sizeof owner, "%.40s%s", name ? name : "", name ? ": " : "");
  pthread_mutex_unlock(&lock);
}

/* One write: several processes may share the terminal. */
void np_log_end(const char *word, const char *text) {
  static char told[LINE_BYTES];
  char out[LINE_BYTES];
  pthread_mutex_lock(&lock);
  int n = snprintf(out, sizeof out, "%s%s: %s%s\n", status[0] ? "\r\x1b[K" : "", word, owner, text);
  status[0] = 0;
  if (strcmp(told, text) != 0) put(out, n < (int)sizeof out ? (size_t)n : sizeof out - 1);
  snprintf(told, sizeof told, "%s", text);
  pthread_mutex_unlock(&lock);
}

#define DEFINE_LEVEL(name, level, prefix)                                                                              \
  void name(const char *format, ...) {                                                                                 \
    va_list args;                                                                                                      \
    va_start(args, format);                                                                                            \
    line(level, prefix, format, args);                                                                                 \
    va_end(args);                                                                                                      \
  }
DEFINE_LEVEL(np_info, NP_LOG_INFO, "")
DEFINE_LEVEL(np_warn, NP_LOG_WARNING, "warning: ")
DEFINE_LEVEL(np_debug, NP_LOG_DEBUG, "debug: ")

void np_log_set_status(const char *text) {
  if (!isatty(STDERR_FILENO)) return;
  pthread_mutex_lock(&lock);
  char out[sizeof status + 8];
  snprintf(status, sizeof status, "%s", text ? text : "");
  int n = snprintf(out, sizeof out, "\r\x1b[K%s", status);
  put(out, (size_t)n);
  pthread_mutex_unlock(&lock);
}
