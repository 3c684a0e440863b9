#include "model/pieces.h"

np_status np_pieces_upload(np_ops *ops, const np_pieces *pieces, const float *flat, float *kept) {
  np_status st = NP_OK;
  for (int i = 0; i < pieces->count; kept += pieces->items[i++].count)
    NP_TRY(ops->upload(ops, kept, flat + pieces->items[i].offset, (size_t)pieces->items[i].count * sizeof *kept));
out:
  return st;
}
