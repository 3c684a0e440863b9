/* Private to this room: what ranks do together with device memory. Every rank makes the same calls; one alone, or one
 * that keeps everything, has nothing to wait for. With train.shard: optim each keeps pieces (model/pieces.h):
 *
 *   gradients   all ranks' ─ scatter ─▶ own pieces ─ norm² ─ sum ─▶ AdamW ─▶ own pieces of low ─ gather ─▶ low of all
 *               the last slice ── sum ──────────────────────────▶ AdamW ─▶ vectors, float32: the same on every rank
 */
#ifndef NP_TRAIN_COLLECTIVE_H
#define NP_TRAIN_COLLECTIVE_H

#include "train/trainer.h"

#include <stdbool.h>

/* Queue the sums over ranks of all that a step has, gradients slice by slice: as soon as the last pass has completed
 * one where `signalled`, else when all operations are done. */
np_status np_collect_sums(np_trainer *trainer, bool signalled);

/* Queue AdamW's step at learning rate `lr`, behind which every rank has all that its products read. */
np_status np_collect_update(np_trainer *trainer, double lr);

typedef enum np_kept { NP_KEPT_WEIGHTS, NP_KEPT_FIRST, NP_KEPT_SECOND, NP_KEPT_KINDS } np_kept; /* float32, moments */
/* What ranks keep, to the host: host [total], for which this waits; NULL on ranks that only give theirs. Uses the
 * gradients' memory, which is zeros afterwards. */
np_status np_collect_fetch(np_trainer *trainer, np_kept what, float *host);

/* Every rank computes with the same weights, or the run is worth nothing: NP_ERR_NUMERIC. Uses the gradients' memory as
 * np_collect_fetch does. */
np_status np_collect_compare(np_trainer *trainer);

#endif
