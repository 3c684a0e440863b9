/* Once over all images of a set in order, as evaluation sees them: each rank over its part, and all of them in step.
 *
 *   rank 0   batch batch … batch │ batch batch … │ …        Every so many batches the ranks meet: one that failed ends
 * the rank 1   batch batch … batch │ batch batch … │ …        others there, and none is so far ahead that it would take
 *                              meet            meet         them for gone (run.patience).
 */
#ifndef NP_PROBE_WALK_H
#define NP_PROBE_WALK_H

#include "data/dataset.h"
#include "data/loader.h"
#include "probe/open.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct np_walk {
  np_comm *comm;
  const char *what; /* for the status line: "evaluating" */
  np_dataset part;  /* this rank's images; batches count from its first … */
  int64_t begin;    /* … which is this one of the set */
  np_loader_options options;
  np_loader *loader;     /* NULL: fewer images than ranks, and none here */
  int64_t images;        /* handed out */
  int64_t rounds, round; /* between meetings: in all, over */
  int in_round;          /* batches of the round at hand */
  bool ended;
} np_walk;

/* batch: images of a pass. `set` must outlive it. With several ranks data.max_bad_share is for the caller to judge. */
np_status np_walk_open(const np_opened *opened, const np_dataset *set, int batch, const char *what, np_walk *out);
void np_walk_close(np_walk *walk); /* a zeroed struct is fine */

/* The next batch. mine: how it went with the last one, NP_OK before the first. *now is NULL once all ranks are through;
 * an error is this rank's own, or says which other rank failed. */
np_status np_walk_next(np_walk *walk, np_status mine, const np_batch **now);

/* Damaged images so far, of this rank. */
int64_t np_walk_bad(const np_walk *walk);

#endif
