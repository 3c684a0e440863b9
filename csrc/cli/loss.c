#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "data/dataset.h"
#include "probe/held_out.h"
#include "util/file.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const np_cli_word keys[] = {
    {"data", "folder of images, of one folder a class, or of tars, or one tar; a folder that holds train/ and val/ (or "
             "test/) stands for the latter"},
    {"batch", "images in one pass; default 64"},
    {"json", "also write the result to this file"},
    {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "loss",
    .arguments = "MODEL data=FOLDER [batch=N] [KEY=VALUE ...]",
    .text = "The pixel loss of images that MODEL was not trained on: how well it has learnt to predict, and whether it "
            "has\n"
            "learnt its training images by heart. MODEL is a run, one of its checkpoints or a weight file with a pixel "
            "head.\n"
            "Each image is seen once, cropped at its centre, with a prefix drawn from data.prefix: always the same one "
            "for the\n"
            "same set and seed. A mean over target patches; with standardised targets 1 is what predicting their mean "
            "gives.\n",
    .examples = "  nextpatch loss runs/600m data=/data/imagenet/val\n"
                "  nextpatch loss runs/600m/checkpoints/step-00025000 data=/data/imagenet json=loss.json\n"
                "  nextpatch loss runs/600m data=/data/imagenet/val data.prefix='[0, 0]'\n"
                "  torchrun --no-python --nproc-per-node 8 nextpatch loss runs/600m data=/data/imagenet/val\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .recipe = true,
};

static np_status write_json(const np_opened *opened, const char *data, const np_held_out *result, const char *path) {
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "model", opened->path);
  cJSON_AddStringToObject(json, "data", data);
  cJSON_AddNumberToObject(json, "images", (double)result->images);
  cJSON_AddNumberToObject(json, "damaged", (double)result->bad);
  cJSON_AddNumberToObject(json, "targets", (double)result->targets);
  cJSON_AddNumberToObject(json, "loss", result->loss);
  char *text = cJSON_Print(json);
  np_status st = text ? np_file_write(path, text, strlen(text)) : np_error(NP_ERR_MEMORY, "loss: out of memory");
  free(text);
  cJSON_Delete(json);
  return st;
}

static void print_result(const np_held_out *result) {
  printf("loss %.6f over %lld patches of %lld images", result->loss, (long long)result->targets,
         (long long)result->images);
  if (result->bad) printf(", %lld damaged ones left out", (long long)result->bad);
  printf("\n");
}

static np_status open_data(const np_opened *opened, const char *folder, const char *json, np_dataset **set) {
  np_status st = NP_OK;
  if (json && np_comm_rank(opened->comm) == 0) NP_TRY(np_cli_check_output("json", json));
  st = np_dataset_open(folder, false, set);
out:
  return st;
}

static np_status run(const np_cli_options *options) {
  np_status st;
  np_opened opened = {0};
  np_dataset *set = NULL;
  np_held_out result;
  const char *data = np_cli_value(options, "data", NULL), *json = np_cli_value(options, "json", NULL);
  int64_t batch = 64;
  char *folder = NULL;
  np_launch launch;
  if (!data) return np_error(NP_ERR_ARGUMENT, "loss: needs data=FOLDER, a folder of images, or of tars");
  folder = np_dataset_held_out(data);
  NP_TRY(np_launch_detect(&launch));
  NP_TRY(np_cli_integer(options, "batch", 1, 65536, &batch));
  const np_open_options how = {.overrides = options->overrides,
                               .override_count = options->override_count,
                               .batch = (int)batch,
                               .pixel_head = true,
                               .launch = &launch};
  NP_TRY(np_open_model(options->positional[0], &how, &opened));
  NP_TRY(np_comm_settle(opened.comm, open_data(&opened, folder, json, &set)));
  NP_TRY(np_comm_same(opened.comm, "the images", (int64_t)np_dataset_listing(set, folder)));
  NP_TRY(np_held_out_loss(&opened, set, (int)batch, &result));
  if (launch.rank == 0) {
    print_result(&result);
    if (json) st = write_json(&opened, folder, &result, json);
  }
  st = np_comm_part(opened.comm, st);
out:
  np_dataset_close(set);
  np_open_close(&opened);
  free(folder);
  return st;
}

int np_cli_loss(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
