/* The pixel loss of images that a model was not trained on. */
#ifndef NP_PROBE_HELD_OUT_H
#define NP_PROBE_HELD_OUT_H

#include "data/dataset.h"
#include "probe/open.h"

#include <stdint.h>

typedef struct np_held_out {
  int64_t images, bad; /* read; damaged ones left out */
  int64_t targets;     /* patches predicted */
  double loss;         /* mean over them, as a training step has it (model.md 7) */
} np_held_out;

/* Every image once, with the evaluation crop and a prefix drawn from data.prefix by the recipe's seed and the image's
 * place in the set: whatever the batch and the ranks, which take a part of the images each and have the result of all.
 * The model was opened with its pixel head, for passes of `batch` images. NP_ERR_NUMERIC where the loss is not finite.
 */
np_status np_held_out_loss(const np_opened *opened, const np_dataset *set, int batch, np_held_out *out);

#endif
