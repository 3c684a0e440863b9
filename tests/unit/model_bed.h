/* A small model with odd weights on small images, for tests of the model as a whole. */
#ifndef NP_TESTS_MODEL_BED_H
#define NP_TESTS_MODEL_BED_H

#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BATCH = 3, ROWS = 3, COLUMNS = 4, N = ROWS * COLUMNS, P = 4, VALUES = P * P * 3, PIXELS = N * VALUES };

static const np_recipe_model small = {.image_size = {ROWS * P, COLUMNS *P},
                                      .channels = 3,
                                      .patch_size = P,
                                      .width = 32,
                                      .blocks = 2,
                                      .heads = 2,
                                      .mlp_ratio = 4,
                                      .norm_eps = 1e-5,
                                      .head_width = 24,
                                      .head_blocks = 2,
                                      .head_block = NP_HEAD_L3M,
                                      .pixel_mean = {0.5, 0.5, 0.5},
                                      .pixel_std = {0.25, 0.25, 0.25}};

/* The published one of 0.6 billion parameters. */
static const np_recipe_model aim_600m = {.image_size = {224, 224},
                                         .channels = 3,
                                         .patch_size = 14,
                                         .width = 1536,
                                         .blocks = 24,
                                         .heads = 12,
                                         .mlp_ratio = 4,
                                         .head_width = 2048,
                                         .head_blocks = 12,
                                         .head_block = NP_HEAD_L3M};

static inline void ok(np_status st) {
  if (st != NP_OK) fail_msg("%s", np_error_message());
}

/* Cheap, fixed, roughly uniform in [-1, 1]. */
static inline float noise(uint32_t i) {
  i = (i ^ 61u) ^ (i >> 16);
  i *= 0x9e3779b1u;
  i ^= i >> 15;
  return (float)(i & 0xffffu) / 32767.5f - 1.0f;
}

typedef struct bed {
  np_ops *ops;
  np_model *model;
  int64_t total;
  float *weights;
  float images[BATCH * PIXELS]; /* [B, C, H, W] normalised */
} bed;

/* A bed on `ops`, which it takes over. */
static inline bed *make_on(np_ops *ops, const np_recipe_model *config, np_model_options options) {
  bed *b = calloc(1, sizeof *b);
  assert_non_null(b);
  b->ops = ops;
  options.head = options.train = true;
  if (!options.batch) options.batch = BATCH;
  ok(np_model_create(ops, config, &options, &b->model));
  const np_params *params = np_model_params(b->model);
  b->total = params->total;
  b->weights = malloc((size_t)b->total * sizeof(float));
  np_params_init(params, 3, b->weights);
  for (int i = 0; i < params->count;
       i++) /* biases and gains away from 0 and 1, so that their gradients are put to the test */
    if (params->items[i].role != NP_PARAM_MATRIX)
      for (int64_t j = 0; j < params->items[i].count; j++)
        b->weights[params->items[i].offset + j] += 0.2f * noise((uint32_t)(97 * i + j));
  ok(np_model_set_weights(b->model, b->weights));
  for (int i = 0; i < BATCH * PIXELS; i++) b->images[i] = noise(7u + (uint32_t)i);
  return b;
}

static inline bed *make(np_dtype act, bool all_tokens, np_head_block block) {
  np_recipe_model config = small;
  np_ops *ops;
  config.head_block = block;
  ok(np_ops_cpu(act, 0, &ops));
  return make_on(ops, &config, (np_model_options){.all_tokens = all_tokens});
}

static inline void unmake(bed *b) {
  np_model_destroy(b->model);
  b->ops->destroy(b->ops);
  free(b->weights);
  free(b);
}

/* Mean loss; gradients [total] where wanted. */
static inline double train(bed *b, const int32_t *prefix, float *gradients) {
  double sum;
  int64_t targets = np_model_targets(&small, BATCH, prefix);
  ok(np_model_feed(b->model, BATCH, NULL, b->images, prefix));
  ok(np_model_train(b->model, targets, true));
  ok(np_model_read_loss(b->model, &sum));
  if (gradients)
    ok(b->ops->download(b->ops, gradients, np_model_gradients(b->model), (size_t)b->total * sizeof(float)));
  return sum / (double)targets;
}

#endif
