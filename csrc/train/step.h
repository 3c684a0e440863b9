/* Private to this room: steps queued and read, on this rank together with all others.
 *
 * Every rank queues the same steps in the same order, whatever happens to it: its share of the gradients, and its vote.
 * What comes back is the same for all, so that all stop behind the same step. */
#ifndef NP_TRAIN_STEP_H
#define NP_TRAIN_STEP_H

#include "train/trainer.h"

#include <stdbool.h>

enum { NP_STEPS_AHEAD = 2 }; /* steps under way at most */

/* A step that is queued and was not read yet: what its metrics need and the device does not know. */
typedef struct np_under_way {
  int64_t targets; /* of all ranks */
  double lr;
} np_under_way;

typedef struct np_steps {
  np_trainer *t;
  int64_t queued; /* steps; those from t->state.step on are under way */
  np_under_way under_way[NP_STEPS_AHEAD];
  bool stop;          /* a rank was asked to stop before the step that was read last, or before one before it */
  int64_t seen, bad;  /* images of all ranks by the step that is read, as np_loader_stats counts them */
  double waited;      /* seconds that ranks have waited for data by then, in the mean */
  bool agreed;        /* the error that np_steps_read returned is one that every rank has */
  np_status failed;   /* why this rank computes nothing any more; NP_OK: it does */
  char message[1024]; /* of it */
} np_steps;

/* From where t->state stands. */
np_steps np_steps_begin(np_trainer *trainer);

/* Something failed on this rank, with the message of np_error_message: the others hear of it with the next step, which
 * nobody may keep. NP_OK is nothing; of several failures the first counts. */
void np_steps_fail(np_steps *steps, np_status why);
np_status np_steps_failed(const np_steps *steps); /* and its message back in place */

/* Queue the next step over this rank's share of a batch; NULL on a rank that has failed. */
np_status np_steps_queue(np_steps *steps, const np_batch *batch);

/* The oldest step under way: wait for it, count it, fill what the device knows of `metric`. The run stops once
 * max_bad_steps in a row were not applied; a step that was queued by then goes with it. */
np_status np_steps_read(np_steps *steps, np_metric *metric);

#endif
