/* What of the flat buffer of np_params one of several ranks updates, and alone keeps moments of; also float32 weights,
 * where products read a low-precision copy.
 *
 *   flat buffer       ├──── │ own │ ────┤├──── │ own │ ────┤ … ├ own ┤     the last has all vectors: every rank updates
 *   what is kept      │ own ││ own │ … │ own │                             it, in the same way
 *
 * One rank, or one that shares nothing, has one piece, which is everything. */
#ifndef NP_MODEL_PIECES_H
#define NP_MODEL_PIECES_H

#include "ops/ops.h"
#include "util/status.h"

#include <stdint.h>

typedef struct np_piece {
  int64_t offset, count; /* in the flat buffer */
} np_piece;

typedef struct np_pieces {
  int ranks, rank;
  int count;
  const np_piece *items; /* ascending; kept one behind the other */
  int64_t kept;          /* elements of all */
} np_pieces;

/* From a flat buffer on the host to what is kept on the device, float32. */
np_status np_pieces_upload(np_ops *ops, const np_pieces *pieces, const float *flat, float *kept);

#endif
