/* Pretraining cases: block outputs, predictions and gradients of step 0, then every step's loss, norm and learning
 * rate, then the final weights. In float32 within the cases' own tolerances, in bf16 within the bounds below. */
#include "golden/compare.h"
#include "golden/golden.h"
#include "model/model.h"
#include "optim/optimiser.h"
#include "optim/schedule.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Relative to a tensor's L2 norm. float32: the README of the cases. bf16 keeps 8 bits: one rounding is off by up to
 * 2^-9, about 2e-3, and a value passes some dozens of them; gradients of a few images and the weights Adam makes of
 * them (which divides by their size) are noisier. */
typedef struct bounds {
  double activation, loss, gradient, gradient_norm, weight;
} bounds;
static const bounds bounds_f32 = {1e-4, 1e-4, 1e-3, 1e-3, 1e-3};
static const bounds bounds_bf16 = {2e-2, 1e-2, 8e-2, 3e-2, 3e-2};

typedef struct fixture {
  cJSON *json;
  np_safetensors *weights, *inputs, *expect, *positions;
  np_recipe_model config;
  np_recipe_optim optim;
  np_schedule schedule;
  int batch, steps;
  np_ops *ops;
  np_model *model;
  np_optimiser *optimiser;
  bounds bounds;
  int failures;
} fixture;

static void check(fixture *f, bool ok) { f->failures += !ok; }

static void read_sizes(fixture *f) {
  const cJSON *json = f->json, *size = cJSON_GetObjectItemCaseSensitive(json, "image_size");
  const cJSON *betas = cJSON_GetObjectItemCaseSensitive(json, "betas");
  const char *block = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "head_block"));
  np_recipe_model *c = &f->config;
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
  c->head_width = (int)golden_number(json, "head_embed_dim");
  c->head_blocks = (int)golden_number(json, "head_num_blocks");
  c->head_block = block && strcmp(block, "mlp") == 0 ? NP_HEAD_MLP : NP_HEAD_L3M;
  c->pixel_target =
      cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(json, "norm_pix_loss")) ? NP_TARGET_RAW : NP_TARGET_STANDARDISED;
  f->optim.lr = golden_number(json, "lr");
  f->optim.lr_start = golden_number(json, "lr_start");
  f->optim.weight_decay = golden_number(json, "weight_decay");
  f->optim.eps = golden_number(json, "adam_eps");
  f->optim.grad_clip = golden_number(json, "grad_clip");
  f->optim.warmup = golden_number(json, "warmup_fraction");
  f->batch = (int)golden_number(json, "batch");
  f->steps = (int)golden_number(json, "steps");
  f->schedule = (np_schedule){.lr = f->optim.lr,
                              .lr_start = f->optim.lr_start,
                              .warmup = f->optim.warmup,
                              .steps = (int64_t)golden_number(json, "total_steps")};
}

/* With its passes recorded where the backend does that. */
static np_status make_model(fixture *f, np_dtype act) {
  np_status st = NP_OK;
  float *start = NULL;
  np_model_options options = {.batch = f->batch,
                              .head = true,
                              .train = true,
                              .step = f->batch,
                              .prefix = {1, np_recipe_tokens(&f->config) - 1}};
  NP_TRY(golden_ops(act, NULL, &f->ops));
  NP_TRY(np_model_create(f->ops, &f->config, &options, &f->model));
  const np_params *params = np_model_params(f->model);
  start = malloc((size_t)params->total * sizeof *start);
  if (!start) return np_error(NP_ERR_MEMORY, "out of memory");
  NP_TRY(np_params_load(params, f->weights, "weights.safetensors", start));
  NP_TRY(np_model_set_weights(f->model, start));
  NP_TRY(np_optimiser_create(f->ops, params, NULL, &f->optim, &f->optimiser));
  NP_TRY(np_model_prepare(f->model, false));
out:
  free(start);
  return st;
}

static void check_positions(fixture *f) {
  const np_recipe_model *c = &f->config;
  int rows = c->image_size[0] / c->patch_size, columns = c->image_size[1] / c->patch_size;
  const struct {
    const char *name;
    int width;
  } tables[] = {{"trunk", c->width}, {"head", c->head_width}};
  for (int t = 0; t < 2; t++) {
    int64_t count = (int64_t)rows * columns * tables[t].width;
    float *table = malloc((size_t)count * sizeof *table);
    np_positions(rows, columns, tables[t].width, table);
    check(f, golden_close(tables[t].name, table, np_safetensors_find(f->positions, tables[t].name), 0, count, 1e-6));
    free(table);
  }
}

static np_status feed(fixture *f, int step, const int32_t **prefix) {
  const np_recipe_model *c = &f->config;
  int64_t image = (int64_t)f->batch * c->channels * c->image_size[0] * c->image_size[1];
  const np_tensor *images = np_safetensors_find(f->inputs, "images"),
                  *lengths = np_safetensors_find(f->inputs, "prefix_len");
  if (!images || !lengths || lengths->dtype != NP_I32 || images->dtype != NP_F32 ||
      np_tensor_count(images) < image * f->steps || np_tensor_count(lengths) < (int64_t)f->batch * f->steps)
    return np_error(NP_ERR_FORMAT,
                    "inputs.safetensors: images [steps, B, C, H, W] f32 and prefix_len [steps, B] i32 expected");
  *prefix = (const int32_t *)lengths->data + (int64_t)step * f->batch;
  return np_model_feed(f->model, f->batch, NULL, (const float *)images->data + image * step, *prefix);
}

static np_status check_activations(fixture *f) {
  np_status st = NP_OK;
  const np_recipe_model *c = &f->config;
  int64_t rows = (int64_t)f->batch * np_recipe_tokens(c), values = np_recipe_patch_values(c);
  float *out = malloc((size_t)(rows * (values > c->width ? values : c->width)) * sizeof *out);
  if (!out) return np_error(NP_ERR_MEMORY, "out of memory");
  NP_TRY(np_model_predict(f->model, out));
  check(f, golden_close("pred", out, np_safetensors_find(f->expect, "pred"), 0, rows * values, f->bounds.activation));
  for (int i = 0; i <= c->blocks; i++) {
    char name[48] = "trunk.post_trunk_norm";
    if (i < c->blocks) snprintf(name, sizeof name, "trunk.blocks.%d", i);
    NP_TRY(np_model_read_block(f->model, i, out));
    check(f, golden_close(name, out, np_safetensors_find(f->expect, name), 0, rows * c->width, f->bounds.activation));
  }
out:
  free(out);
  return st;
}

/* values [total] against expect's "prefix.NAME"; a tensor absent there (a parameter nothing uses) must be all zero. */
static void check_parameters(fixture *f, const char *prefix, const float *values, double bound) {
  const np_params *params = np_model_params(f->model);
  for (int i = 0; i < params->count; i++) {
    const np_param *p = &params->items[i];
    char name[128];
    snprintf(name, sizeof name, "%s.%s", prefix, p->name);
    const np_tensor *want = np_safetensors_find(f->expect, name);
    bool zero = true;
    for (int64_t j = 0; j < p->count; j++) zero = zero && values[p->offset + j] == 0;
    if (want || !zero) check(f, golden_close(name, values + p->offset, want, 0, p->count, bound));
  }
}

static np_status run_steps(fixture *f) {
  np_status st = NP_OK;
  const np_params *params = np_model_params(f->model);
  float *host = malloc((size_t)params->total * sizeof *host);
  float *losses = golden_floats(f->expect, "loss", 0, f->steps),
        *norms = golden_floats(f->expect, "grad_norm", 0, f->steps);
  const np_tensor *rates = np_safetensors_find(f->expect, "lr");
  if (!host || !losses || !norms || !rates || rates->dtype != NP_F64 || np_tensor_count(rates) < f->steps) {
    st = np_error(NP_ERR_FORMAT, "expect.safetensors: loss, grad_norm and lr of every step expected");
    goto out;
  }
  for (int step = 0; step < f->steps; step++) {
    const int32_t *prefix = NULL;
    double sum, lr = np_schedule_lr(&f->schedule, step), want;
    np_step_outcome outcome;
    memcpy(&want, (const double *)rates->data + step, sizeof want);
    check(f, golden_close_number("lr", lr, want, 1e-9));
    NP_TRY(feed(f, step, &prefix));
    int64_t targets = np_model_targets(&f->config, f->batch, prefix);
    NP_TRY(np_model_train(f->model, targets, true));
    NP_TRY(np_model_read_loss(f->model, &sum));
    check(f, golden_close_number("loss", sum / (double)targets, losses[step], f->bounds.loss));
    if (step == 0) {
      NP_TRY(f->ops->download(f->ops, host, np_model_gradients(f->model), (size_t)params->total * sizeof *host));
      check_parameters(f, "grad", host, f->bounds.gradient);
      NP_TRY(check_activations(f));
    }
    const np_optimised what = np_optimised_model(f->model);
    NP_TRY(np_optimiser_step(f->optimiser, &what, lr));
    NP_TRY(np_optimiser_read(f->optimiser, &outcome));
    check(f,
          outcome.applied && golden_close_number("grad_norm", outcome.grad_norm, norms[step], f->bounds.gradient_norm));
  }
  NP_TRY(np_model_get_weights(f->model, host));
  check_parameters(f, "final", host, f->bounds.weight);
out:
  free(host);
  free(losses);
  free(norms);
  return st;
}

static void run(fixture *f, np_dtype act) {
  np_status st = make_model(f, act);
  if (st == NP_OK) st = run_steps(f);
  if (st != NP_OK) printf("  %s\n", np_error_message());
  check(f, st == NP_OK);
  np_optimiser_destroy(f->optimiser);
  np_model_destroy(f->model);
  if (f->ops) f->ops->destroy(f->ops);
  f->optimiser = NULL, f->model = NULL, f->ops = NULL;
}

int golden_pretrain(const char *folder) {
  fixture f = {.json = golden_json(folder),
               .weights = golden_open(folder, "weights.safetensors"),
               .inputs = golden_open(folder, "inputs.safetensors"),
               .expect = golden_open(folder, "expect.safetensors"),
               .positions = golden_open(folder, "positions.safetensors")};
  check(&f, f.json && f.weights && f.inputs && f.expect && f.positions);
  if (f.failures == 0) {
    read_sizes(&f);
    check_positions(&f);
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
  np_safetensors_close(f.positions);
  return f.failures != 0;
}
