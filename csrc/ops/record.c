#include "ops/record.h"

#include <stdio.h>

np_status np_ops_record(np_ops *ops, np_status (*body)(void *context), void *context, np_recording **out) {
  np_status st = NP_OK;
  char reason[512];
  *out = NULL;
  NP_TRY(ops->record_begin(ops));
  np_status inside = body(context);
  if (inside != NP_OK) snprintf(reason, sizeof reason, "%s", np_error_message());
  st = ops->record_end(ops, out);
  if (inside != NP_OK) {
    if (st == NP_OK) ops->forget(ops, *out);
    *out = NULL;
    st = np_error(inside, "%s", reason);
  }
out:
  return st;
}
