#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "data/dataset.h"
#include "probe/evaluate.h"
#include "util/file.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const np_cli_word keys[] = {
    {"data", "folder of class folders or of tars, or one tar; a folder that holds train/ and val/ (or test/) stands "
             "for the latter"},
    {"head", "file with the attentive head; default: MODEL's own"},
    {"layers",
     "blocks to average: 2,3,4 or 14-19 or last (the last six); default: those the head was trained on, else last"},
    {"batch", "images in one pass; default 64"},
    {"json", "also write the result to this file"},
    {NULL, NULL}};
static const np_cli_word flags[] = {{"per-class", "also print the accuracy of each class"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "eval",
    .arguments = "MODEL data=FOLDER [head=FILE] [KEY=VALUE ...]",
    .text = "Score a trained attentive head: top-1 and top-5 on the images of class folders or tars.\n"
            "MODEL is what 'nextpatch probe' wrote, or any trunk with head=FILE. Published weights work, too: shapes "
            "are read from the file;\n"
            "the image size and what else it cannot tell come from the recipe's keys (model.image_size, model.heads, "
            "...).\n",
    .examples = "  nextpatch eval runs/600m/probe.safetensors data=/data/imagenet/val\n"
                "  nextpatch eval aim_600m.safetensors head=aim_600m_attnprobe_best.safetensors layers=14-19 "
                "data=/data/imagenet/val\n"
                "  torchrun --no-python --nproc-per-node 8 nextpatch eval runs/600m/probe.safetensors "
                "data=/data/imagenet/val\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .flags = flags,
    .recipe = true,
};

typedef struct evaluation {
  np_opened opened;
  np_safetensors *own_head; /* head=FILE */
  const np_safetensors *file;
  const char *file_name;
  int width, classes, batch;
  int layers[NP_MAX_LAYERS], layer_count;
  np_dataset *set;
  np_features features;
  np_heads *heads;
  np_score score;
  int64_t *per_class; /* [2, classes] */
} evaluation;

/* The head's classes must be the folder's: by name where the file lists them, else by number. */
static np_status check_classes(const evaluation *e, const char *folder) {
  np_status st = NP_OK;
  const char *text = np_safetensors_metadata(e->file, "classes");
  if (!text) {
    if (e->set->class_count == e->classes) return NP_OK;
    return np_error(NP_ERR_ARGUMENT, "%s: the head tells %d classes apart, '%s' has %d", e->file_name, e->classes,
                    folder, e->set->class_count);
  }
  cJSON *list = cJSON_Parse(text);
  const int count = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
  char **names = calloc((size_t)(count > 0 ? count : 1), sizeof *names);
  if (count != e->classes || !names) {
    st = np_error(NP_ERR_FORMAT, "%s: metadata 'classes' does not list its %d classes", e->file_name, e->classes);
    goto out;
  }
  int i = 0;
  for (const cJSON *item = list->child; item; item = item->next) {
    if (!cJSON_IsString(item)) {
      st = np_error(NP_ERR_FORMAT, "%s: metadata 'classes' holds something that is not a name", e->file_name);
      goto out;
    }
    names[i++] = item->valuestring;
  }
  NP_TRY(np_classes_equal(e->file_name, names, count, folder, e->set->classes, e->set->class_count));
out:
  free(names);
  cJSON_Delete(list);
  return st;
}

static np_status open_head(evaluation *e, const np_cli_options *options) {
  np_status st = NP_OK;
  const char *head = np_cli_value(options, "head", NULL), *layers = np_cli_value(options, "layers", NULL);
  if (head) NP_TRY(np_safetensors_open(head, &e->own_head));
  e->file = head ? e->own_head : e->opened.file;
  e->file_name = head ? head : e->opened.path;
  NP_TRY(np_heads_infer(e->file, e->file_name, &e->width, &e->classes));
  if (e->width != e->opened.recipe->model.width) {
    st = np_error(NP_ERR_ARGUMENT, "%s: its head has width %d, the trunk of %s has %d", e->file_name, e->width,
                  e->opened.path, e->opened.recipe->model.width);
    goto out;
  }
  bool chosen = false; /* probe.layers on the command line wins over what the head remembers */
  for (int i = 0; i < options->override_count; i++) chosen |= !strncmp(options->overrides[i], "probe.layers=", 13);
  NP_TRY(np_open_layers(e->opened.recipe, layers, chosen ? NULL : e->file, e->layers, &e->layer_count));
out:
  return st;
}

static np_status load_head(evaluation *e) {
  np_status st = NP_OK;
  const np_recipe_model *model = &e->opened.recipe->model;
  const np_heads_shape shape = {.width = model->width,
                                .heads = model->heads,
                                .classes = e->classes,
                                .tokens = np_recipe_tokens(model),
                                .batch = e->batch,
                                .count = 1};
  float *host = NULL;
  NP_TRY(np_heads_create(e->features.ops, &shape, false, &e->heads));
  const np_params *table = np_heads_params(e->heads);
  if (!(host = malloc((size_t)table->total * sizeof *host))) {
    st = np_error(NP_ERR_MEMORY, "eval: out of memory");
    goto out;
  }
  NP_TRY(np_heads_load(table, e->file, e->file_name, host));
  NP_TRY(np_heads_set(e->heads, 0, host));
out:
  free(host);
  return st;
}

static double percent(int64_t part, int64_t whole) { return whole ? 100.0 * (double)part / (double)whole : 0; }

static np_status write_json(const evaluation *e, const char *data, const char *path) {
  cJSON *json = cJSON_CreateObject();
  char *layers = np_layers_text(e->layers, e->layer_count);
  cJSON_AddStringToObject(json, "model", e->opened.path);
  cJSON_AddStringToObject(json, "head", e->file_name);
  cJSON_AddStringToObject(json, "data", data);
  cJSON_AddStringToObject(json, "layers", layers);
  cJSON_AddNumberToObject(json, "images", (double)e->score.images);
  cJSON_AddNumberToObject(json, "damaged", (double)e->score.bad);
  cJSON_AddNumberToObject(json, "top1", percent(e->score.top1, e->score.images));
  cJSON_AddNumberToObject(json, "top5", percent(e->score.top5, e->score.images));
  cJSON_AddNumberToObject(json, "loss", e->score.loss);
  cJSON *classes = cJSON_AddObjectToObject(json, "classes");
  for (int c = 0; c < e->classes; c++) {
    cJSON *one = cJSON_AddObjectToObject(classes, e->set->classes[c]);
    cJSON_AddNumberToObject(one, "images", (double)e->per_class[c]);
    cJSON_AddNumberToObject(one, "top1", percent(e->per_class[e->classes + c], e->per_class[c]));
  }
  char *text = cJSON_Print(json);
  np_status st = text ? np_file_write(path, text, strlen(text)) : np_error(NP_ERR_MEMORY, "eval: out of memory");
  free(text);
  free(layers);
  cJSON_Delete(json);
  return st;
}

static void print_result(const evaluation *e, bool per_class) {
  for (int c = 0; per_class && c < e->classes; c++)
    printf("%-24s %6.2f %% of %lld\n", e->set->classes[c], percent(e->per_class[e->classes + c], e->per_class[c]),
           (long long)e->per_class[c]);
  printf("top-1 %.2f %%, top-5 %.2f %%, loss %.4f of %lld images in %d classes",
         percent(e->score.top1, e->score.images), percent(e->score.top5, e->score.images), e->score.loss,
         (long long)e->score.images, e->classes);
  if (e->score.bad) printf(", %lld damaged ones left out", (long long)e->score.bad);
  printf("\n");
}

/* What comes after the trunk. */
static np_status open_rest(evaluation *e, const np_cli_options *options, const char *folder) {
  np_status st = NP_OK;
  const char *json = np_cli_value(options, "json", NULL);
  if (json && np_comm_rank(e->opened.comm) == 0) NP_TRY(np_cli_check_output("json", json));
  NP_TRY(open_head(e, options));
  NP_TRY(np_dataset_open(folder, true, &e->set));
  NP_TRY(check_classes(e, folder));
  NP_TRY(np_features_open(&e->opened, e->layers, e->layer_count, e->batch, &e->features));
  NP_TRY(load_head(e));
  if (!(e->per_class = calloc(2 * (size_t)e->classes, sizeof *e->per_class)))
    st = np_error(NP_ERR_MEMORY, "eval: out of memory");
out:
  return st;
}

static np_status run(const np_cli_options *options) {
  np_status st;
  evaluation e = {0};
  const char *data = np_cli_value(options, "data", NULL), *json = np_cli_value(options, "json", NULL);
  int64_t batch = 64;
  char *folder = NULL;
  np_launch launch;
  if (!data) return np_error(NP_ERR_ARGUMENT, "eval: needs data=FOLDER, a folder of class folders, or of tars");
  folder = np_dataset_held_out(data);
  NP_TRY(np_launch_detect(&launch));
  NP_TRY(np_cli_integer(options, "batch", 1, 65536, &batch));
  e.batch = (int)batch;
  const np_open_options how = {
      .overrides = options->overrides, .override_count = options->override_count, .batch = e.batch, .launch = &launch};
  NP_TRY(np_open_model(options->positional[0], &how, &e.opened));
  NP_TRY(np_comm_settle(e.opened.comm, open_rest(&e, options, folder)));
  NP_TRY(np_comm_same(e.opened.comm, "the images", (int64_t)np_dataset_listing(e.set, folder)));
  NP_TRY(np_evaluate(&e.features, e.heads, 1, e.classes, e.set, e.batch, &e.score, e.per_class));
  if (!isfinite(e.score.loss))
    st = np_error(NP_ERR_NUMERIC, "%s: its outputs are not finite: loss %g over %lld images", e.opened.path,
                  e.score.loss, (long long)e.score.images);
  if (st == NP_OK && launch.rank == 0) {
    print_result(&e, np_cli_flag(options, "per-class"));
    if (json) st = write_json(&e, folder, json);
  }
  st = np_comm_part(e.opened.comm, st);
out:
  free(e.per_class);
  np_heads_destroy(e.heads);
  np_features_close(&e.features);
  np_dataset_close(e.set);
  np_open_close(&e.opened);
  np_safetensors_close(e.own_head);
  free(folder);
  return st;
}

int np_cli_eval(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
