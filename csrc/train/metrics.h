/* What a run tells about its steps: RUN/metrics.jsonl, one JSON object a line, and a TensorBoard event file beside it.
 */
#ifndef NP_TRAIN_METRICS_H
#define NP_TRAIN_METRICS_H

#include "util/status.h"

#include <stdint.h>

typedef struct np_metric {
  int64_t step;           /* steps behind us, this one included */
  double epoch;           /* images seen over images in the folder */
  double loss;            /* mean over this step's target patches */
  double lr;              /* of this step */
  double grad_norm;       /* of this step, before clipping */
  double images_per_s;    /* since the last line, as the rest below */
  double gflops;          /* model arithmetic a second (np_model_flops of the loss tokens), in 10^9 */
  double data_wait_share; /* of the time, spent waiting for a batch; the mean over ranks */
  double seconds;         /* spent training, over all starts of the run */
  int64_t bad_images;     /* damaged ones met, over all starts of the run */
  int64_t skipped_steps;  /* not applied, in the whole run */
} np_metric;

typedef struct np_metrics np_metrics;

/* Open for appending behind `step`: lines of later steps (and half a line that a kill left) are dropped first. */
np_status np_metrics_open(const char *run, int64_t step, np_metrics **out);
/* Write one line and one event. A value that is not finite stands as null in JSON. */
np_status np_metrics_put(np_metrics *metrics, const np_metric *metric);
void np_metrics_close(np_metrics *metrics); /* NULL is fine */

/* Read the lines back, ascending by step; malloc'ed. Values that stand as null read as NaN. */
np_status np_metrics_read(const char *run, np_metric **out, int *count);

#endif
