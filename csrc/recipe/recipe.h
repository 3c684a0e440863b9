/* The recipe: everything that decides what a run computes, as one validated struct.
 *
 * YAML in (libcyaml) → overrides `dotted.key=value` → checks of every value and combination → this struct. Each key's
 * name, type, range, default and one-line meaning stand in one table (recipe_schema.c), from which libcyaml's schema,
 * the checks and --help are made. */
#ifndef NP_RECIPE_RECIPE_H
#define NP_RECIPE_RECIPE_H

#include "util/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum np_precision { NP_PRECISION_AUTO, NP_PRECISION_FP32, NP_PRECISION_BF16 } np_precision;
typedef enum np_backend { NP_BACKEND_AUTO, NP_BACKEND_CPU, NP_BACKEND_CUDA } np_backend;
typedef enum np_attention {
  NP_ATTENTION_AUTO,
  NP_ATTENTION_PORTABLE,
  NP_ATTENTION_HOPPER,
  NP_ATTENTION_CUDNN
} np_attention;
typedef enum np_head_block { NP_HEAD_MLP, NP_HEAD_L3M } np_head_block;
typedef enum np_pixel_target { NP_TARGET_STANDARDISED, NP_TARGET_RAW } np_pixel_target;
/* What the backward pass makes again instead of having kept it: the same bits with less memory. */
typedef enum np_recompute { NP_RECOMPUTE_NONE, NP_RECOMPUTE_GELU_NORM, NP_RECOMPUTE_BLOCK } np_recompute;
/* What ranks do not all keep, but each a part of: AdamW's moments, and float32 weights beside a bf16 copy. */
typedef enum np_sharding { NP_SHARDING_NONE, NP_SHARDING_OPTIM } np_sharding;
typedef enum np_resume { NP_RESUME_AUTO, NP_RESUME_NEVER, NP_RESUME_MUST } np_resume;
typedef enum np_yes_no { NP_NO, NP_YES } np_yes_no; /* true and false in YAML: a choice is the size of an int */
typedef enum np_recipe_interpolation { NP_RECIPE_BILINEAR, NP_RECIPE_BICUBIC } np_recipe_interpolation;

enum { NP_MAX_GRID = 32, NP_MAX_LAYERS = 128 };

/* model: shapes of trunk and pixel head, in the letters of model.md. */
typedef struct np_recipe_model {
  int image_size[2]; /* H, W in pixels; multiples of patch_size */
  int channels;      /* C: 1 or 3 */
  int patch_size;    /* P */
  int width;         /* D; multiple of heads and of 4 */
  int blocks;        /* L */
  int heads;         /* h; D / h is one of 8..256, multiple of 8 (CUDA: 32, 64, 96, 128) */
  int mlp_ratio;     /* hidden width of a block over D (and over E) */
  double norm_eps;   /* LayerNorm eps */
  int head_width;    /* E; multiple of 4 */
  int head_blocks;   /* M */
  np_head_block head_block;
  np_pixel_target pixel_target; /* the loss's: each patch standardised by itself, or as the image was normalised */
  double pixel_mean[3], pixel_std[3]; /* of pixels in [0, 1]; the first `channels` count */
} np_recipe_model;

typedef struct np_recipe_data {
  char *train;  /* images: a folder of files or tars, or a tar */
  int workers;  /* 0: one a core, at most 8 */
  int prefetch; /* batches ahead of the step */
  double crop_scale[2], crop_ratio[2];
  np_recipe_interpolation interpolation;
  double flip;               /* probability */
  double jitter_probability; /* 0 turns colour jitter off */
  double jitter[4];          /* brightness, contrast, saturation, hue */
  int prefix[2]; /* smallest and largest prefix length S, 0 <= S <= N-1; [0, 0]: plain causal. max -1 in the file means
                    N-1 */
  int64_t max_pixels;   /* a larger image counts as damaged */
  double max_bad_share; /* damaged images over all seen; above it (and more than 10; 0: any) the run stops */
} np_recipe_data;

typedef struct np_recipe_optim {
  double lr, lr_start, lr_end; /* peak, first, last */
  double warmup;               /* share of all steps */
  double betas[2], eps;
  double weight_decay;
  double grad_clip; /* global L2 norm; 0 turns clipping off */
} np_recipe_optim;

typedef struct np_recipe_train {
  int64_t steps;   /* optimiser steps of the whole run */
  int batch;       /* images a step, over all ranks and micro-batches */
  int micro_batch; /* images in one forward and backward pass on one rank; divides batch; 0: batch */
  np_recompute recompute;
  np_sharding shard;
  double slice_mb;   /* MiB of gradients, or more, that ranks sum at a time while the backward pass goes on */
  int log_every;     /* steps between metric lines */
  int max_bad_steps; /* non-finite steps in a row that stop the run */
} np_recipe_train;

typedef struct np_recipe_checkpoint {
  int64_t every;      /* steps between checkpoints; the last step always writes one */
  int keep_last;      /* newest checkpoints kept */
  int64_t keep_every; /* also keep each whose step is a multiple; 0: none */
  np_yes_no fallback; /* where the newest checkpoint is damaged go on from the one before, instead of stopping */
} np_recipe_checkpoint;

typedef struct np_recipe_run {
  char *dir;  /* where everything of the run is written */
  char *init; /* weights that a new run begins with, as np_checkpoint_locate takes them; "": drawn from the seed */
  np_resume resume; /* auto: go on from the newest good checkpoint where there is one */
  int patience;     /* seconds that a rank waits for others before it takes them for gone; 0: for ever */
} np_recipe_run;

typedef struct np_recipe_probe {
  char *data;                /* folder with train/ and val/, labelled, or */
  char *train, *val;         /* the two; each wins over data */
  int layers[NP_MAX_LAYERS]; /* indices of blocks whose outputs are averaged, 0 = first */
  unsigned layers_count;     /* 0: the last six (all, when the trunk has fewer) */
  int epochs;
  int batch;
  double lr[NP_MAX_GRID];
  unsigned lr_count;
  double weight_decay[NP_MAX_GRID];
  unsigned weight_decay_count;
  double warmup; /* share of all steps */
  double crop_scale[2];
  double flip;
  int log_every;
  int64_t save_every; /* steps between saves of its progress; 0: only when it is stopped, and before it is scored */
} np_recipe_probe;

typedef struct np_recipe {
  uint64_t seed;
  np_backend backend;
  np_precision precision;
  int threads;            /* OpenMP threads of the CPU backend; 0: all cores */
  int device;             /* of the CUDA backend, CUDA's number; -1: the first visible one */
  np_attention attention; /* which kernels of the CUDA backend, in bf16 */
  np_recipe_model model;
  np_recipe_data data;
  np_recipe_optim optim;
  np_recipe_train train;
  np_recipe_checkpoint checkpoint;
  np_recipe_run run;
  np_recipe_probe probe;
} np_recipe;

/* Read `path` (NULL: only defaults), apply `overrides` ("model.width=384") in order, check everything. One error line:
 * file, line (or "command line"), key, value, what is allowed. *out is valid only on NP_OK; release with
 * np_recipe_free. */
np_status np_recipe_load(const char *path, const char *const *overrides, int override_count, np_recipe **out);
/* The same for a run: also refuses images of one patch, of which a trunk has features, but which leave nothing to
 * predict. */
np_status np_recipe_load_to_train(const char *path, const char *const *overrides, int override_count, np_recipe **out);
/* The same from text; `name` stands in messages. */
np_status np_recipe_parse(const char *text, size_t size, const char *name, const char *const *overrides,
                          int override_count, np_recipe **out);
void np_recipe_free(np_recipe *recipe);

/* A step's batch among `ranks`: images a rank has of each step, and in one pass. NP_ERR_ARGUMENT when it does not come
 * out even. */
np_status np_recipe_share(const np_recipe *recipe, int ranks, int *step, int *micro);

/* The whole recipe as YAML, defaults included; np_recipe_parse reads it back to the same struct. malloc'ed. */
np_status np_recipe_dump(const np_recipe *recipe, char **out);
/* The same with the places and processors that each process may have of its own at their defaults: threads, device,
 * workers, folders of images. */
np_status np_recipe_dump_common(const np_recipe *recipe, char **out);

/* A walk over the lines that differ of two dumps of the same keys, or of other text of their form ("section:", below it
 * "  key: value"). Set a and b to the texts; each call that returns true found a line. */
typedef struct np_difference {
  const char *a, *b;           /* what is left */
  char section[64];            /* "probe.", or "" */
  const char *a_line, *b_line; /* "batch: 8", of so many bytes */
  int a_length, b_length;
} np_difference;
bool np_recipe_next_difference(np_difference *difference);

/* One line a key: name, type, range, default, meaning; for --help. `section` NULL prints all. */
void np_recipe_print_keys(const char *section);

/* N, tokens of an image. */
static inline int np_recipe_tokens(const np_recipe_model *m) {
  return (m->image_size[0] / m->patch_size) * (m->image_size[1] / m->patch_size);
}
/* P·P·C, values of a patch. */
static inline int np_recipe_patch_values(const np_recipe_model *m) {
  return m->patch_size * m->patch_size * m->channels;
}

#endif
