/* A labelled image set made of nothing: textured shapes on textured grounds, one class a shape. */
#ifndef NP_DATA_SYNTH_H
#define NP_DATA_SYNTH_H

#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { NP_SYNTH_CLASSES = 16 };

typedef struct np_synth_options {
  int classes;        /* 2..NP_SYNTH_CLASSES: the first so many */
  int64_t train, val; /* images in each part */
  int size;           /* height and width in pixels, 8..1024 */
  uint64_t seed;
  int shards; /* tars in each part, at most one an image; 0: class folders */
} np_synth_options;

/* Folder name of a class. */
const char *np_synth_class(int number);

/* Draw image `index` of a part (0 train, 1 val) into pixels [size, size, 3]. A function of its arguments: position,
 * scale, rotation, colours, textures and clutter are drawn (NP_PURPOSE_SYNTH) in the same way whatever the class, so
 * only the shape tells it. */
void np_synth_draw(uint64_t seed, int part, int64_t index, int class_number, int size, uint8_t *pixels);

/* Fill root/train/CLASS/NNNNN.png and root/val/CLASS/NNNNN.png, or tars root/train/NNNNN.tar and root/val/NNNNN.tar of
 * such members; image i is of class i % classes. root/synth.json says
 * what the folder holds and whether all of it is there: a complete set of the same options is left as it is (*made
 * false), one that was interrupted is finished, and another set, or images that were not made here, are
 * NP_ERR_ARGUMENT. */
np_status np_synth_make(const char *root, const np_synth_options *options, bool *made);

#endif
