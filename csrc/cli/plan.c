#include "cli/cli.h"
#include "cli/options.h"
#include "model/model.h"
#include "recipe/recipe.h"

#include <stdio.h>

static const np_cli_word keys[] = {
    {"gpus", "ranks that share each step's batch (1)"},
    {"tflops", "TFLOP/s one rank sustains: prints how long the run takes (not printed)"},
    {NULL, NULL},
};
static const np_cli_usage usage = {
    .name = "plan",
    .arguments = "RECIPE [gpus=N] [tflops=T] [KEY=VALUE ...]",
    .text = "Print parameters, FLOPs an image, memory by kind and checkpoint size, without touching data or taking "
            "memory.\n"
            "Memory is that of one rank in one pass: train.micro_batch images, or train.batch/gpus where it is 0.\n"
            "precision auto is planned as bf16.\n",
    .examples = "  nextpatch plan recipes/aim_600m.yaml\n"
                "  nextpatch plan recipes/aim_7b.yaml gpus=512 tflops=350 train.micro_batch=8\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .recipe = true,
};

static void line_bytes(const char *what, double bytes) {
  if (bytes >= 1e9) printf("  %-34s %10.2f GB\n", what, bytes / 1e9);
  else printf("  %-34s %10.2f MB\n", what, bytes / 1e6);
}

static void print_model(const np_recipe_model *m, const np_params *params) {
  int64_t trunk = 0;
  for (int i = 0; i < params->count; i++)
    if (params->items[i].offset >= params->trunk) trunk += params->items[i].count;
  printf("model\n");
  printf("  %-34s %d x %d px, %d channels, patch %d: %d tokens\n", "image", m->image_size[0], m->image_size[1],
         m->channels, m->patch_size, np_recipe_tokens(m));
  printf("  %-34s %13.3f M (width %d, %d blocks, %d heads of width %d)\n", "trunk parameters", (double)trunk / 1e6,
         m->width, m->blocks, m->heads, m->width / m->heads);
  printf("  %-34s %13.3f M (width %d, %d blocks)\n", "pixel head parameters", (double)(params->elements - trunk) / 1e6,
         m->head_width, m->head_blocks);
  printf("  %-34s %13.3f M\n", "all parameters", (double)params->elements / 1e6);
}

static void print_work(const np_recipe *recipe, int64_t gpus, double tflops) {
  const np_recipe_model *m = &recipe->model;
  double reference = np_model_flops(m, recipe->data.prefix, true), done = np_model_flops(m, recipe->data.prefix, false);
  double images = (double)recipe->train.steps * recipe->train.batch;
  printf("work (forward and backward)\n");
  printf("  %-34s %10.4g GFLOP (every token through the head)\n", "an image, reference", reference / 1e9);
  printf("  %-34s %10.4g GFLOP (loss tokens through the head)\n", "an image, as computed", done / 1e9);
  printf("  %-34s %10.4g TFLOP of %d images\n", "a step, as computed", done * recipe->train.batch / 1e12,
         recipe->train.batch);
  printf("  %-34s %10.4g ZFLOP, %.4g M images\n", "the run, as computed", done * images / 1e21, images / 1e6);
  if (tflops > 0)
    printf("  %-34s %10.4g days on %lld ranks at %g TFLOP/s each\n", "time",
           done * images / (tflops * 1e12) / (double)gpus / 86400, (long long)gpus, tflops);
}

static void print_memory(const np_memory_plan *plan, int batch, np_dtype act) {
  printf("memory of one rank (%s, %d images a pass)\n", act == NP_BF16 ? "bf16" : "fp32", batch);
  line_bytes("weights, fp32", (double)plan->weights);
  if (plan->low) line_bytes("weights, bf16 copy", (double)plan->low);
  line_bytes("gradients, fp32", (double)plan->gradients);
  line_bytes("moments, fp32", (double)plan->moments);
  line_bytes("activations and scratch", (double)plan->activations);
  line_bytes("batch", (double)plan->batch);
  line_bytes("total", (double)plan->total);
}

static np_status plan(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  np_params params = {0};
  np_memory_plan memory;
  int64_t gpus = 1;
  double tflops = 0;
  NP_TRY(np_cli_integer(options, "gpus", 1, 1 << 20, &gpus));
  NP_TRY(np_cli_number(options, "tflops", 1e-6, 1e6, &tflops));
  NP_TRY(np_recipe_load(options->positional[0], options->overrides, options->override_count, &recipe));
  int batch = recipe->train.batch, micro = recipe->train.micro_batch;
  if (micro == 0 && batch % gpus == 0) micro = (int)(batch / gpus);
  if (micro == 0 || (int64_t)micro * gpus > batch || batch % (micro * gpus) != 0) {
    st =
        np_error(NP_ERR_ARGUMENT,
                 "gpus=%lld: train.batch %d cannot be shared by so many ranks in passes of train.micro_batch %d images",
                 (long long)gpus, batch, recipe->train.micro_batch);
    goto out;
  }
  np_dtype act = recipe->precision == NP_PRECISION_FP32 ? NP_F32 : NP_BF16;
  NP_TRY(np_params_layout(&recipe->model, true, &params));
  NP_TRY(np_model_plan(&recipe->model, &(np_model_options){.batch = micro, .head = true, .train = true}, act, &memory));
  print_model(&recipe->model, &params);
  print_work(recipe, gpus, tflops);
  print_memory(&memory, micro, act);
  printf("checkpoint\n");
  line_bytes("weights, fp32", (double)params.elements * 4);
  line_bytes("optimiser state", (double)params.elements * 8);
  line_bytes("total", (double)params.elements * 12);
out:
  np_params_free(&params);
  np_recipe_free(recipe);
  return st;
}

int np_cli_plan(int argc, char **argv) { return np_cli_run(&usage, argc, argv, plan); }
