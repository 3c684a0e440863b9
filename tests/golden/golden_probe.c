/* Probe cases: block outputs and logits with the stored BatchNorm statistics, then the head trained on features of the
 * frozen trunk. The trunk runs in float32 and, where the processor has it, in bf16; the head is float32 in both. */
#include "golden/compare.h"
#include "golden/golden.h"
#include "model/attentive_head.h"
#include "model/model.h"
#include "optim/optimiser.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Relative to a tensor's L2 norm. float32: the README of the cases. bf16: the features carry the trunk's rounding (2^-9
 * a step, over some dozens of steps), BatchNorm keeps its relative size, and the head's own noise-free steps pass it
 * on. */
typedef struct bounds {
  double activation, loss, gradient, weight;
} bounds;
static const bounds bounds_f32 = {1e-4, 1e-4, 1e-3, 1e-3};
static const bounds bounds_bf16 = {5e-2, 2e-2, 1e-1, 5e-2};

typedef struct fixture {
  cJSON *json;
  np_safetensors *weights, *inputs, *expect;
  np_recipe_model config;
  np_recipe_optim optim;
  np_heads_shape shape;
  int layers[NP_MAX_LAYERS], layer_count, batch, steps;
  double lr;
  np_ops *ops, *head_ops; /* the trunk's and the head's */
  np_model *model;
  np_heads *heads;
  np_optimiser *optimiser;
  float *features; /* [B, N, D], on the device */
  float *host;     /* the same on the host */
  float *logits;   /* [B, classes] */
  int32_t *labels; /* [B] */
  float *table;    /* [total] of the head */
  bounds bounds;
  int failures;
} fixture;

static void check(fixture *f, bool ok) { f->failures += !ok; }

static np_status read_sizes(fixture *f) {
  const cJSON *json = f->json, *size = cJSON_GetObjectItemCaseSensitive(json, "image_size");
  const cJSON *betas = cJSON_GetObjectItemCaseSensitive(json, "betas"),
              *layers = cJSON_GetObjectItemCaseSensitive(json, "probe_layers");
  np_recipe_model *c = &f->config;
  f->layer_count = cJSON_GetArraySize(layers);
  if (cJSON_GetArraySize(betas) != 2 || f->layer_count < 1 || f->layer_count > NP_MAX_LAYERS)
    return np_error(NP_ERR_FORMAT, "case.json: betas [2] and probe_layers expected");
  for (int i = 0; i < f->layer_count; i++) f->layers[i] = (int)cJSON_GetArrayItem(layers, i)->valuedouble;
  for (int i = 0; i < 2; i++) {
    c->image_size[i] =
        cJSON_IsArray(size) ? (int)cJSON_GetArrayItem(size, i)->valuedouble : (int)golden_number(json, "image_size");
    f->optim.betas[i] = cJSON_GetArrayItem(betas, i)->valuedouble;
  }
  c->channels = (int)golden_number(json, "channels");
  c->patch_size = (int)golden_number(json, "patch_size");
  c->width = (int)golden_number(json, "embed_dim");
  c->blocks = (int)golden_number(json, "num_blocks");
  c->heads = (int)golden_number(json, "num_heads");
  c->mlp_ratio = (int)golden_number(json, "mlp_ratio");
  c->norm_eps = golden_number(json, "norm_eps");
  f->lr = golden_number(json, "lr");
  f->optim.eps = golden_number(json, "adam_eps");
  f->optim.weight_decay = golden_number(json, "weight_decay");
  f->batch = (int)golden_number(json, "batch");
  f->steps = (int)golden_number(json, "steps");
  f->shape = (np_heads_shape){.width = c->width,
                              .heads = c->heads,
                              .classes = (int)golden_number(json, "num_classes"),
                              .tokens = np_recipe_tokens(c),
                              .batch = f->batch,
                              .count = 1,
                              .bn_eps = golden_number(json, "bn_eps"),
                              .bn_momentum = golden_number(json, "bn_momentum")};
  return NP_OK;
}

static np_status make_trunk(fixture *f, np_dtype act) {
  np_status st = NP_OK;
  const np_model_options options = {.batch = f->batch};
  float *start = NULL;
  NP_TRY(golden_ops(act, NULL, &f->ops));
  NP_TRY(np_model_create(f->ops, &f->config, &options, &f->model));
  const np_params *params = np_model_params(f->model);
  if (!(start = malloc((size_t)params->total * sizeof *start))) return np_error(NP_ERR_MEMORY, "out of memory");
  NP_TRY(np_params_load(params, f->weights, "weights.safetensors", start));
  NP_TRY(np_model_set_weights(f->model, start));
out:
  free(start);
  return st;
}

static np_status make_head(fixture *f) {
  np_status st = NP_OK;
  const size_t features = (size_t)f->batch * (size_t)f->shape.tokens * (size_t)f->shape.width * sizeof(float);
  void *device = NULL;
  NP_TRY(golden_ops(NP_F32, f->ops, &f->head_ops));
  NP_TRY(np_heads_create(f->head_ops, &f->shape, true, &f->heads));
  NP_TRY(f->head_ops->alloc(f->head_ops, features, &device));
  f->features = device;
  f->host = malloc(features);
  f->logits = malloc((size_t)f->batch * (size_t)f->shape.classes * sizeof *f->logits);
  f->table = malloc((size_t)np_heads_params(f->heads)->total * sizeof *f->table);
  f->labels = malloc((size_t)f->batch * sizeof *f->labels);
  if (!f->host || !f->logits || !f->table || !f->labels) return np_error(NP_ERR_MEMORY, "out of memory");
  NP_TRY(np_heads_load(np_heads_params(f->heads), f->weights, "weights.safetensors", f->table));
  NP_TRY(np_heads_set(f->heads, 0, f->table));
  NP_TRY(np_optimiser_create(f->head_ops, np_heads_learnt(f->heads), NULL, &f->optim, &f->optimiser));
  np_optimiser_decay_all(f->optimiser);
out:
  return st;
}

/* Images of one step into the model, their features into f->features, their labels into f->labels. */
static np_status features(fixture *f, int step) {
  np_status st = NP_OK;
  const np_recipe_model *c = &f->config;
  const int64_t image = (int64_t)f->batch * c->channels * c->image_size[0] * c->image_size[1];
  const np_tensor *labels = np_safetensors_find(f->inputs, "labels");
  float *images = golden_floats(f->inputs, "images", image * step, image);
  if (!images || !labels || labels->dtype != NP_I32 || np_tensor_count(labels) < (int64_t)f->batch * f->steps) {
    st = np_error(NP_ERR_FORMAT, "inputs.safetensors: images [steps, B, C, H, W] and labels [steps, B] i32 expected");
    goto out;
  }
  const size_t bytes = (size_t)f->batch * sizeof *f->labels;
  memcpy(f->labels, (const char *)labels->data + (size_t)step * bytes, bytes);
  NP_TRY(np_model_feed(f->model, f->batch, NULL, images, NULL));
  NP_TRY(np_model_features(f->model, f->layers, f->layer_count, f->features));
out:
  free(images);
  return st;
}

/* Raw outputs of every block for images[0], one block at a time: the mean of one is itself. */
static np_status check_blocks(fixture *f) {
  np_status st;
  const int64_t count = (int64_t)f->batch * f->shape.tokens * f->shape.width;
  NP_TRY(features(f, 0));
  for (int i = 0; i < f->config.blocks; i++) {
    char name[48];
    snprintf(name, sizeof name, "eval.trunk.blocks.%d", i);
    NP_TRY(np_model_features(f->model, &i, 1, f->features));
    NP_TRY(f->head_ops->download(f->head_ops, f->host, f->features, (size_t)count * sizeof *f->host));
    check(f, golden_close(name, f->host, np_safetensors_find(f->expect, name), 0, count, f->bounds.activation));
  }
out:
  return st;
}

/* Logits of images[0] with the running statistics. */
static np_status check_evaluation(fixture *f, const char *name) {
  np_status st;
  NP_TRY(features(f, 0));
  NP_TRY(np_heads_normalise(f->heads, f->batch, 0, f->features));
  NP_TRY(np_heads_forward(f->heads, 0, f->batch, f->features, f->logits));
  check(f, golden_close(name, f->logits, np_safetensors_find(f->expect, name), 0, (int64_t)f->batch * f->shape.classes,
                        f->bounds.activation));
out:
  return st;
}

/* values in the head's layout against expect's "prefix.NAME". */
static void check_parameters(fixture *f, const char *prefix, const np_params *table, const float *values,
                             double bound) {
  for (int i = 0; i < table->count; i++) {
    const np_param *p = &table->items[i];
    char name[128];
    snprintf(name, sizeof name, "%s.%s", prefix, p->name);
    check(f, golden_close(name, values + p->offset, np_safetensors_find(f->expect, name), 0, p->count, bound));
  }
}

static np_status train_steps(fixture *f) {
  np_status st = NP_OK;
  const np_params *learnt = np_heads_learnt(f->heads);
  float *losses = golden_floats(f->expect, "loss", 0, f->steps);
  if (!losses) return np_error(NP_ERR_FORMAT, "expect.safetensors: loss of every step expected");
  for (int step = 0; step < f->steps; step++) {
    double loss;
    np_step_outcome outcome;
    NP_TRY(features(f, step));
    double *moments;
    int64_t size;
    NP_TRY(np_heads_moments(f->heads, f->batch, f->features, &moments, &size));
    NP_TRY(np_heads_normalise(f->heads, f->batch, f->batch, f->features));
    NP_TRY(np_heads_forward(f->heads, 0, f->batch, f->features, f->logits));
    NP_TRY(np_heads_backward(f->heads, 0, f->batch, f->batch, f->features, f->labels, &loss));
    check(f, golden_close_number("loss", loss, losses[step], f->bounds.loss));
    if (step == 0) {
      check(f, golden_close("train.logits", f->logits, np_safetensors_find(f->expect, "train.logits"), 0,
                            (int64_t)f->batch * f->shape.classes, f->bounds.activation));
      NP_TRY(f->head_ops->download(f->head_ops, f->table, np_heads_gradients(f->heads),
                                   (size_t)learnt->total * sizeof *f->table));
      check_parameters(f, "grad", learnt, f->table, f->bounds.gradient);
    }
    const np_optimised head = {.weights = np_heads_weights(f->heads, 0), .grads = np_heads_gradients(f->heads)};
    NP_TRY(np_optimiser_step(f->optimiser, &head, f->lr));
    NP_TRY(np_optimiser_read(f->optimiser, &outcome));
    check(f, outcome.applied);
  }
  NP_TRY(np_heads_get(f->heads, 0, f->table));
  check_parameters(f, "final", np_heads_params(f->heads), f->table, f->bounds.weight);
out:
  free(losses);
  return st;
}

static np_status run_case(fixture *f, np_dtype act) {
  np_status st;
  NP_TRY(make_trunk(f, act));
  NP_TRY(make_head(f));
  NP_TRY(check_blocks(f));
  NP_TRY(check_evaluation(f, "eval.logits"));
  NP_TRY(train_steps(f));
  NP_TRY(check_evaluation(f, "final.eval.logits"));
out:
  return st;
}

static void run(fixture *f, np_dtype act) {
  const np_status st = run_case(f, act);
  if (st != NP_OK) printf("  %s\n", np_error_message());
  check(f, st == NP_OK);
  np_optimiser_destroy(f->optimiser);
  np_heads_destroy(f->heads);
  np_model_destroy(f->model);
  if (f->head_ops) {
    f->head_ops->release(f->head_ops, f->features);
    f->head_ops->destroy(f->head_ops);
  }
  if (f->ops) f->ops->destroy(f->ops);
  free(f->host);
  free(f->logits);
  free(f->table);
  free(f->labels);
  f->labels = NULL;
  f->optimiser = NULL, f->heads = NULL, f->model = NULL, f->ops = f->head_ops = NULL;
  f->features = f->host = f->logits = f->table = NULL;
}

int golden_probe(const char *folder) {
  fixture f = {.json = golden_json(folder),
               .weights = golden_open(folder, "weights.safetensors"),
               .inputs = golden_open(folder, "inputs.safetensors"),
               .expect = golden_open(folder, "expect.safetensors")};
  check(&f, f.json && f.weights && f.inputs && f.expect);
  if (f.failures == 0 && read_sizes(&f) != NP_OK) {
    printf("  %s\n", np_error_message());
    check(&f, false);
  }
  if (f.failures == 0) {
    f.bounds = bounds_f32;
    printf("  float32\n");
    run(&f, NP_F32);
    if (golden_has_bf16()) {
      f.bounds = bounds_bf16;
      printf("  bf16\n");
      run(&f, NP_BF16);
    } else {
      printf("  bf16 SKIPPED: this processor has no native bf16 products\n");
    }
  }
  cJSON_Delete(f.json);
  np_safetensors_close(f.weights);
  np_safetensors_close(f.inputs);
  np_safetensors_close(f.expect);
  return f.failures != 0;
}
