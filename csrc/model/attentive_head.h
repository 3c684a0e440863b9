/* Attentive heads on frozen features: one BatchNorm and, behind it, a grid of heads that differ only in how they are
 * trained.
 *
 * Everything is float32 (the operator table must have act NP_F32, whatever the trunk runs in). Letters as in model.md,
 * and G heads of the grid. No gradient goes into the features: the trunk is frozen. */
#ifndef NP_MODEL_ATTENTIVE_HEAD_H
#define NP_MODEL_ATTENTIVE_HEAD_H

#include "model/params.h"
#include "ops/ops.h"
#include "util/safetensors.h"
#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct np_heads_shape {
  int width; /* D */
  int heads; /* h, attention heads of the one query; divides width */
  int classes;
  int tokens;         /* N */
  int batch;          /* the most images of one pass */
  int count;          /* G */
  double bn_eps;      /* 0: 1e-6, as published */
  double bn_momentum; /* 0: 0.1, as published */
} np_heads_shape;

typedef struct np_heads np_heads;

/* The table of one head, with the published names: head.cls_token [1, 1, D], head.k.weight and head.v.weight [D, D],
 * head.linear.weight [classes, D] — what is learnt, elements [0, *learnt) of the flat buffer — and behind them the
 * buffers head.bn.running_mean and head.bn.running_var [D], which all heads of a grid share. Release with
 * np_params_free. */
np_status np_heads_layout(int width, int classes, np_params *out, int64_t *learnt);

/* Initial values as the published class draws them: query normal × 0.02, linear layers uniform in ±1/sqrt(fan in),
 * running mean 0 and variance 1. A function of `seed` alone. */
void np_heads_init(const np_params *table, uint64_t seed, float *host /* [total] */);

/* Fill one head's flat buffer from a file by name; missing tensors and wrong shapes are errors that name them. `name`
 * stands in messages. */
np_status np_heads_load(const np_params *table, const np_safetensors *file, const char *name,
                        float *host /* [total] */);

/* Read D and the classes of the head a file holds; NP_ERR_FORMAT where it holds none. */
np_status np_heads_infer(const np_safetensors *file, const char *name, int *width, int *classes);

/* Takes all memory; weights are undefined until np_heads_set. train: with gradients. `ops` must outlive the heads. */
np_status np_heads_create(np_ops *ops, const np_heads_shape *shape, bool train, np_heads **out);
void np_heads_destroy(np_heads *heads); /* NULL is fine */

const np_params *np_heads_params(const np_heads *heads);
/* The part of the table that is learnt: what an optimiser takes. */
const np_params *np_heads_learnt(const np_heads *heads);
/* Device buffers in the layout of np_heads_learnt: head g's weights, and the gradients of the head np_heads_backward
 * saw last (NULL when not training). */
float *np_heads_weights(np_heads *heads, int g);
float *np_heads_gradients(np_heads *heads);

/* One head's flat buffer, host side [total]. Setting any head sets the running statistics of all. */
np_status np_heads_set(np_heads *heads, int g, const float *host);
np_status np_heads_get(np_heads *heads, int g, float *host);

/* In training, what the BatchNorm's statistics of features x [count, N, D] are made of: *size numbers on the device,
 * until the next call. Ranks add theirs up. */
np_status np_heads_moments(np_heads *heads, int count, const float *x, double **moments, int64_t *size);
/* BatchNorm of features x [count, N, D] in place, once for all heads of the grid. whole: the images whose moments stand
 * there, of this rank or of all: statistics are theirs, and the running ones move. 0: the running ones, unmoved. */
np_status np_heads_normalise(np_heads *heads, int count, int whole, float *x);

/* Logits of head g for normalised x [count, N, D] on the device; logits [count, classes] on the host, or NULL. */
np_status np_heads_forward(np_heads *heads, int g, int count, const float *x, float *logits);

/* Mean cross-entropy and gradients of the forward pass that went just before, same head and x. labels [count] on the
 * host, each 0..classes-1. The mean is over `whole` images: of more than these it is this rank's part of the loss and
 * of the gradients, and those of all ranks add up. */
np_status np_heads_backward(np_heads *heads, int g, int count, int whole, const float *x, const int32_t *labels,
                            double *loss);

#endif
