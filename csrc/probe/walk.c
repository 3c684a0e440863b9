#include "probe/walk.h"

#include "util/file.h"
#include "util/log.h"

#include <stdlib.h>

enum { ROUND = 16 };

np_status np_walk_open(const np_opened *opened, const np_dataset *set, int batch, const char *what, np_walk *out) {
  const int64_t rank = np_comm_rank(opened->comm), world = np_comm_world(opened->comm);
  const int64_t begin = set->count * rank / world, largest = (set->count + world - 1) / world;
  const int64_t batches = (largest + batch - 1) / batch;
  *out = (np_walk){.comm = opened->comm,
                   .what = what,
                   .part = *set,
                   .begin = begin,
                   .options = np_open_loader(opened->recipe, batch),
                   .rounds = (batches + ROUND - 1) / ROUND};
  out->part.samples += begin;
  out->part.count = set->count * (rank + 1) / world - begin;
  out->ended = out->part.count == 0;
  if (world > 1) out->options.max_bad_share = 1; /* all ranks' images are judged together */
  return out->ended ? NP_OK : np_loader_open(&out->part, &out->options, &out->loader);
}

void np_walk_close(np_walk *w) {
  if (!w->comm) return;
  np_log_set_status(NULL);
  np_loader_close(w->loader);
  *w = (np_walk){0};
}

static void tell(const np_walk *w) {
  char *status = np_format("%s: %lld of %lld images", w->what, (long long)w->images, (long long)w->part.count);
  if (np_comm_rank(w->comm) == 0) np_log_set_status(status);
  free(status);
}

/* The next batch of this rank, if it has one. */
static np_status take(np_walk *w, const np_batch **now) {
  if (w->ended) return NP_OK;
  np_status st = np_loader_next(w->loader, now);
  w->ended = st != NP_OK || !*now;
  if (w->ended) return st;
  w->images += (*now)->count;
  w->in_round++;
  return NP_OK;
}

np_status np_walk_next(np_walk *w, np_status mine, const np_batch **now) {
  *now = NULL;
  if (w->images > 0) tell(w);
  if (mine == NP_OK && w->in_round < ROUND) mine = take(w, now);
  while (!*now && w->round < w->rounds) { /* all make as many of them, and after the last nobody has a batch left */
    np_status st = np_comm_settle(w->comm, mine);
    if (st != NP_OK) return st;
    w->in_round = 0;
    if (++w->round < w->rounds) mine = take(w, now);
  }
  return mine;
}

int64_t np_walk_bad(const np_walk *w) { return w->loader ? np_loader_stats_read(w->loader).bad : 0; }
