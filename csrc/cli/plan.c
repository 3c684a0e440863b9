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

/* One line: `amount` with the prefix that leaves one to three digits before the point. */
static void line(const char *what, double amount, const char *unit, const char *note) {
  const char *prefixes[] = {"", "k", "M", "G", "T", "P", "E", "Z", "Y"};
  size_t i = 0;
  for (; amount >= 1000 && i + 1 < sizeof prefixes / sizeof *prefixes; i++) amount /= 1000;
  printf("  %-34s %8.2f %s%s%s%s\n", what, amount, prefixes[i], unit, *note ? "   " : "", note);
}

static void line_bytes(const char *what, double bytes) { line(what, bytes, "B", ""); }

static void print_model(const np_recipe_model *m, const np_params *params) {
  char note[128];
  printf("model\n");
  printf("  %-34s %d x %d px, %d channels, patch %d: %d tokens\n", "image", m->image_size[0], m->image_size[1],
         m->channels, m->patch_size, np_recipe_tokens(m));
  snprintf(note, sizeof note, "width %d, %d blocks, %d heads of width %d", m->width, m->blocks, m->heads,
           m->width / m->heads);
  line("trunk parameters", (double)(params->elements - params->head_elements), "", note);
  snprintf(note, sizeof note, "width %d, %d blocks", m->head_width, m->head_blocks);
  line("pixel head parameters", (double)params->head_elements, "", note);
  line("all parameters", (double)params->elements, "", "");
}

static void print_work(const np_recipe *recipe, int64_t gpus, double tflops) {
  char note[128];
  const np_recipe_model *m = &recipe->model;
  double done = np_model_flops(m, recipe->data.prefix, false);
  double images = (double)recipe->train.steps * recipe->train.batch;
  printf("work (forward and backward)\n");
  line("an image, reference", np_model_flops(m, recipe->data.prefix, true), "FLOP", "every token through everything");
  line("an image, as computed", done, "FLOP", "loss tokens alone past the last block's attention");
  snprintf(note, sizeof note, "%d images", recipe->train.batch);
  line("a step, as computed", done * recipe->train.batch, "FLOP", note);
  snprintf(note, sizeof note, "%.4g million images", images / 1e6);
  line("the run, as computed", done * images, "FLOP", note);
  if (tflops > 0)
    printf("  %-34s %8.2f days on %lld ranks at %g TFLOP/s each\n", "time",
           done * images / (tflops * 1e12) / (double)gpus / 86400, (long long)gpus, tflops);
}

/* On a CPU there are no recordings. */
static np_status plan_model(const np_recipe *recipe, const np_model_options *model, np_dtype act, np_memory_plan *out) {
  np_status st = np_model_plan(&recipe->model, model, act, out);
  if (recipe->backend == NP_BACKEND_CPU) out->recordings = 0;
  out->total += out->recordings;
  return st;
}

static void print_memory(const np_memory_plan *plan, int batch, np_dtype act) {
  printf("memory of one rank (%s, %d images a pass)\n", act == NP_BF16 ? "bf16" : "fp32", batch);
  line_bytes("weights, fp32", (double)plan->weights);
  if (plan->low) line_bytes("weights, bf16 copy", (double)plan->low);
  line_bytes("gradients, fp32", (double)plan->gradients);
  line_bytes("moments, fp32", (double)plan->moments);
  line_bytes("activations and scratch", (double)plan->activations);
  line_bytes("batch", (double)plan->batch);
  if (plan->recordings) line_bytes("recordings of passes, on a GPU", (double)plan->recordings);
  line_bytes("total", (double)plan->total);
}

/* The same with each setting of train.recompute, and what it costs: FLOPs, and bytes of norms and GELU. */
static np_status print_recompute(const np_recipe *recipe, int ranks, int batch, int step, np_dtype act) {
  static const char *const names[] = {"none", "gelu_norm", "block"};
  np_status st = NP_OK;
  const np_recipe_model *m = &recipe->model;
  double work = np_model_flops(m, recipe->data.prefix, false);
  printf("train.recompute: what the backward pass makes again (the same bits)\n");
  printf("  %-12s %16s %12s %26s %26s\n", "", "activations, GB", "total, GB", "again an image: products",
         "norms and GELU");
  for (int i = NP_RECOMPUTE_NONE; i <= NP_RECOMPUTE_BLOCK; i++) {
    np_model_options model = np_model_training(recipe, ranks, 0, batch, step);
    model.recompute = (np_recompute)i;
    np_memory_plan memory;
    char extra[64], moved[64];
    double again = np_model_recompute_flops(m, recipe->data.prefix, model.recompute);
    NP_TRY(plan_model(recipe, &model, act, &memory));
    snprintf(extra, sizeof extra, "%.3f TFLOP, %.0f %%", again * 1e-12, 100 * again / work);
    snprintf(moved, sizeof moved, "%.3f GB moved",
             np_model_recompute_bytes(m, recipe->data.prefix, model.recompute, act) * 1e-9);
    printf("  %-12s %16.2f %12.2f %26s %26s%s\n", names[i], (double)memory.activations * 1e-9,
           (double)memory.total * 1e-9, extra, moved,
           model.recompute == recipe->train.recompute ? "   this recipe" : "");
  }
out:
  return st;
}

/* A ring, or what is as good, takes each byte over each rank's link, but for a rank's own part: twice for a sum that
 * all get. */
static void print_sum(const np_recipe *recipe, const np_memory_plan *plan, int64_t gpus) {
  const double others = (double)(gpus - 1) / (double)gpus, gradients = others * (double)plan->gradients;
  if (gpus == 1) return;
  printf("over each rank's link, a step\n");
  if (recipe->train.shard == NP_SHARDING_NONE) {
    line("sum of the gradients", 2 * gradients, "B", "beside the last pass's backward");
  } else {
    line("sums of gradients, each its part", gradients, "B", "beside the last pass's backward");
    line("weights of all", plan->low ? others * (double)plan->low : gradients, "B", "after AdamW");
  }
}

static np_status plan(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  np_params params = {0};
  np_memory_plan memory;
  int64_t gpus = 1;
  int step, micro;
  double tflops = 0;
  NP_TRY(np_cli_integer(options, "gpus", 1, 1 << 20, &gpus));
  NP_TRY(np_cli_number(options, "tflops", 1e-6, 1e6, &tflops));
  NP_TRY(np_recipe_load_to_train(options->positional[0], options->overrides, options->override_count, &recipe));
  NP_TRY(np_recipe_share(recipe, (int)gpus, &step, &micro));
  np_dtype act = recipe->precision == NP_PRECISION_FP32 ? NP_F32 : NP_BF16;
  NP_TRY(np_params_layout(&recipe->model, true, &params));
  np_model_options model = np_model_training(recipe, (int)gpus, 0, micro, step);
  NP_TRY(plan_model(recipe, &model, act, &memory));
  print_model(&recipe->model, &params);
  print_work(recipe, gpus, tflops);
  print_memory(&memory, micro, act);
  NP_TRY(print_recompute(recipe, (int)gpus, micro, step, act));
  print_sum(recipe, &memory, gpus);
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
