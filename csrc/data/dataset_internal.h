/* What the two halves of a dataset share: listing folders (dataset.c), and the tars found in them (dataset_shards.c).
 */
#ifndef NP_DATA_DATASET_INTERNAL_H
#define NP_DATA_DATASET_INTERNAL_H

#include "data/dataset.h"

#include <stddef.h>

np_status np_dataset_no_memory(const char *path);

/* A copy of the text that lives as long as the dataset; NULL: no memory. */
char *np_dataset_keep(np_dataset *dataset, const char *text, size_t length);

/* Make room at place `at` of the classes for the one of this name. */
np_status np_dataset_add_class(np_dataset *dataset, int at, const char *name, size_t length);

/* From the tars that were found, each labelled by the folder it lies in, to samples and classes. */
np_status np_dataset_list_shards(np_dataset *dataset, bool labelled);

#endif
