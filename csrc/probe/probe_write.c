/* What a probe leaves behind: the best head as safetensors, every point of the grid as JSON. */
#include "probe/probe.h"
#include "util/file.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *np_probe_beside(const char *path, const char *ending) {
  static const char own[] = ".safetensors";
  const size_t length = strlen(path), end = sizeof own - 1;
  const bool has = length > end && !strcmp(path + length - end, own);
  return np_format("%.*s%s", (int)(has ? length - end : length), path, ending);
}

static double percent(int64_t part, int64_t whole) { return 100.0 * (double)part / (double)whole; }

static cJSON *point_json(const np_probe_point *point) {
  cJSON *json = cJSON_CreateObject();
  cJSON_AddNumberToObject(json, "lr", point->lr);
  cJSON_AddNumberToObject(json, "weight_decay", point->weight_decay);
  cJSON_AddNumberToObject(json, "top1", percent(point->score.top1, point->score.images));
  cJSON_AddNumberToObject(json, "top5", percent(point->score.top5, point->score.images));
  cJSON_AddNumberToObject(json, "val_loss", point->score.loss);
  cJSON_AddNumberToObject(json, "train_loss", point->train_loss);
  cJSON_AddNumberToObject(json, "skipped_steps", (double)point->skipped);
  return json;
}

static np_status write_json(const np_opened *opened, const np_probe_options *options, const np_probe_result *r,
                            const char *layers) {
  char seed[24];
  cJSON *json = cJSON_CreateObject();
  snprintf(seed, sizeof seed, "%" PRIu64, opened->recipe->seed); /* text: JSON's numbers lose bits above 2^53 */
  cJSON_AddStringToObject(json, "model", opened->path);
  cJSON_AddStringToObject(json, "init", options->init);
  cJSON_AddStringToObject(json, "train", options->train);
  cJSON_AddStringToObject(json, "val", options->val);
  cJSON_AddStringToObject(json, "precision", np_model_ops(opened->model)->act == NP_BF16 ? "bf16" : "fp32");
  cJSON_AddStringToObject(json, "layers", layers);
  cJSON_AddStringToObject(json, "seed", seed);
  cJSON_AddNumberToObject(json, "classes", r->classes);
  cJSON_AddNumberToObject(json, "epochs", opened->recipe->probe.epochs);
  cJSON_AddNumberToObject(json, "batch", r->batch);
  cJSON_AddNumberToObject(json, "steps", (double)r->steps);
  cJSON_AddNumberToObject(json, "train_images", (double)r->train_images);
  cJSON_AddNumberToObject(json, "val_images", (double)r->points[0].score.images);
  cJSON_AddNumberToObject(json, "seconds", r->seconds);
  cJSON_AddItemToObject(json, "best", point_json(&r->points[r->best]));
  cJSON *points = cJSON_AddArrayToObject(json, "points");
  for (int g = 0; g < r->count; g++) cJSON_AddItemToArray(points, point_json(&r->points[g]));
  char *text = cJSON_Print(json), *path = np_probe_beside(options->out, ".json");
  np_status st = text ? np_file_write(path, text, strlen(text)) : np_error(NP_ERR_MEMORY, "%s: out of memory", path);
  free(text);
  free(path);
  cJSON_Delete(json);
  return st;
}

/* The recipe as the file should carry it: with the blocks this head was trained on. */
static np_status recipe_text(const np_opened *opened, const np_probe_result *r, char **out) {
  np_recipe copy = *opened->recipe;
  memcpy(copy.probe.layers, r->layers, sizeof copy.probe.layers);
  copy.probe.layers_count = (unsigned)r->layer_count;
  return np_recipe_dump(&copy, out);
}

/* Tensors of the trunk and the head, one after the other in `out` (malloc'ed; names live in *trunk and *head). */
static np_status gather(np_opened *opened, bool with_trunk, const np_heads *heads, const float *host_head,
                        float **weights, np_tensor **trunk, np_tensor **head, np_tensor **out, int *count) {
  np_status st = NP_OK;
  const np_params *params = np_model_params(opened->model), *table = np_heads_params(heads);
  const int trunk_count = with_trunk ? params->count : 0;
  NP_TRY(np_params_tensors(table, host_head, NULL, head));
  *count = trunk_count + table->count;
  *out = malloc((size_t)*count * sizeof **out);
  if (!*out) return np_error(NP_ERR_MEMORY, "probe: out of memory");
  if (with_trunk) {
    if (!(*weights = malloc((size_t)params->total * sizeof **weights)))
      return np_error(NP_ERR_MEMORY, "probe: out of memory");
    NP_TRY(np_model_get_weights(opened->model, *weights));
    NP_TRY(np_params_tensors(params, *weights, NULL, trunk));
    memcpy(*out, *trunk, (size_t)trunk_count * sizeof **out);
  }
  memcpy(*out + trunk_count, *head, (size_t)table->count * sizeof **out);
out:
  return st;
}

np_status np_probe_write(np_opened *opened, const np_probe_options *options, const np_probe_result *r,
                         const np_heads *heads, const float *host_head, char *const *classes) {
  np_status st = NP_OK;
  const np_probe_point *best = &r->points[r->best];
  float *weights = NULL;
  np_tensor *trunk = NULL, *head = NULL, *all = NULL;
  int count = 0;
  char *recipe = NULL, *layers = np_layers_text(r->layers, r->layer_count), lr[32], decay[32], top1[32], top5[32];
  cJSON *list = cJSON_CreateStringArray((const char *const *)classes, r->classes);
  char *names = list ? cJSON_PrintUnformatted(list) : NULL;
  snprintf(lr, sizeof lr, "%g", best->lr);
  snprintf(decay, sizeof decay, "%g", best->weight_decay);
  snprintf(top1, sizeof top1, "%.4f", percent(best->score.top1, best->score.images));
  snprintf(top5, sizeof top5, "%.4f", percent(best->score.top5, best->score.images));
  NP_TRY(names ? NP_OK : np_error(NP_ERR_MEMORY, "probe: out of memory"));
  NP_TRY(recipe_text(opened, r, &recipe));
  NP_TRY(gather(opened, options->trunk, heads, host_head, &weights, &trunk, &head, &all, &count));
  const np_metadata metadata[] = {{"format", "pt"},   {"recipe", recipe}, {"classes", names},
                                  {"layers", layers}, {"lr", lr},         {"weight_decay", decay},
                                  {"top1", top1},     {"top5", top5},     {"init", options->init}};
  NP_TRY(np_safetensors_write(options->out, all, count, metadata, (int)(sizeof metadata / sizeof *metadata)));
  NP_TRY(write_json(opened, options, r, layers));
out:
  free(weights);
  free(trunk);
  free(head);
  free(all);
  free(recipe);
  free(names);
  cJSON_Delete(list);
  free(layers);
  return st;
}
