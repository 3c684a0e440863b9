/* Private to this room: what a library does for np_comm. */
#ifndef NP_DIST_TRANSPORT_H
#define NP_DIST_TRANSPORT_H

#include "dist/launch.h"
#include "ops/ops.h"

#include <stdint.h>

typedef struct np_transport np_transport;
typedef enum np_reduction { NP_SUM, NP_LARGEST } np_reduction;

struct np_transport {
  /* As np_comm_sum_f32 and _f64, by element type. */
  np_status (*sum)(np_transport *transport, int signal, void *slice, int64_t count, np_dtype type);
  np_status (*scatter)(np_transport *transport, int signal, float *slice, int64_t count);
  np_status (*gather)(np_transport *transport, const void *mine, void *all, size_t bytes);
  np_status (*join)(np_transport *transport);
  /* values[i] = the sum, or the largest, of all ranks' values[i], on the host; count <= NP_TRANSPORT_VALUES. Waits. */
  np_status (*reduce)(np_transport *transport, np_reduction how, double *values, int count);
  /* Called from another thread while this one waits: an error that came up meanwhile. NULL: there is no such thing. */
  np_status (*look)(np_transport *transport);
  void (*close)(np_transport *transport, bool together); /* together: all ranks are closing */
};

enum { NP_TRANSPORT_VALUES = 256 };

/* MPI, of ranks that its mpirun (or an srun that speaks its language) started. device memory is the host's. */
np_status np_transport_mpi(const np_launch *launch, np_transport **out);
/* NCCL, on the GPU that `ops` has. */
np_status np_transport_nccl(const np_launch *launch, np_ops *ops, int patience, np_transport **out);

/* ---- MPI's part in bringing ranks of another transport together ---- */

/* Whether this build has MPI and the launcher is its own. */
bool np_mpi_serves(const np_launch *launch);
np_status np_mpi_begin(const np_launch *launch);     /* once a process; again is fine */
np_status np_mpi_from_first(void *bytes, int count); /* the first rank's bytes to all */
void np_mpi_end(bool together);

#endif
