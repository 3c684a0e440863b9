/* The model: trunk, pixel head and loss, forward and backward, as calls on the operator table (model.md). Letters as
 * there. */
#ifndef NP_MODEL_MODEL_H
#define NP_MODEL_MODEL_H

#include "model/params.h"
#include "model/pieces.h"
#include "ops/ops.h"
#include "recipe/recipe.h"
#include "util/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct np_model_options {
  int batch;              /* the most images of one pass */
  bool head;              /* with the pixel head */
  bool train;             /* keep what the backward pass needs, and gradients; needs head */
  np_recompute recompute; /* what a model that trains does not keep */
  int64_t head_rows;      /* the most tokens of a pass that go through the pixel head when it trains; 0: all of them.
                             Then nothing can be predicted with it but the loss tokens */
  int step;               /* images of a training step, a multiple of `batch`: with `prefix` it gives passes few sizes,
                             near to those that will come; 0: not known */
  int prefix[2];          /* the range from which a step's prefixes are drawn evenly */
  int64_t slice_bytes;    /* a pass that trains signals when so many bytes of gradients are complete: np_model_slices;
                             0: all together, and no signal */
  int ranks, rank;        /* of which each keeps and updates its own part of a model that trains: np_model_pieces;
                             0 or 1: all of it */
  bool all_tokens;        /* send every token through the pixel head instead of the loss tokens alone: the same loss and
                             gradients, for tests */
} np_model_options;

/* Bytes by kind; what `plan` prints and what np_model_create takes. */
typedef struct np_memory_plan {
  size_t weights;     /* fp32 masters: with shards this rank's, where there is a bf16 copy */
  size_t low;         /* bf16 copy; 0 with fp32 */
  size_t gradients;   /* fp32 */
  size_t moments;     /* AdamW's two; taken by the optimiser, 0 when not training */
  size_t activations; /* kept for the backward pass, and scratch */
  size_t batch;       /* pixels, prefixes, indices on the device */
  size_t total;
  size_t recordings; /* on a GPU besides, and not in the total: what the driver keeps of np_model_prepare, at most */
} np_memory_plan;

typedef struct np_model np_model;

/* What rank `rank` of `ranks` trains: `batch` images a pass, `step` a step, and the rest as the recipe has it. */
np_model_options np_model_training(const np_recipe *recipe, int ranks, int rank, int batch, int step);

np_status np_model_plan(const np_recipe_model *config, const np_model_options *options, np_dtype act,
                        np_memory_plan *out);

/* Take all memory; weights are undefined until np_model_set_weights. `ops` must outlive the model; config is copied. */
np_status np_model_create(np_ops *ops, const np_recipe_model *config, const np_model_options *options, np_model **out);
void np_model_destroy(np_model *model);

np_ops *np_model_ops(const np_model *model);
const np_recipe_model *np_model_config(const np_model *model);
const np_params *np_model_params(const np_model *model);

/* Flat device buffers in the layout of np_model_params; but weights are this rank's pieces (np_model_pieces) where
 * there are several and a low-precision copy. */
float *np_model_weights(np_model *model);
float *np_model_gradients(np_model *model); /* NULL when not training */
void *np_model_low(np_model *model);        /* act copy the products read; NULL when act is F32 */
np_status np_model_set_weights(np_model *model, const float *host /* [total] */);
/* NP_ERR_ARGUMENT of a model that keeps pieces: it has not the others'. */
np_status np_model_get_weights(np_model *model, float *host /* [total] */);

/* Copy one micro-batch to the device. Pixels are u8 [count, H, W, C] (normalised by the recipe's mean and std) or,
 * where u8 is NULL, f32 [count, C, H, W] already normalised. prefix [count], each 0..N; NULL: fully bidirectional (S =
 * N). All on the host. */
np_status np_model_feed(np_model *model, int count, const uint8_t *u8, const float *f32, const int32_t *prefix);

/* Room for the loss tokens of nearly every pass of `batch` images with prefixes drawn evenly from this range: for
 * np_model_options.head_rows. */
int64_t np_model_head_rows(const np_recipe_model *config, int batch, const int prefix_range[2]);

/* Target patches of images with these prefixes: Σ_b |{k : k+1 >= S_b, 0 <= k <= N-2}|. */
int64_t np_model_targets(const np_recipe_model *config, int count, const int32_t *prefix);

/* The gradients in the order in which a backward pass completes them: slice i is complete once signal i of
 * np_ops.signal is reached, where options.slice_bytes asks for it and the backend has signals. *count slices, one
 * behind the other, are the whole buffer, gaps included. */
typedef struct np_slice {
  int64_t offset, count;
  bool scattered; /* options.ranks ranks have an equal piece of it each, in their order */
} np_slice;
const np_slice *np_model_slices(const np_model *model, int *count);
/* What this rank updates: all of the last slice and a piece of each other one, or everything. */
const np_pieces *np_model_pieces(const np_model *model);

/* Forward, loss and backward of the batch fed. The loss is a sum over target patches; gradients are of that sum divided
 * by `targets` (those of the whole optimiser step, over all micro-batches and ranks). first: gradients and loss are
 * overwritten, else added to. */
np_status np_model_train(np_model *model, int64_t targets, bool first);
/* That for all images of a step, `count` u8 [H, W, C] on the host, cut into passes; unlikely draws of prefixes, with
 * too many loss tokens for one, into smaller ones. */
np_status np_model_step(np_model *model, int count, const uint8_t *pixels, const int32_t *prefix, int64_t targets);
/* Before the first step: everything that passes take of a device but the model's own memory, for every size that
 * np_model_step may come to, with pixels as bytes or floats. Afterwards passes take nothing, and one of another size
 * is an error. Gradients and loss are overwritten, weights read. Does nothing on a backend without recordings. */
np_status np_model_prepare(np_model *model, bool bytes);
int np_model_recordings(const np_model *model); /* made by it */
/* Forward and loss only. */
np_status np_model_loss(np_model *model, bool first);
double *np_model_loss_sum(np_model *model); /* [1] on the device: what the next three read */
/* Read back the sum of losses since `first` (not divided). Waits for the device. */
np_status np_model_read_loss(np_model *model, double *sum);
/* The same late, by a slot of np_ops.fetch: arrive waits for the fetch and not for what was queued since. */
np_status np_model_fetch_loss(np_model *model, int slot);
np_status np_model_arrive_loss(np_model *model, int slot, double *sum);

/* Predictions for every token: pred [count, N, P·P·C] on the host, float32; row k is the standardised patch k+1. */
np_status np_model_predict(np_model *model, float *pred);

/* Mean of the raw outputs of the chosen blocks (0 = first; ascending, `layer_count` >= 1), to device memory `out`
 * [count, N, D] float32; blocks behind the last chosen one are not run. */
np_status np_model_features(np_model *model, const int *layers, int layer_count, float *out);
/* As float32 on the host: the output of block `i`, or with i = L of post_trunk_norm, of the last np_model_predict of a
 * model that trains: [count, N, D]. For tests. */
np_status np_model_read_block(np_model *model, int i, float *out);

/* The fixed 2-D sin-cos table [N, width] (model.md 3), of a grid `rows` × `columns`. */
void np_positions(int rows, int columns, int width, float *out);

/* Pairs of query and key that one image's mask allows: the mean over the prefix range. */
double np_model_pairs(const np_recipe_model *config, const int prefix_range[2]);

/* Floating point operations of one image (multiply-adds count two), forward and backward: matrices of trunk and head
 * plus attention over the pairs the mask allows. all_tokens: every token through the head, as the reference counts
 * (MFU); else the loss tokens. prefix: mean is taken over the recipe's prefix range. */
double np_model_flops(const np_recipe_model *config, const int prefix_range[2], bool all_tokens);
/* What of the forward pass over one image runs a second time, matrices and attention as above, loss tokens alone. */
double np_model_recompute_flops(const np_recipe_model *config, const int prefix_range[2], np_recompute recompute);
/* Bytes that the norms and GELUs of it read and write: their time, which FLOPs do not tell. */
double np_model_recompute_bytes(const np_recipe_model *config, const int prefix_range[2], np_recompute recompute,
                                np_dtype act);

#endif
