#include "probe/features.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"

#include <stdio.h>
#include <string.h>

static const np_cli_word keys[] = {
    {"out", "file to write; default features.npy. Beside it, .npy replaced by .txt, the images' names in row order"},
    {"pool", "mean: one row of D values an image; none: N rows of D values; default mean"},
    {"layers",
     "blocks to average: 2,3,4 or 14-19 or last (the last six); default: the recipe's probe.layers, else last"},
    {"batch", "images in one pass; default 32"},
    {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "features",
    .arguments = "MODEL IMAGES [out=FILE] [KEY=VALUE ...]",
    .text = "Write the trunk's features of every image of a folder or tar as a NumPy array: float32 [images, D], or "
            "[images, N, D] with pool=none.\n"
            "Images are cropped as in evaluation and seen bidirectionally; damaged ones are skipped and named.\n"
            "MODEL is a run folder (its newest checkpoint), a checkpoint folder or a .safetensors file, published ones "
            "too.\n",
    .examples =
        "  nextpatch features runs/600m images/ out=features.npy\n"
        "  nextpatch features runs/600m shards/val-000.tar\n"
        "  torchrun --no-python --nproc-per-node 8 nextpatch features runs/600m /data/imagenet/train out=train.npy\n"
        "  nextpatch features aim_600m.safetensors images/ layers=14-19 pool=none out=tokens.npy\n",
    .least = 2,
    .most = 2,
    .keys = keys,
    .recipe = true,
};

static np_status run(const np_cli_options *options) {
  np_status st;
  np_opened opened = {0};
  np_features features = {0};
  int layers[NP_MAX_LAYERS], count;
  int64_t batch = 32, rows = 0, bad = 0;
  np_launch launch;
  const char *pool = np_cli_value(options, "pool", "mean"), *out = np_cli_value(options, "out", "features.npy");
  const bool mean = !strcmp(pool, "mean");
  if (!mean && strcmp(pool, "none")) return np_error(NP_ERR_ARGUMENT, "features: pool=%s: expected mean or none", pool);
  NP_TRY(np_launch_detect(&launch));
  NP_TRY(np_cli_integer(options, "batch", 1, 65536, &batch));
  const np_open_options how = {.overrides = options->overrides,
                               .override_count = options->override_count,
                               .batch = (int)batch,
                               .launch = &launch};
  NP_TRY(np_open_model(options->positional[0], &how, &opened));
  st = launch.rank == 0 ? np_cli_check_output("out", out) : NP_OK;
  if (st == NP_OK) st = np_open_layers(opened.recipe, np_cli_value(options, "layers", NULL), NULL, layers, &count);
  if (st == NP_OK) st = np_features_open(&opened, layers, count, (int)batch, &features);
  NP_TRY(np_comm_settle(opened.comm, st));
  NP_TRY(np_features_write(&features, options->positional[1], (int)batch, mean, out, &rows, &bad));
  NP_TRY(np_comm_part(opened.comm, NP_OK));
  if (launch.rank > 0) goto out;
  printf("%s: %lld images × ", out, (long long)rows);
  if (!mean) printf("%d patches × ", np_recipe_tokens(&opened.recipe->model));
  printf("%d", opened.recipe->model.width);
  if (bad) printf(" (%lld damaged ones left out)", (long long)bad);
  printf("\n");
out:
  np_features_close(&features);
  np_open_close(&opened);
  return st;
}

int np_cli_features(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
