#include "train/step.h"

#include "optim/schedule.h"
#include "train/collective.h"
#include "util/interrupt.h"
#include "util/log.h"

#include <inttypes.h>
#include <stdio.h>

/* A rank's vote: float64 on the device, summed over ranks with its step's gradients. Images are those of this start. */
enum { STOP, FAILED, SEEN, BAD, WAITED, VOTES };
_Static_assert((int)VOTES == (int)NP_TRAINER_VOTES, "a vote has its place on the device");

enum { LOSS, OUTCOME, VOTE, READS }; /* the slots of one step's reads */
_Static_assert((int)NP_STEPS_AHEAD *(int)READS <= (int)NP_FETCH_SLOTS, "reads under way need a slot each");

static int slot(int64_t step, int read) { return (int)(step % NP_STEPS_AHEAD) * READS + read; }

np_steps np_steps_begin(np_trainer *t) { return (np_steps){.t = t, .queued = t->state.step}; }

/* ---- queueing ---------------------------------------------------------------------------------------------------- */

static np_status cast_vote(np_steps *s) {
  np_trainer *t = s->t;
  const np_loader_stats loader = np_loader_stats_read(t->loader);
  const double vote[VOTES] = {
      [STOP] = np_interrupt_signal() != 0,
      [FAILED] = s->failed != NP_OK,
      [SEEN] = (double)(loader.seen - t->images_before[0]),
      [BAD] = (double)(loader.bad - t->images_before[1]),
      [WAITED] = loader.wait_seconds,
  };
  return t->ops->upload(t->ops, t->vote, vote, sizeof vote);
}

void np_steps_fail(np_steps *s, np_status why) {
  if (s->failed != NP_OK || why == NP_OK) return;
  s->failed = why;
  snprintf(s->message, sizeof s->message, "%s", np_error_message());
}

np_status np_steps_failed(const np_steps *s) {
  return s->failed == NP_OK ? NP_OK : np_error(s->failed, "%s", s->message);
}

/* This rank's gradients. A device may first have to finish the step before, with all ranks' sums. */
static np_status compute(np_steps *s, const np_batch *batch, int64_t targets) {
  np_trainer *t = s->t;
  const bool queued = t->choice.backend != NP_BACKEND_CPU;
  if (queued) np_comm_wait_begin(t->comm, "the sums of a step");
  np_status st = np_model_step(t->model, batch->count, batch->pixels, batch->prefix, targets);
  if (queued) np_comm_wait_end(t->comm);
  return st;
}

np_status np_steps_queue(np_steps *s, const np_batch *batch) {
  np_status st = NP_OK;
  np_trainer *t = s->t;
  const np_recipe_optim *o = &t->recipe->optim;
  const np_schedule schedule = {o->lr, o->lr_start, o->lr_end, o->warmup, t->recipe->train.steps};
  np_under_way *at = &s->under_way[s->queued % NP_STEPS_AHEAD];
  *at = (np_under_way){.targets = 1, .lr = np_schedule_lr(&schedule, s->queued)};
  if (batch) {
    at->targets = np_model_targets(&t->recipe->model, t->recipe->train.batch, batch->whole);
    np_steps_fail(s, compute(s, batch, at->targets));
  }
  NP_TRY(cast_vote(s));
  NP_TRY(np_collect_sums(t, s->failed == NP_OK));
  NP_TRY(np_model_fetch_loss(t->model, slot(s->queued, LOSS)));
  NP_TRY(t->ops->fetch(t->ops, slot(s->queued, VOTE), t->vote, VOTES * sizeof *t->vote));
  NP_TRY(np_collect_update(t, at->lr));
  NP_TRY(np_optimiser_fetch(t->optimiser, slot(s->queued, OUTCOME)));
  s->queued++;
out:
  return st;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

typedef struct result {
  double loss, vote[VOTES];
  np_step_outcome outcome;
} result;

static np_status arrive(np_steps *s, result *r) {
  np_status st = NP_OK;
  np_trainer *t = s->t;
  const int64_t step = t->state.step;
  np_comm_wait_begin(t->comm, "the sums of a step");
  NP_TRY(np_model_arrive_loss(t->model, slot(step, LOSS), &r->loss));
  NP_TRY(t->ops->arrive(t->ops, slot(step, VOTE), r->vote, sizeof r->vote));
  NP_TRY(np_optimiser_arrive(t->optimiser, slot(step, OUTCOME), &r->outcome));
out:
  np_comm_wait_end(t->comm);
  return st;
}

static np_status heed(np_steps *s, const double vote[VOTES]) {
  np_trainer *t = s->t;
  s->agreed = vote[FAILED] > 0;
  if (vote[STOP] > 0) s->stop = true;
  s->seen = t->images_before[0] + (int64_t)vote[SEEN];
  s->bad = t->images_before[1] + (int64_t)vote[BAD];
  s->waited = vote[WAITED] / np_comm_world(t->comm);
  if (!s->agreed) { /* a rank that failed since hears of it with the step that says so, as all do */
    np_status st = NP_OK;
    if (np_comm_world(t->comm) > 1) st = np_loader_check_bad(s->bad, s->seen, t->recipe->data.max_bad_share);
    s->agreed = st != NP_OK;
    return st;
  }
  if (s->failed != NP_OK) return np_steps_failed(s);
  return np_error(NP_ERR_LIBRARY, "another rank failed: its own line says why");
}

np_status np_steps_read(np_steps *s, np_metric *metric) {
  np_status st = NP_OK;
  np_trainer *t = s->t;
  const np_under_way *at = &s->under_way[t->state.step % NP_STEPS_AHEAD];
  result r;
  NP_TRY(arrive(s, &r));
  NP_TRY(heed(s, r.vote));
  *metric = (np_metric){
      .lr = at->lr, .loss = r.loss / (double)at->targets, .grad_norm = r.outcome.grad_norm, .bad_images = s->bad};
  t->state.step++;
  t->state.images_seen = s->seen;
  t->state.images_bad = s->bad;
  t->state.applied += r.outcome.applied;
  t->state.bad_in_row = r.outcome.applied ? 0 : t->state.bad_in_row + 1;
  if (r.outcome.applied) goto out;
  if (np_trainer_first(t))
    np_warn("step %" PRId64 " was not applied: loss %g, gradient norm %g", t->state.step, metric->loss,
            metric->grad_norm);
  s->agreed = t->state.bad_in_row >= t->recipe->train.max_bad_steps;
  if (s->agreed)
    st = np_error(NP_ERR_NUMERIC,
                  "%d steps in a row had a non-finite loss or gradient, the last was step %" PRId64
                  " (train.max_bad_steps); a lower optim.lr or longer optim.warmup may help",
                  t->state.bad_in_row, t->state.step);
out:
  return st;
}
