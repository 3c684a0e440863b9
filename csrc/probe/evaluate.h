/* Accuracy of attentive heads on a labelled folder. */
#ifndef NP_PROBE_EVALUATE_H
#define NP_PROBE_EVALUATE_H

#include "data/dataset.h"
#include "model/attentive_head.h"
#include "probe/features.h"

#include <stdint.h>

typedef struct np_score {
  int64_t images, bad; /* scored; damaged ones left out */
  int64_t top1, top5;  /* images whose class is the first, is among the first five */
  double loss;         /* mean cross-entropy */
} np_score;

/* Score every head of the grid in one pass with the evaluation crop: the trunk runs once a batch. Several ranks take a
 * part of the images each, and all have the scores of all. batch: of this rank's passes. scores [G]; per_class
 * NULL or [2, classes], zeroed by the callee: images and top-1 hits of each class for head 0. An image none of whose
 * logits is finite is missed. */
np_status np_evaluate(np_features *features, np_heads *heads, int grid, int classes, const np_dataset *set, int batch,
                      np_score *scores, int64_t *per_class);

/* How many classes are scored above `label`: 0 is a top-1 hit. A NaN anywhere is a miss (`classes`); ties go to the
 * lower index. */
int np_rank(const float *logits, int classes, int label);

/* NP_OK when both have the same names in the same order, else NP_ERR_ARGUMENT naming the first difference. */
np_status np_classes_equal(const char *a_name, char *const *a, int a_count, const char *b_name, char *const *b,
                           int b_count);

#endif
