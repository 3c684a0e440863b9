/* A pass over a batch as one recording.
 *
 * On a device a training step is about a thousand small calls, and queueing each costs the host as much as some of them
 * cost the device. What a pass does depends on little (np_pass): all else lies in device memory. So a pass that comes
 * again is recorded, and from then on queued as one.
 *
 *   first time   run as it is: the backend prepares its shapes
 *   second       record, replay
 *   later        replay
 *
 * The number of loss tokens is rounded to at most 32 sizes, twice that with `first`; what was used longest ago makes
 * room. */
#include "model/internal.h"

#include <stdio.h>

static bool same(const np_pass *a, const np_pass *b) {
  return a->count == b->count && a->rows == b->rows && a->loss_rows == b->loss_rows && a->first == b->first &&
         a->bytes == b->bytes;
}

static void forget(np_model *m, np_recorded *r) {
  if (r->recording) m->ops->forget(m->ops, r->recording);
  *r = (np_recorded){0};
}

/* The place of this pass: its own, an empty one, or that of the one used longest ago, emptied. */
static np_recorded *find(np_model *m, const np_pass *pass) {
  np_recorded *oldest = &m->recorded[0];
  for (int i = 0; i < NP_RECORDINGS; i++) {
    np_recorded *r = &m->recorded[i];
    if (r->used && same(&r->pass, pass)) return r;
    if (r->used < oldest->used) oldest = r;
  }
  forget(m, oldest);
  return oldest;
}

/* What broke the recording is the first error, not that it could not be ended. */
static np_status record(np_model *m, bool first, np_model_pass run, np_recording **out) {
  np_status st = NP_OK;
  char reason[512];
  NP_TRY(m->ops->record_begin(m->ops));
  np_status inside = run(m, first);
  if (inside != NP_OK) snprintf(reason, sizeof reason, "%s", np_error_message());
  st = m->ops->record_end(m->ops, out);
  if (inside != NP_OK) {
    if (st == NP_OK) m->ops->forget(m->ops, *out);
    *out = NULL;
    st = np_error(inside, "while recording a training step: %s", reason);
  }
out:
  return st;
}

np_status np_model_run(np_model *m, bool first, np_model_pass run) {
  np_status st = NP_OK;
  if (!m->ops->record_begin) return run(m, first);
  const np_pass pass = {.count = m->count,
                        .rows = m->rows.padded,
                        .loss_rows = m->loss_rows.padded,
                        .first = first,
                        .bytes = m->pixels.u8 != NULL};
  np_recorded *r = find(m, &pass);
  bool seen = r->used != 0;
  r->used = ++m->passes;
  r->pass = pass;
  if (!seen) return run(m, first);
  if (!r->recording) NP_TRY(record(m, first, run, &r->recording));
  st = m->ops->replay(m->ops, r->recording);
out:
  return st;
}

void np_model_forget(np_model *m) {
  for (int i = 0; i < NP_RECORDINGS; i++) forget(m, &m->recorded[i]);
}
