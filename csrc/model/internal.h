/* What the files of the model room share: the model's memory and the passes over it. Not for other rooms. */
#ifndef NP_MODEL_INTERNAL_H
#define NP_MODEL_INTERNAL_H

#include "model/model.h"
#include "util/arena.h"

/* Activations of one trunk block that its backward pass reads. R = B·N rows. What a block keeps for itself, shares with
 * others or makes again is decided where they are laid out (memory.c). */
typedef struct np_block_acts {
  void *x;              /* [R, D] act: the block's input */
  float *mean1, *rstd1; /* [R] */
  void *n1;             /* [R, D] norm_1(x) */
  void *qkv;            /* [R, 3D] */
  float *lse;           /* [B, h, N] */
  void *attention;      /* [R, D] */
  void *mid;            /* [R, D] x + proj(attention) */
  float *mean2, *rstd2; /* [R] */
  void *n2;             /* [R, D] norm_2(mid) */
  void *fc1, *gelu;     /* [R, 4D] before and after GELU */
} np_block_acts;

/* Of one pixel-head block; G rows enter the head, options.head_rows at most. */
typedef struct np_head_acts {
  void *x;              /* [G, E] */
  float *mean1, *rstd1; /* [G]; head_block l3m alone */
  void *mid;            /* [G, E]; is x with head_block mlp */
  float *mean2, *rstd2;
  void *n2;         /* [G, E] */
  void *fc1, *gelu; /* [G, 4E] */
} np_head_acts;

/* Slices of one linear layer or norm: index into the parameter table. -1: none. */
typedef struct np_block_params {
  int norm1_gain, norm1_bias, qkv, proj, norm2_gain, norm2_bias, fc1, fc2;
} np_block_params;

/* Rows chosen out of R, padded so that few distinct matrix shapes occur: indices of rows that stand for nothing are -1.
 */
typedef struct np_row_list {
  int64_t count, padded;
} np_row_list;

/* What loss tokens are rounded up to (drawn in step.c): `least`, its successors by `step` up to `fine`, then `most`. */
typedef struct np_row_sizes {
  int64_t step, least, fine, most;
} np_row_sizes;

/* What a training pass depends on besides device memory. */
typedef struct np_pass {
  int count;
  int64_t rows;      /* padded */
  bool first, bytes; /* bytes: pixels are u8 */
} np_pass;

typedef struct np_recorded {
  np_pass pass;
  np_recording *recording;
} np_recorded;

/* 24 fine sizes, two where they begin and end off a step, and the largest, twice: first and added. And three of halves,
 * which are not cut again: np_model_head_rows is at least the mean, which is half of what the smallest prefix leaves,
 * or more. */
enum { NP_RECORDINGS = 64 };

struct np_model {
  np_ops *ops;
  np_recipe_model config;
  np_model_options options;
  np_params params;
  size_t act_size; /* bytes of one activation element */

  int embed_weight, embed_bias, embed_norm_gain, embed_norm_bias, post_gain, post_bias; /* places in the table */
  int decode_weight, decode_bias, decode_norm_gain, decode_norm_bias, pred_weight, pred_bias;
  np_block_params *blocks, *head_blocks;

  /* ---- device memory ---- */
  void *memory;   /* the one allocation behind everything below */
  float *weights; /* all; with pieces those that are kept, if there is a low-precision copy */
  float *gradients;
  void *low;
  float *trunk_table, *head_table; /* [N, D], [N, E] */
  uint8_t *pixels_u8;
  float *pixels_f32;
  int32_t *loss_index;     /* all_tokens alone: the rows the loss looks at */
  int32_t *prefix, *index; /* [B], [R] */
  double *loss;            /* [1] */
  float *scale;            /* [1] one by the targets of the whole step */

  void *patches;  /* [R, P·P·C] */
  void *embedded; /* [R, D] before its norm */
  float *embed_mean, *embed_rstd;
  np_block_acts *acts; /* [L] */
  void *trunk_out;     /* [R, D] the last block's output, before post_trunk_norm */
  float *post_mean, *post_rstd;
  void *post; /* [R, D] post_trunk_norm */

  void *kept_attention;    /* [G, D] the last block's attention at the kept rows */
  void *loss_pred;         /* [R, P·P·C] all_tokens alone: the predictions the loss looks at */
  np_head_acts *head_acts; /* [M] */
  void *head_out;          /* [G, E] */
  float *decode_mean, *decode_rstd;
  void *decoded; /* [G, E] decoder_norm */
  void *pred;    /* [G, P·P·C], then its gradient */

  void *delta;           /* [R, max(D, E)] output of a branch before it is added */
  void *branch;          /* [G, E] the same of norm_1 in a head block l3m */
  void *grad_x, *grad_y; /* [R, max(D, E)] gradients along the residual stream and of a branch */
  void *grad_wide;       /* [R, 4·max(D, E)] */

  np_slice slices[NP_SIGNALS]; /* of the gradients */
  int slice_count;
  int next_slice;   /* of the backward pass at hand: the first that is not complete */
  np_pieces pieces; /* one of each slice, or everything */
  np_piece piece_items[NP_SIGNALS];

  np_recorded recorded[NP_RECORDINGS];
  int recorded_count; /* 0: passes run as they come */

  int32_t *rows_host; /* [R] an index list on its way to the device */

  /* ---- the batch fed ---- */
  np_pixels pixels;
  int count; /* images */
  bool bidirectional;
  bool loss_ready;       /* rows are those of the batch fed: a prediction chooses others */
  np_row_list loss_rows; /* all_tokens alone */
  bool trim;             /* the last block keeps only `rows` rows; else rows are all of them */
  np_row_list rows;      /* loss tokens; every token in predictions and with all_tokens */
};

/* The lists of per-block pointers (host memory): acts, head_acts, blocks, head_blocks. */
np_status np_model_take_lists(np_model *model);
void np_model_free_lists(np_model *model);

/* Where in the table what is. */
void np_model_find_places(np_model *model);

/* Take (or, with arena->base NULL, count) everything that is not a parameter. */
void np_model_lay_activations(np_model *model, np_arena *arena);
void np_model_lay_batch(np_model *model, np_arena *arena);

/* Options as they are meant: what only a model that trains has, and the bounds of head_rows. */
void np_model_settle(np_model *model);

/* The rows that go past the last block's attention and through the pixel head. prefix NULL: every token. */
np_status np_model_choose_rows(np_model *model, const int32_t *prefix);

/* y [m, n] = x [m, k]·Wᵀ + b. bias -1: none. */
np_status np_linear_forward(np_model *model, int64_t rows, int weight, int bias, const void *x, void *y);
/* dW (+)= dyᵀ·x; db (+)= Σ dy; then dx (NULL: not wanted) = dy·W, which may lie where x did. */
np_status np_linear_backward(np_model *model, int64_t rows, int weight, int bias, const void *dy, const void *x,
                             void *dx, bool accumulate);
/* LayerNorm with the parameters of the table; delta, sum, mean, rstd as in np_ops.norm_forward. */
np_status np_norm_forward(np_model *model, int64_t rows, int gain, int bias, const void *x, const void *delta,
                          void *sum, void *y, float *mean, float *rstd);
np_status np_norm_backward(np_model *model, int64_t rows, int gain, int bias, const void *dy, const void *x,
                           const float *mean, const float *rstd, const void *residual, void *dx, bool accumulate);

/* Cut the gradients into slices, and find the pieces (slices.c). */
void np_model_cut(np_model *model);
/* The backward pass begins; then, each time: gradients are complete up to the parameter `last` of the table, included.
 */
void np_model_begin_slices(np_model *model);
np_status np_model_complete(np_model *model, int last);

/* How many images, in which form, at the addresses where feed puts them. */
void np_model_describe(np_model *model, int count, bool bytes);
/* A batch of black images without a loss token: a pass over it computes zeros, in the memory of any other. */
np_status np_model_feed_nothing(np_model *model, bool bytes);

/* The sizes for passes of `count` images. Rows beyond `most` stay as many as they are, and do not fit the head. */
np_row_sizes np_model_row_sizes(const np_model *model, int count);
int64_t np_row_size(const np_row_sizes *sizes, int64_t rows);
/* Fills model->recorded with every pass that a step may consist of; nothing is recorded yet. */
np_status np_model_list_passes(np_model *model, bool bytes);
static inline bool np_pass_same(const np_pass *a, const np_pass *b) {
  return a->count == b->count && a->rows == b->rows && a->first == b->first && a->bytes == b->bytes;
}

/* Forward, loss and backward over the batch fed, one operation after the other. */
np_status np_model_pass(np_model *model, bool first);
/* The same by its recording, where the model was prepared (recorded.c). */
np_status np_model_run(np_model *model, bool first);
void np_model_forget(np_model *model);

/* Pixels fed → trunk. Runs blocks 0 .. last, then post_trunk_norm into `post`: [G, D] when the model trims, else [R,
 * D]. A callback, where given, sees the raw output of each block as soon as it stands: [R, D] act. */
typedef np_status (*np_block_seen)(void *context, int block, const void *output);
np_status np_trunk_forward(np_model *model, int last, np_block_seen seen, void *context);
/* grad_y holds the gradient of `post`; fills the trunk's gradients. */
np_status np_trunk_backward(np_model *model, bool accumulate);

/* `post` → pred. */
np_status np_pixel_head_forward(np_model *model);
/* pred holds its own gradient; leaves the gradient of `post` in grad_y. */
np_status np_pixel_head_backward(np_model *model, bool accumulate);

static inline int np_model_tokens(const np_model *m) { return np_recipe_tokens(&m->config); }
static inline int64_t np_model_rows(const np_model *m) { return (int64_t)m->count * np_model_tokens(m); }
static inline float *np_grad(np_model *m, int param) { return m->gradients + m->params.items[param].offset; }
/* Elements of `weights`. */
static inline int64_t np_model_weight_count(const np_model *m) {
  return m->act_size < sizeof(float) ? m->pieces.kept : m->params.total;
}
/* A vector, of which every rank keeps all: they end the buffer, and the last piece. */
static inline const float *np_weight(const np_model *m, int param) {
  return m->weights + (m->params.items[param].offset - (m->params.total - np_model_weight_count(m)));
}

#endif
