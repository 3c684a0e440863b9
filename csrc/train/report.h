/* A run as one HTML file that needs nothing else: curves as inline SVG, pictures embedded. */
#ifndef NP_TRAIN_REPORT_H
#define NP_TRAIN_REPORT_H

#include "util/status.h"

#include <stddef.h>
#include <stdint.h>

/* One probe's best head, as `nextpatch probe` writes it beside the head's file. */
typedef struct np_report_score {
  char trunk[32];    /* "pretrained", "random" */
  double top1, top5; /* percent */
  double lr, weight_decay;
  int64_t images; /* scored */
} np_report_score;

typedef struct np_report_picture {
  uint8_t *png; /* owned by the caller */
  size_t size;
} np_report_picture;

typedef struct np_report_content {
  const char *run; /* run folder: metrics.jsonl, recipe.yaml and run.json are read from it */
  const np_report_score *scores;
  int score_count;
  const np_report_picture *pictures; /* given / predicted / true, side by side */
  int picture_count;
  const char *picture_note; /* which images these are */
} np_report_content;

/* Write `path`, whole or not at all. A run without metrics is NP_ERR_IO. */
np_status np_report_write(const char *path, const np_report_content *content);

/* Read the JSON file of a probe. */
np_status np_report_read_score(const char *path, np_report_score *out);

#endif
