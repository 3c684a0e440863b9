/* A folder of images as a list of samples. */
#ifndef NP_DATA_DATASET_H
#define NP_DATA_DATASET_H

#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct np_sample {
  const char *path; /* absolute or relative to the working folder, as given */
  int label;        /* index into classes; -1 in a flat folder */
} np_sample;

typedef struct np_dataset {
  int64_t count;
  np_sample *samples; /* sorted by class, then path (bytewise), so that an index means the same on every machine */
  int class_count;    /* 0: unlabelled */
  char **classes;     /* sorted; names of the top folders */
  void *storage;
} np_dataset;

/* List `root`: class folders (root/CLASS/ and any depth below, links followed but never in a circle), a flat folder of
 * images, or a mix. Files are *.png, *.jpg, *.jpeg in any case; others are ignored, hidden ones too. `labelled` demands
 * class folders and no image beside them. An empty class folder is a class all the same. An empty result, an unreadable
 * folder or a missing one is an error naming it. */
np_status np_dataset_open(const char *root, bool labelled, np_dataset **out);
void np_dataset_close(np_dataset *dataset);

#endif
