/* One step after the other, with the host one step ahead of the device.
 *
 *   host     queue 1 │ queue 2 │ read 1, queue 3 │ read 2, queue 4 │ …
 *   device           │ step 1 ────────│ step 2 ────────│ step 3 ─────
 *
 * A step's loss, its gradient's norm and whether it was applied are read when the next step has been queued, so that
 * the device finds work whenever it is done. Nothing of a step depends on them: the device decides from the norm
 * whether a step is applied. A loss that is not finite has a gradient that is not (np_ops.pixel_loss). Checkpoints, the
 * end and signals wait until everything queued is read. With several ranks all of this happens on each, at the same
 * steps; the first alone writes and tells. */
#include "train/collective.h"
#include "train/progress.h"
#include "train/step.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Speed since the last metric line and since this start. */
typedef struct pace {
  double start, last; /* monotonic seconds */
  double before;      /* seconds of earlier starts of the run */
  int64_t start_step, last_step;
  double last_wait;
} pace;

/* ---- checkpoints ------------------------------------------------------------------------------------------------- */

/* Ranks fetch together, in this order; the first one between writing one file and the next. */
typedef struct fetching {
  np_trainer *t;
  int done; /* kinds of np_kept */
} fetching;

static np_status fetch(fetching *f, float *host) { return np_collect_fetch(f->t, (np_kept)f->done++, host); }

static np_status fetch_weights(void *context, float *out) { return fetch(context, out); }

static np_status fetch_moments(void *context, float *first, float *second) {
  np_status st = fetch(context, first);
  return st == NP_OK ? fetch(context, second) : st;
}

static np_status write_checkpoint(fetching *f) {
  np_status st = NP_OK;
  np_trainer *t = f->t;
  const np_checkpoint_content content = {
      .state = t->state,
      .params = np_model_params(t->model),
      .recipe = t->essence,
      .staging = t->staging,
      .weights = fetch_weights,
      .moments = fetch_moments,
      .context = f,
  };
  NP_TRY(np_checkpoint_save(t->recipe->run.dir, &content));
  np_debug("checkpoint of step %" PRId64, t->state.step);
  st = np_checkpoint_prune(t->recipe->run.dir, t->recipe->checkpoint.keep_last, t->recipe->checkpoint.keep_every);
out:
  return st;
}

/* The first rank writes, what the others give. Where it cannot they are not left waiting. */
static np_status write_together(np_steps *s) {
  char message[1024];
  fetching f = {.t = s->t};
  np_status mine = np_steps_failed(s);
  if (mine == NP_OK && np_trainer_first(s->t)) mine = write_checkpoint(&f);
  snprintf(message, sizeof message, "%s", np_error_message());
  while (f.done < NP_KEPT_KINDS) {
    np_status st = fetch(&f, NULL);
    if (st != NP_OK) return st;
  }
  return mine == NP_OK ? NP_OK : np_error(mine, "%s", message);
}

static np_status save(np_steps *s) {
  np_status st = NP_OK;
  np_trainer *t = s->t;
  if (t->saved == t->state.step) goto out;
  NP_TRY(np_collect_compare(t));
  NP_TRY(np_comm_settle(t->comm, write_together(s)));
  t->saved = t->state.step;
out:
  return st;
}

/* ---- telling ----------------------------------------------------------------------------------------------------- */

static void measure(np_trainer *t, pace *p, double waited, np_metric *metric) {
  double now = np_seconds(), elapsed = fmax(now - p->last, 1e-9);
  int batch = t->recipe->train.batch;
  metric->step = t->state.step;
  metric->epoch = (double)t->state.step * batch / (double)t->dataset->count;
  metric->images_per_s = (double)(t->state.step - p->last_step) * batch / elapsed;
  metric->gflops = metric->images_per_s * np_model_flops(&t->recipe->model, t->recipe->data.prefix, false) * 1e-9;
  metric->data_wait_share = (waited - p->last_wait) / elapsed;
  metric->seconds = t->state.seconds = p->before + now - p->start;
  metric->skipped_steps = t->state.step - t->state.applied;
}

static np_status tell(const np_steps *s, pace *p, np_metric *metric) {
  np_status st = NP_OK;
  np_trainer *t = s->t;
  int64_t done = t->state.step, steps = t->recipe->train.steps;
  measure(t, p, s->waited, metric);
  double each = (metric->seconds - p->before) / (double)(done - p->start_step);
  if (np_trainer_first(t)) np_progress_bar(metric, steps, each);
  if (done % t->recipe->train.log_every != 0 && done != steps) goto out;
  if (np_trainer_first(t)) {
    NP_TRY(np_metrics_put(t->metrics, metric));
    np_progress_line(metric, steps, each);
  }
  p->last = p->start + metric->seconds - p->before;
  p->last_step = done;
  p->last_wait = s->waited;
out:
  return st;
}

typedef struct loop {
  np_steps steps;
  pace pace;
} loop;

/* Read and tell until `left` steps are under way. */
static np_status settle(loop *l, int64_t left) {
  np_status st = NP_OK;
  np_trainer *t = l->steps.t;
  while (l->steps.queued - t->state.step > left) {
    np_metric metric;
    NP_TRY(np_steps_read(&l->steps, &metric));
    np_steps_fail(&l->steps, tell(&l->steps, &l->pace, &metric));
  }
out:
  return st;
}

/* One rank need not wait for its own vote. */
static bool stopped(const loop *l) {
  return l->steps.stop || (np_comm_world(l->steps.t->comm) == 1 && np_interrupt_signal());
}

static np_status queue_next(np_steps *s) {
  const np_batch *batch = NULL;
  if (s->failed == NP_OK) np_steps_fail(s, np_loader_next(s->t->loader, &batch));
  if (s->failed == NP_OK && !batch)
    np_steps_fail(s, np_error(NP_ERR_FORMAT, "the data ended before step %" PRId64, s->queued + 1));
  return np_steps_queue(s, batch);
}

/* *agreed: where it ends is the same for all ranks, as are the collectives they have made by then. */
static np_status steps_until_done(loop *l, bool *agreed) {
  np_status st = NP_OK;
  np_trainer *t = l->steps.t;
  /* On the CPU a queued step is done: read later, it would be given the time of the next. */
  const bool ahead = t->choice.backend != NP_BACKEND_CPU;
  while (l->steps.queued < t->recipe->train.steps && !stopped(l)) {
    NP_TRY(queue_next(&l->steps));
    bool keep = l->steps.queued % t->recipe->checkpoint.every == 0 || l->steps.queued == t->recipe->train.steps;
    NP_TRY(settle(l, keep || !ahead ? 0 : NP_STEPS_AHEAD - 1));
    if (keep) NP_TRY(save(&l->steps));
  }
  NP_TRY(settle(l, 0));
  l->steps.agreed = true;
  st = np_steps_failed(&l->steps);
out:
  *agreed = l->steps.agreed;
  np_progress_end();
  return st;
}

static np_status stop_early(np_steps *s) {
  np_status st = NP_OK;
  np_trainer *t = s->t;
  const int signal = np_interrupt_signal();
  if (t->state.step > 0) NP_TRY(save(s));
  st = np_error(NP_ERR_INTERRUPTED, "%s after step %" PRId64 " of %" PRId64 "; the same command goes on from there",
                signal ? strsignal(signal) : "a signal to another rank", t->state.step, t->recipe->train.steps);
out:
  return st;
}

np_status np_trainer_run(np_trainer *t) {
  const double start = np_seconds();
  loop l = {.steps = np_steps_begin(t),
            .pace = {.start = start,
                     .last = start,
                     .before = t->state.seconds,
                     .start_step = t->state.step,
                     .last_step = t->state.step}};
  bool agreed;
  np_status st = steps_until_done(&l, &agreed);
  if (!agreed) return st;
  NP_TRY(np_comm_settle(t->comm, st));
  if (t->state.step < t->recipe->train.steps) NP_TRY(stop_early(&l.steps));
out:
  return st == NP_OK || st == NP_ERR_INTERRUPTED ? np_comm_part(t->comm, st) : st;
}
