/* Attentive probing: a grid of heads on one frozen trunk, trained in one pass over the data. */
#ifndef NP_PROBE_PROBE_H
#define NP_PROBE_PROBE_H

#include "probe/evaluate.h"
#include "probe/open.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct np_probe_point {
  double lr, weight_decay;
  double train_loss; /* mean over the last epoch */
  int64_t skipped;   /* steps not applied because the gradient was not finite */
  np_score score;    /* on the validation images */
} np_probe_point;

typedef struct np_probe_result {
  int layers[NP_MAX_LAYERS], layer_count;
  int classes;
  int64_t train_images, steps;
  int batch;
  double seconds;
  int count, best;        /* best: of finite loss, most top-1 hits, then most top-5, then the first */
  np_probe_point *points; /* [count], one for each (lr, weight decay), decays innermost */
} np_probe_result;

typedef struct np_probe_options {
  const char *train, *val; /* labelled, with the same classes */
  const char *layers;      /* as np_open_layers; NULL: the recipe's */
  const char *out;  /* file to write, *.safetensors; beside it *.json, and *.progress until it is there. NULL: none */
  bool trunk;       /* the file holds the trunk too, so that `eval` needs nothing else */
  const char *init; /* "pretrained" or "random", for the files */
} np_probe_options;

/* Train and score the heads of the recipe's grid (probe.lr × probe.weight_decay) with AdamW (betas 0.9 0.999, every
 * head parameter decays), cross-entropy, and cosine with warm-up. The trunk must have been opened for batches of
 * probe.batch images at least, or a rank's share. Two runs with equal inputs give equal bits, and so does one that was
 * stopped in between: NP_ERR_INTERRUPTED after SIGTERM, SIGUSR1 or SIGINT, where the same call goes on. Release the
 * result with np_probe_result_free, also after an error. */
np_status np_probe_run(np_opened *opened, const np_probe_options *options, np_probe_result *result);
void np_probe_result_free(np_probe_result *result);

/* "a.safetensors" → "a" and the ending, ".json"; other names get it behind. malloc'ed. */
char *np_probe_beside(const char *path, const char *ending);

/* The two files: the best head with published names and the metadata recipe, classes (JSON array), layers, lr,
 * weight_decay, top1, top5; and every point as JSON. host_head: np_heads_get of the best head. */
np_status np_probe_write(np_opened *opened, const np_probe_options *options, const np_probe_result *result,
                         const np_heads *heads, const float *host_head, char *const *classes);

#endif
