/* One step after the other, with the host one step ahead of the device.
 *
 *   host     queue 1 │ queue 2 │ read 1, queue 3 │ read 2, queue 4 │ …
 *   device           │ step 1 ────────│ step 2 ────────│ step 3 ─────
 *
 * A step's loss, its gradient's norm and whether it was applied are read when the next step has been queued, so that
 * the device finds work whenever it is done. Nothing of a step depends on them: the device decides from the norm
 * whether a step is applied. A loss that is not finite has a gradient that is not (np_ops.pixel_loss). Checkpoints, the
 * end and signals wait until everything queued is read. */
#include "optim/schedule.h"
#include "train/interrupt.h"
#include "train/progress.h"
#include "train/trainer.h"
#include "util/file.h"
#include "util/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

/* Speed since the last metric line and since this start. */
typedef struct pace {
  double start, last; /* monotonic seconds */
  double before;      /* seconds of earlier starts of the run */
  int64_t start_step, last_step;
  double last_wait;
} pace;

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------- */

static np_status fetch_weights(void *context, float *out) {
  np_trainer *t = context;
  return np_model_get_weights(t->model, out);
}

static np_status fetch_moments(void *context, float *first, float *second) {
  np_trainer *t = context;
  return np_optimiser_get(t->optimiser, first, second);
}

static np_status save(np_trainer *t) {
  np_status st = NP_OK;
  const np_checkpoint_content content = {
      .state = t->state,
      .params = np_model_params(t->model),
      .recipe = t->essence,
      .staging = t->staging,
      .weights = fetch_weights,
      .moments = fetch_moments,
      .context = t,
  };
  if (t->saved == t->state.step) goto out;
  NP_TRY(np_checkpoint_save(t->recipe->run.dir, &content));
  t->saved = t->state.step;
  np_debug("checkpoint of step %" PRId64, t->saved);
  st = np_checkpoint_prune(t->recipe->run.dir, t->recipe->checkpoint.keep_last, t->recipe->checkpoint.keep_every);
out:
  return st;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

/* A step that is queued and was not read yet: what its metrics need and the device does not know. */
typedef struct under_way {
  int64_t targets;
  int64_t seen, bad; /* of the loader by then */
  double lr;
} under_way;

enum { AHEAD = 2, LOSS = 0, OUTCOME = 1, READS = 2 }; /* steps under way at most, and the slots of one's reads */

typedef struct loop {
  np_trainer *t;
  pace pace;
  int64_t queued; /* steps; those from t->state.step on are under way */
  under_way steps[AHEAD];
} loop;

static int slot(int64_t step, int read) { return (int)(step % AHEAD) * READS + read; }

static np_status queue_step(loop *l, const np_batch *batch) {
  np_status st = NP_OK;
  np_trainer *t = l->t;
  const np_recipe_optim *o = &t->recipe->optim;
  const np_schedule schedule = {o->lr, o->lr_start, o->lr_end, o->warmup, t->recipe->train.steps};
  under_way *s = &l->steps[l->queued % AHEAD];
  const np_loader_stats loader = np_loader_stats_read(t->loader);
  *s = (under_way){.targets = np_model_targets(&t->recipe->model, batch->count, batch->prefix),
                   .seen = loader.seen,
                   .bad = loader.bad,
                   .lr = np_schedule_lr(&schedule, l->queued)};
  NP_TRY(np_model_step(t->model, batch->count, batch->pixels, batch->prefix, s->targets));
  NP_TRY(np_model_fetch_loss(t->model, slot(l->queued, LOSS)));
  NP_TRY(np_optimiser_step(t->optimiser, np_model_weights(t->model), np_model_gradients(t->model),
                           np_model_low(t->model), s->lr));
  NP_TRY(np_optimiser_fetch(t->optimiser, slot(l->queued, OUTCOME)));
  l->queued++;
out:
  return st;
}

/* The oldest step under way: wait for it, count it. The run stops once max_bad_steps in a row were not applied; a step
 * that was queued by then goes with it. */
static np_status read_step(loop *l, np_metric *metric) {
  np_status st = NP_OK;
  np_trainer *t = l->t;
  const under_way *s = &l->steps[t->state.step % AHEAD];
  np_step_outcome outcome;
  double sum;
  NP_TRY(np_model_arrive_loss(t->model, slot(t->state.step, LOSS), &sum));
  NP_TRY(np_optimiser_arrive(t->optimiser, slot(t->state.step, OUTCOME), &outcome));
  *metric =
      (np_metric){.lr = s->lr, .loss = sum / (double)s->targets, .grad_norm = outcome.grad_norm, .bad_images = s->bad};
  t->state.step++;
  t->state.images_seen = s->seen;
  t->state.images_bad = s->bad;
  t->state.applied += outcome.applied;
  t->state.bad_in_row = outcome.applied ? 0 : t->state.bad_in_row + 1;
  if (outcome.applied) goto out;
  np_warn("step %" PRId64 " was not applied: loss %g, gradient norm %g", t->state.step, metric->loss,
          metric->grad_norm);
  if (t->state.bad_in_row >= t->recipe->train.max_bad_steps)
    st = np_error(NP_ERR_NUMERIC,
                  "%d steps in a row had a non-finite loss or gradient, the last was step %" PRId64
                  " (train.max_bad_steps); a lower optim.lr or longer optim.warmup may help",
                  t->state.bad_in_row, t->state.step);
out:
  return st;
}

/* ---- telling ----------------------------------------------------------------------------------------------------- */

static void measure(np_trainer *t, pace *p, np_metric *metric) {
  np_loader_stats stats = np_loader_stats_read(t->loader);
  double now = seconds_now(), elapsed = fmax(now - p->last, 1e-9);
  int batch = t->recipe->train.batch;
  metric->step = t->state.step;
  metric->epoch = (double)t->state.step * batch / (double)t->dataset->count;
  metric->images_per_s = (double)(t->state.step - p->last_step) * batch / elapsed;
  metric->gflops = metric->images_per_s * np_model_flops(&t->recipe->model, t->recipe->data.prefix, false) * 1e-9;
  metric->data_wait_share = (stats.wait_seconds - p->last_wait) / elapsed;
  metric->seconds = t->state.seconds = p->before + now - p->start;
  metric->skipped_steps = t->state.step - t->state.applied;
}

static np_status tell(np_trainer *t, pace *p, np_metric *metric) {
  np_status st = NP_OK;
  int64_t done = t->state.step, steps = t->recipe->train.steps;
  measure(t, p, metric);
  double each = (metric->seconds - p->before) / (double)(done - p->start_step);
  np_progress_bar(metric, steps, each);
  if (done % t->recipe->train.log_every != 0 && done != steps) goto out;
  NP_TRY(np_metrics_put(t->metrics, metric));
  np_progress_line(metric, steps, each);
  p->last = p->start + metric->seconds - p->before;
  p->last_step = done;
  p->last_wait = np_loader_stats_read(t->loader).wait_seconds;
out:
  return st;
}

/* Read and tell until `left` steps are under way. */
static np_status settle(loop *l, int64_t left) {
  np_status st = NP_OK;
  while (l->queued - l->t->state.step > left) {
    np_metric metric;
    NP_TRY(read_step(l, &metric));
    NP_TRY(tell(l->t, &l->pace, &metric));
  }
out:
  return st;
}

static np_status steps_until_done(np_trainer *t) {
  np_status st = NP_OK;
  const np_batch *batch;
  double start = seconds_now();
  loop l = {.t = t,
            .queued = t->state.step,
            .pace = {.start = start,
                     .last = start,
                     .before = t->state.seconds,
                     .start_step = t->state.step,
                     .last_step = t->state.step}};
  /* On the CPU a queued step is done: read later, it would be given the time of the next. */
  const bool ahead = t->choice.backend != NP_BACKEND_CPU;
  while (l.queued < t->recipe->train.steps && !np_interrupt_signal()) {
    NP_TRY(np_loader_next(t->loader, &batch));
    if (!batch) {
      st = np_error(NP_ERR_FORMAT, "the data ended before step %" PRId64, l.queued + 1);
      goto out;
    }
    NP_TRY(queue_step(&l, batch));
    bool keep = l.queued % t->recipe->checkpoint.every == 0 || l.queued == t->recipe->train.steps;
    NP_TRY(settle(&l, keep || !ahead ? 0 : AHEAD - 1));
    if (keep) NP_TRY(save(t));
  }
  st = settle(&l, 0);
out:
  np_progress_end();
  return st;
}

np_status np_trainer_run(np_trainer *t) {
  np_status st = NP_OK;
  NP_TRY(steps_until_done(t));
  if (t->state.step == t->recipe->train.steps) goto out;
  if (t->state.step > 0) NP_TRY(save(t));
  st = np_error(NP_ERR_INTERRUPTED, "%s after step %" PRId64 " of %" PRId64 "; the same command goes on from there",
                strsignal(np_interrupt_signal()), t->state.step, t->recipe->train.steps);
out:
  return st;
}
