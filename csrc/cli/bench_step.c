#include "train/bench_step.h"
#include "cli/bench.h"
#include "cli/options.h"
#include "recipe/recipe.h"

#include <stdio.h>

static const np_cli_word keys[] = {{"steps", "measured steps (10)"}, {"warmup", "steps before them (3)"}, {NULL, NULL}};
static const np_cli_word flags[] = {{"json", "one JSON line instead of the table"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "bench step",
    .arguments = "RECIPE [steps=K] [warmup=W] [--json] [KEY=VALUE ...]",
    .text = "Whole training steps (forward, loss, backward, clipping, AdamW) of a recipe "
            "on random\n"
            "pixels, as images/s, FLOP/s and the share of the rate a large matrix product reaches here.\n"
            "FLOPs are those computed: loss tokens alone pass the pixel head.\n",
    .examples =
        "  nextpatch bench step recipes/cifar10.yaml\n"
        "  nextpatch bench step recipes/aim_600m.yaml train.batch=2 train.micro_batch=0 precision=fp32 steps=5\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .flags = flags,
    .recipe = true,
};

static void print_json(const np_step_timing *t, int batch) {
  printf("{\"median_s\": %.6g, \"p99_s\": %.6g, \"passes_s\": %.6g, \"update_s\": %.6g, \"batch\": %d, "
         "\"images_per_s\": %.6g, "
         "\"gflops_per_s\": %.6g, \"matrix_peak_gflops\": %.6g, \"share_of_peak\": %.4g, \"reference_gflops_per_s\": "
         "%.6g, "
         "\"memory_gb\": %.4g, \"precision\": \"%s\", \"threads\": %d}\n",
         t->median, t->p99, t->passes, t->update, batch, batch / t->median, t->flops / t->median / 1e9,
         t->matrix_peak / 1e9, t->flops / t->median / t->matrix_peak, t->reference / t->median / 1e9, t->memory / 1e9,
         t->precision, t->threads);
}

static void print_table(const np_step_timing *t, int batch) {
  printf("step of %d images, %s, %d threads, %.2f GB\n", batch, t->precision, t->threads, t->memory / 1e9);
  printf("  median                 %10.4g s   (p99 %.4g s; forward and backward %.4g s, norm and AdamW %.4g s)\n",
         t->median, t->p99, t->passes, t->update);
  printf("  images                 %10.4g /s\n", batch / t->median);
  printf("  arithmetic             %10.4g GFLOP/s\n", t->flops / t->median / 1e9);
  printf("  matrix product 2048^3  %10.4g GFLOP/s, of which the step reaches %.1f %%\n", t->matrix_peak / 1e9,
         100 * t->flops / t->median / t->matrix_peak);
}

static np_status bench(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  np_step_timing timing;
  int64_t steps = 10, warmup = 3;
  NP_TRY(np_cli_integer(options, "steps", 1, 1000000, &steps));
  NP_TRY(np_cli_integer(options, "warmup", 0, 1000000, &warmup));
  NP_TRY(np_recipe_load(options->positional[0], options->overrides, options->override_count, &recipe));
  NP_TRY(np_bench_step(recipe, (int)steps, (int)warmup, &timing));
  if (np_cli_flag(options, "json")) print_json(&timing, recipe->train.batch);
  else print_table(&timing, recipe->train.batch);
out:
  np_recipe_free(recipe);
  return st;
}

int np_cli_bench_step(int argc, char **argv) { return np_cli_run(&usage, argc, argv, bench); }
