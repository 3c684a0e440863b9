/* Training passes as recordings.
 *
 * On a device a training step is about a thousand small calls, and queueing each costs the host as much as some of them
 * cost the device. What a pass does depends on little (np_pass): all else lies in device memory. So each pass that can
 * come (step.c) is recorded once, before the first step, and queued as one from then on.
 *
 *   prepare   run    the largest pass, over nothing: scratch grows as far as it will, kernels are loaded
 *             record each pass that can come: products get their plans, the driver takes what it keeps
 *   step      replay
 *
 * After that nothing is taken any more: what does not fit is said before the first step. Products of other sizes may
 * use kernels that the largest pass did not; drivers since CUDA 12.3 load them while a recording is made. Should one
 * refuse, the pass runs as it is, which loads them, and is recorded again. */
#include "model/internal.h"
#include "ops/record.h"
#include "util/log.h"

#include <stdio.h>

typedef struct pass_call {
  np_model *model;
  bool first;
} pass_call;

static np_status run_pass(void *context) {
  const pass_call *call = context;
  return np_model_pass(call->model, call->first);
}

static np_status record(np_model *m, bool first, np_recording **out) {
  return np_ops_record(m->ops, run_pass, &(pass_call){m, first}, out);
}

static const char *pass_text(const np_pass *p, char text[96]) {
  snprintf(text, 96, "%d images as %s with %lld rows for loss tokens, gradients %s", p->count,
           p->bytes ? "bytes" : "floats", (long long)p->rows, p->first ? "overwritten" : "added");
  return text;
}

/* Over what np_model_feed_nothing left. */
static np_status prepare_pass(np_model *m, np_recorded *r) {
  np_status st = NP_OK;
  char text[96];
  np_model_describe(m, r->pass.count, r->pass.bytes);
  m->rows.padded = r->pass.rows;
  st = record(m, r->pass.first, &r->recording);
  if (st == NP_ERR_LIBRARY) {
    np_warn("a pass of %s could not be recorded (%s): it runs as it is once, and is recorded then",
            pass_text(&r->pass, text), np_error_message());
    NP_TRY(np_model_pass(m, r->pass.first));
    st = record(m, r->pass.first, &r->recording);
  }
out:
  if (st != NP_OK) np_error_context(st, "while recording a pass of %s", pass_text(&r->pass, text));
  return st;
}

np_status np_model_prepare(np_model *m, bool bytes) {
  np_status st = NP_OK;
  np_model_forget(m);
  if (!m->ops->record_begin) return NP_OK;
  NP_TRY(np_model_list_passes(m, bytes));
  NP_TRY(np_model_feed_nothing(m, bytes));
  NP_TRY(np_model_pass(m, true));
  for (int i = 0; i < m->recorded_count; i++) NP_TRY(prepare_pass(m, &m->recorded[i]));
out:
  if (st != NP_OK) np_model_forget(m);
  return st;
}

int np_model_recordings(const np_model *m) { return m->recorded_count; }

np_status np_model_run(np_model *m, bool first) {
  const np_pass pass = {.count = m->count, .rows = m->rows.padded, .first = first, .bytes = m->pixels.u8 != NULL};
  char text[96];
  if (m->recorded_count == 0) return np_model_pass(m, first);
  for (int i = 0; i < m->recorded_count; i++)
    if (np_pass_same(&m->recorded[i].pass, &pass)) return m->ops->replay(m->ops, m->recorded[i].recording);
  return np_error(NP_ERR_ARGUMENT, "a pass of %s was not prepared", pass_text(&pass, text));
}

void np_model_forget(np_model *m) {
  for (int i = 0; i < m->recorded_count; i++)
    if (m->recorded[i].recording) m->ops->forget(m->ops, m->recorded[i].recording);
  for (int i = 0; i < m->recorded_count; i++) m->recorded[i] = (np_recorded){0};
  m->recorded_count = 0;
}
