/* Operations recorded once, to be replayed: what np_ops offers in two calls, as one. */
#ifndef NP_OPS_RECORD_H
#define NP_OPS_RECORD_H

#include "ops/ops.h"

/* Record what `body` queues, on a backend that records (ops->record_begin). *out is NULL on failure, and the message is
 * that of what failed first. */
np_status np_ops_record(np_ops *ops, np_status (*body)(void *context), void *context, np_recording **out);

#endif
