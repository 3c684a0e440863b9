#include "train/progress.h"

#include "util/clock.h"
#include "util/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *np_progress_time(double seconds, char text[24]) {
  if (!(seconds >= 0 && seconds < 1e9)) return "-";
  long s = lround(seconds);
  if (s >= 3600) snprintf(text, 24, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  else snprintf(text, 24, "%ld:%02ld", s / 60, s % 60);
  return text;
}

static void describe(const np_metric *now, int64_t steps, double seconds_a_step, char *text, size_t size) {
  char left[24];
  double rest = (double)(steps - now->step) * seconds_a_step;
  snprintf(text, size, "step %" PRId64 "/%" PRId64 "  loss %.4f  %.1f images/s  data wait %.0f%%  left %s", now->step,
           steps, now->loss, now->images_per_s, 100 * now->data_wait_share, np_progress_time(rest, left));
}

void np_progress_bar(const np_metric *now, int64_t steps, double seconds_a_step) {
  enum { WIDTH = 24 };
  static double last;
  const double now_seconds = np_seconds();
  char text[160], line[256], bar[WIDTH + 1];
  if (now_seconds - last < 0.2 && now->step < steps) return;
  last = now_seconds;
  int filled = (int)((double)WIDTH * (double)now->step / (double)steps);
  memset(bar, '.', WIDTH);
  memset(bar, '#', (size_t)filled);
  bar[WIDTH] = 0;
  describe(now, steps, seconds_a_step, text, sizeof text);
  snprintf(line, sizeof line, "[%s] %s", bar, text);
  np_log_set_status(line);
}

void np_progress_line(const np_metric *now, int64_t steps, double seconds_a_step) {
  char text[160];
  if (isatty(STDERR_FILENO)) return;
  describe(now, steps, seconds_a_step, text, sizeof text);
  np_info("%s  lr %.3g  norm %.3g", text, now->lr, now->grad_norm);
}

void np_progress_end(void) { np_log_set_status(NULL); }
