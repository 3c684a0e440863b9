/* From a sample to the pixels that stand in a batch. */
#ifndef NP_DATA_TRANSFORM_H
#define NP_DATA_TRANSFORM_H

#include "data/loader.h"

/* Whose draws to use. They stay those of the drawn sample when another image stands in for it. */
typedef struct np_transform {
  const np_loader_options *options;
  uint32_t epoch;
  int64_t index;
} np_transform;

/* Read and decode a sample; training: flip, random crop, jitter as drawn; evaluation: the evaluation crop.
 * NP_ERR_FORMAT and NP_ERR_IO mean a damaged or unreadable image. `pixels` is [height, width, channels]. */
np_status np_transform_load(const np_transform *transform, const np_dataset *dataset, int64_t sample, uint8_t *pixels);

#endif
