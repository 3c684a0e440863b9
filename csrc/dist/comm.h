/* The ranks of a run and what they do together: sums of device memory, and agreement between hosts.
 *
 * Every rank makes the same calls in the same order. Libraries carry them out (architecture.md, decision 6): NCCL
 * between GPUs, MPI between CPU ranks; one rank alone needs none, and nothing here then does anything.
 *
 *   operations   backward, last block ─┬─ … first block ─┬────────────── norm, AdamW
 *                                signal 0          signal K          │ join
 *   sums                               └─▶ slice 0 ──▶ … slice K ────┘          beside the operations on a GPU
 *
 * Ranks that keep a part each of a slice need no more of its sum than that (scatter); what they make of it they give to
 * all others (gather). With NCCL the two together take as long as a sum does.
 */
#ifndef NP_DIST_COMM_H
#define NP_DIST_COMM_H

#include "dist/launch.h"
#include "ops/ops.h"

#include <stdint.h>

typedef struct np_comm np_comm;

/* Waits for all ranks. `ops` must outlive it. patience: seconds that a rank waits for the others, here and in
 * everything below, before it ends the process with an error line, as the others must be gone or stuck; 0: for ever.
 * NP_ERR_ARGUMENT or NP_ERR_LIBRARY where this build, or this launcher, cannot bring the ranks together. */
np_status np_comm_open(const np_launch *launch, np_ops *ops, int patience, np_comm **out);
/* After np_comm_part, or an error of np_comm_settle, _same or _near, which every rank has, all part as one. Else this
 * rank leaves in the middle of something, without waiting for anybody: its launcher, or the patience of the others,
 * ends them. NULL is fine. */
void np_comm_close(np_comm *comm);

int np_comm_world(const np_comm *comm);
int np_comm_rank(const np_comm *comm);

/* ---- device memory, queued ---- */

/* slice[i] = Σ over ranks of slice[i]: what stands there when signal `signal` of the operations queued so far is
 * reached (np_ops.signal; -1: all of them). The order of the sum is the library's, the same every time, and every rank
 * gets the same bits. */
np_status np_comm_sum_f32(np_comm *comm, int signal, float *slice, int64_t count);
np_status np_comm_sum_f64(np_comm *comm, int signal, double *slice, int64_t count);
/* The same, of which this rank gets its own of the equal pieces that ranks have in their order: count of them each.
 * What stands elsewhere in the slice afterwards is undefined. */
np_status np_comm_scatter_f32(np_comm *comm, int signal, float *slice, int64_t count);
/* Every rank's `mine`, `bytes` of them, one behind the other in `all`, which has room for them. mine is this rank's
 * place there, or lies outside. Of all operations queued so far. */
np_status np_comm_gather(np_comm *comm, const void *mine, void *all, size_t bytes);
/* Operations queued from here on come after the sums. */
np_status np_comm_join(np_comm *comm);

/* ---- hosts, at once ---- */

/* All ranks get here, with how it went for each. NP_OK when it went well everywhere. A rank that failed gets its status
 * back, with its message, which it has told at once, whoever may end it; the others an error that says which one to
 * look at. */
np_status np_comm_settle(np_comm *comm, np_status mine);
/* The same for the last time: they part, however it went. */
np_status np_comm_part(np_comm *comm, np_status mine);
/* NP_ERR_ARGUMENT unless all ranks come with the same value; `what` names it in the message: "the images of
 * data.train".
 */
np_status np_comm_same(np_comm *comm, const char *what, int64_t value);
/* The same of numbers that may differ by rounding, a millionth: NP_ERR_NUMERIC. */
np_status np_comm_near(np_comm *comm, const char *what, double value);

/* values[i] = Σ over ranks of values[i], the same bits for all. */
np_status np_comm_total(np_comm *comm, double *values, int64_t count);

/* Around a wait for something that other ranks are part of, `what` in the error line when patience ends. */
void np_comm_wait_begin(np_comm *comm, const char *what);
void np_comm_wait_end(np_comm *comm);

/* 22803 is 2.28.3; 0 where NCCL is not built in or not found. */
int np_comm_nccl_version(void);

#endif
