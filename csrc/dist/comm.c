#include "dist/comm.h"

#include "dist/transport.h"
#include "dist/watch.h"
#include "util/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct np_comm {
  int rank, world;
  np_transport *transport; /* NULL: one rank */
  np_watch *watch;
  bool together; /* all ranks are leaving, and know it */
};

static np_status look(void *context) {
  np_transport *transport = context;
  return transport->look(transport);
}

static np_status open_transport(const np_launch *launch, np_ops *ops, int patience, np_transport **out) {
  if (strcmp(ops->name, "cuda") == 0) return np_transport_nccl(launch, ops, patience, out);
  return np_transport_mpi(launch, out);
}

np_status np_comm_open(const np_launch *launch, np_ops *ops, int patience, np_comm **out) {
  np_status st = NP_OK;
  np_comm *c = calloc(1, sizeof *c);
  *out = NULL;
  if (!c) return np_error(NP_ERR_MEMORY, "not enough memory for the list of ranks");
  c->rank = launch->rank;
  c->world = launch->world;
  if (c->world > 1) {
    NP_TRY(np_watch_start(patience, &c->watch));
    np_comm_wait_begin(c, "the others to start");
    NP_TRY(open_transport(launch, ops, patience, &c->transport));
    np_comm_wait_end(c);
    if (c->transport->look) np_watch_look(c->watch, look, c->transport);
  }
  *out = c;
  return NP_OK;
out:
  np_comm_close(c);
  return st;
}

void np_comm_close(np_comm *c) {
  if (!c) return;
  np_watch_look(c->watch, NULL, NULL);
  np_comm_wait_begin(c, "the others to leave");
  if (c->transport) c->transport->close(c->transport, c->together);
  np_watch_stop(c->watch);
  free(c);
}

int np_comm_world(const np_comm *c) { return c->world; }
int np_comm_rank(const np_comm *c) { return c->rank; }

void np_comm_wait_begin(np_comm *c, const char *what) { np_watch_begin(c->watch, what); }
void np_comm_wait_end(np_comm *c) { np_watch_end(c->watch); }

/* ---- device memory ---- */

static np_status sum(np_comm *c, int signal, void *slice, int64_t count, np_dtype type) {
  np_status st = NP_OK;
  if (!c->transport) return NP_OK;
  np_comm_wait_begin(c, "the sum of the gradients");
  st = c->transport->sum(c->transport, signal, slice, count, type);
  np_comm_wait_end(c);
  return st;
}

np_status np_comm_sum_f32(np_comm *c, int signal, float *slice, int64_t count) {
  return sum(c, signal, slice, count, NP_F32);
}

np_status np_comm_sum_f64(np_comm *c, int signal, double *slice, int64_t count) {
  return sum(c, signal, slice, count, NP_F64);
}

np_status np_comm_scatter_f32(np_comm *c, int signal, float *slice, int64_t count) {
  np_status st = NP_OK;
  if (!c->transport) return NP_OK;
  np_comm_wait_begin(c, "the sum of the gradients");
  st = c->transport->scatter(c->transport, signal, slice, count);
  np_comm_wait_end(c);
  return st;
}

np_status np_comm_gather(np_comm *c, const void *mine, void *all, size_t bytes) {
  np_status st = NP_OK;
  if (!c->transport) return NP_OK;
  np_comm_wait_begin(c, "the others' pieces");
  st = c->transport->gather(c->transport, mine, all, bytes);
  np_comm_wait_end(c);
  return st;
}

np_status np_comm_join(np_comm *c) { return c->transport ? c->transport->join(c->transport) : NP_OK; }

/* ---- hosts ---- */

static np_status largest(np_comm *c, double *values, int count, const char *what) {
  np_status st = NP_OK;
  np_comm_wait_begin(c, what);
  st = c->transport->reduce(c->transport, NP_LARGEST, values, count);
  np_comm_wait_end(c);
  return st;
}

np_status np_comm_settle(np_comm *c, np_status mine) {
  double failed = mine == NP_OK ? 0 : c->rank + 1;
  char message[1024];
  if (!c->transport) return mine;
  snprintf(message, sizeof message, "%s", np_error_message());
  if (mine != NP_OK && mine != NP_ERR_INTERRUPTED) np_log_end("error", message);
  np_status st = largest(c, &failed, 1, "the others to get as far");
  if (mine == NP_OK && st != NP_OK) return st;
  c->together = st == NP_OK && failed > 0;
  if (mine != NP_OK) return np_error(mine, "%s", message);
  if (failed > 0) return np_error(NP_ERR_LIBRARY, "rank %.0f failed: its own line says why", failed - 1);
  return NP_OK;
}

np_status np_comm_part(np_comm *c, np_status mine) {
  np_status st = np_comm_settle(c, mine);
  c->together = c->together || st == NP_OK;
  return st;
}

/* The smallest and the largest of all ranks' values. */
static np_status range(np_comm *c, double value, double *low, double *high) {
  double both[2] = {-value, value};
  np_status st = largest(c, both, 2, "the others to compare");
  *low = -both[0];
  *high = both[1];
  return st;
}

np_status np_comm_same(np_comm *c, const char *what, int64_t value) {
  np_status st = NP_OK;
  const double halves[2] = {(double)(value >> 32), (double)(value & 0xffffffff)}; /* exact in float64 */
  if (!c->transport) return NP_OK;
  for (int i = 0; i < 2; i++) {
    double low, high;
    NP_TRY(range(c, halves[i], &low, &high));
    c->together = low != high; /* for every rank */
    if (c->together)
      return np_error(NP_ERR_ARGUMENT,
                      "the ranks differ in %s: a run needs one recipe, and folders that all ranks see alike", what);
  }
out:
  return st;
}

np_status np_comm_near(np_comm *c, const char *what, double value) {
  np_status st = NP_OK;
  double low, high;
  if (!c->transport) return NP_OK;
  NP_TRY(range(c, isfinite(value) ? value : HUGE_VAL, &low, &high));
  c->together = !(high - low <= 1e-6 * fabs(high)); /* for every rank */
  if (c->together && !isfinite(low)) st = np_error(NP_ERR_NUMERIC, "%s are not finite", what);
  else if (c->together)
    st = np_error(NP_ERR_NUMERIC,
                  "the ranks have drifted apart: %s are %.9g on one and %.9g on another; look at their "
                  "memory and network",
                  what, low, high);
out:
  return st;
}

np_status np_comm_total(np_comm *c, double *values, int64_t count) {
  np_status st = NP_OK;
  if (!c->transport) return NP_OK;
  np_comm_wait_begin(c, "the others' numbers");
  for (int64_t at = 0; at < count; at += NP_TRANSPORT_VALUES) {
    const int64_t left = count - at;
    NP_TRY(c->transport->reduce(c->transport, NP_SUM, values + at,
                                (int)(left < NP_TRANSPORT_VALUES ? left : NP_TRANSPORT_VALUES)));
  }
out:
  np_comm_wait_end(c);
  return st;
}
