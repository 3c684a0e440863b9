/* How a run shows itself to a person: a bar on a terminal, a line per interval elsewhere. */
#ifndef NP_TRAIN_PROGRESS_H
#define NP_TRAIN_PROGRESS_H

#include "train/metrics.h"

#include <stddef.h>
#include <stdint.h>

/* Call after each step; redraws the bar at most a few times a second. seconds_a_step: mean since this start. */
void np_progress_bar(const np_metric *now, int64_t steps, double seconds_a_step);
/* Call where a metric line was written: the line for a log file; nothing on a terminal, where the bar says it. */
void np_progress_line(const np_metric *now, int64_t steps, double seconds_a_step);
/* Remove the bar. */
void np_progress_end(void);

/* "1:02:03" or "2:03" for seconds; "-" when unknown. */
const char *np_progress_time(double seconds, char text[24]);

#endif
