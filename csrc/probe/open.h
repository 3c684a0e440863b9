/* From what a user types as MODEL to a model that runs: find the file, read its recipe or infer its shapes, load its
 * weights. */
#ifndef NP_PROBE_OPEN_H
#define NP_PROBE_OPEN_H

#include "data/loader.h"
#include "dist/comm.h"
#include "model/model.h"
#include "recipe/recipe.h"
#include "util/safetensors.h"
#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct np_open_options {
  const char *const *overrides; /* "key=value" over the recipe the file holds */
  int override_count;
  int batch;               /* the most images of one pass; 0: the recipe's probe.batch */
  bool pixel_head;         /* the file must hold one, and it is loaded */
  bool fresh;              /* initialise from the recipe's seed instead of loading: the baseline of a probe */
  const np_launch *launch; /* NULL: one process; else as one of several, of which all open the same */
} np_open_options;

typedef struct np_opened {
  char *path;           /* the weight file */
  np_safetensors *file; /* still open: metadata, and the attentive head where it holds one */
  np_recipe *recipe;    /* the file's own, else defaults with the shapes inferred; overrides applied */
  bool own;             /* the recipe came with the file: it was written by nextpatch */
  np_ops *ops;          /* what the trunk runs on, in the recipe's precision */
  np_comm *comm;        /* the ranks, one or several */
  int threads;          /* of the CPU backend, this rank's share */
  char machine[128];    /* what the last bits may depend on: "cpu, avx2, …, 2 threads, 1 rank" */
  uint64_t weights;     /* hash of all weights */
  np_model *model;
} np_opened;

/* Of several ranks an error of what follows the recipe is one that all have, if only as another's.
 * Weights without a recipe (published ones) take D, L, P, C from their shapes, d = 128 where D allows it (as all
 * published models have) and LayerNorm eps 1e-6 (as the published code has); overrides win over all of that. */
np_status np_open_model(const char *model, const np_open_options *options, np_opened *out);
void np_open_close(np_opened *opened); /* a zeroed struct is fine */

/* Loader options of an evaluation pass (evaluation crop, in order, once) for this model. */
np_loader_options np_open_loader(const np_recipe *recipe, int batch);

/* A float32 operator table beside the trunk's (the same one when that is float32; then *owned is false). */
np_status np_open_float_ops(np_opened *opened, np_ops **out, bool *owned);

/* Which blocks are averaged: `text` ("14,15,16", "14-19", "last": the last six) where given; else the metadata "layers"
 * of `head`, a file with an attentive head, where given; else the recipe's probe.layers; else the last six. Ascending,
 * each 0..L-1, else NP_ERR_ARGUMENT. */
np_status np_open_layers(const np_recipe *recipe, const char *text, const np_safetensors *head,
                         int layers[NP_MAX_LAYERS], int *count);
/* "14,15,16": the form of the metadata key "layers". malloc'ed. */
char *np_layers_text(const int *layers, int count);

#endif
