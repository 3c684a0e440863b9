#include "bench/step.h"
#include "cli/bench.h"
#include "cli/options.h"
#include "recipe/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const np_cli_word keys[] = {
    {"steps", "measured steps (10)"},
    {"warmup", "steps before them (3)"},
    {"profile", "steps of a pass of its own that takes times by kernel family; 0: none (1)"},
    {NULL, NULL}};
static const np_cli_word flags[] = {
    {"json", "one JSON line instead of the table"},
    {"plans", "also which attention ran, and each matrix product's algorithm (with --json: on standard error)"},
    {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "bench step",
    .arguments = "RECIPE [KEY=VALUE ...] [--json] [--plans]",
    .text =
        "Whole training steps (forward, loss, backward, clipping, AdamW) of a recipe on random pixels: images/s, "
        "FLOP/s,\n"
        "the share of the rate a large matrix product reaches here, memory, and where the time goes.\n"
        "MFU counts the reference's FLOPs (every token through the pixel head, nothing twice), utilisation those the\n"
        "operators computed.\n",
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
  double s = t->whole.median;
  printf("{\"program\": \"nextpatch\", \"median_s\": %.6g, \"p99_s\": %.6g, \"min_s\": %.6g, \"steps\": %d, "
         "\"passes_s\": %.6g, "
         "\"update_s\": %.6g, \"batch\": %d, \"images_per_s\": %.6g, \"gflops_per_s\": %.6g, "
         "\"reference_gflops_per_s\": %.6g, \"computed_gflops_per_s\": %.6g, \"matrix_peak_gflops\": %.6g, "
         "\"share_of_peak\": %.4g, ",
         s, t->whole.p99, t->whole.least, t->whole.runs, t->passes, t->update, batch, batch / s, t->flops / s / 1e9,
         t->reference / s / 1e9, t->computed / s / 1e9, t->measured_peak / 1e9, t->flops / s / t->measured_peak);
  if (t->nominal_peak > 0)
    printf("\"nominal_peak_gflops\": %.6g, \"mfu\": %.4g, \"utilisation\": %.4g, ", t->nominal_peak / 1e9,
           t->reference / s / t->nominal_peak, t->computed / s / t->nominal_peak);
  printf(
      "\"memory_gb\": %.4g, \"memory_taken_gb\": %.4g, \"backend\": \"%s\", \"device\": \"%s\", \"precision\": \"%s\", "
      "\"threads\": %d, \"profiled_s\": %.6g, \"families\": {",
      t->planned / 1e9, t->taken / 1e9, t->backend, t->device, t->precision, t->threads, t->profiled);
  for (int f = 0; f < NP_FAMILIES; f++)
    printf("%s\"%s\": {\"s\": %.6g, \"calls\": %lld, \"gflops\": %.6g}", f ? ", " : "", np_family_name((np_family)f),
           t->family[f].seconds, (long long)t->family[f].calls, t->family[f].flops / 1e9);
  printf("}}\n");
}

static void print_peak(const char *name, double peak, const np_step_timing *t) {
  double s = t->whole.median;
  printf("  %-22s %10.4g TFLOP/s: MFU %.1f %%", name, peak / 1e12, 100 * t->reference / s / peak);
  if (t->computed > 0) printf(", utilisation %.1f %%", 100 * t->computed / s / peak);
  printf("\n");
}

static void print_families(const np_step_timing *t) {
  double sum = 0;
  printf("by family, in a profiled step of %.4g s\n", t->profiled);
  for (int f = 0; f < NP_FAMILIES; f++) {
    const np_family_sum *family = &t->family[f];
    if (!family->calls) continue;
    sum += family->seconds;
    printf("  %-22s %10.4g s %5.1f %%  %5lld calls", np_family_name((np_family)f), family->seconds,
           100 * family->seconds / t->profiled, (long long)family->calls);
    if (family->flops > 0) printf("  %8.4g TFLOP/s", family->flops / family->seconds / 1e12);
    printf("\n");
  }
  printf("  %-22s %10.4g s %5.1f %%\n", "between them", t->profiled - sum, 100 * (1 - sum / t->profiled));
}

static void print_table(const np_step_timing *t, int batch) {
  double s = t->whole.median;
  printf("step of %d images on %s, %s, ", batch, t->device, t->precision);
  if (!strcmp(t->backend, "cpu")) printf("%d threads, ", t->threads);
  printf("%.2f GB planned, %.2f GB taken\n", t->planned / 1e9, t->taken / 1e9);
  printf("  median                 %10.4g s   (p99 %.4g s; forward and backward %.4g s, norm and AdamW %.4g s)\n", s,
         t->whole.p99, t->passes, t->update);
  printf("  images                 %10.4g /s\n", batch / s);
  printf("  arithmetic             %10.4g TFLOP/s needed, %.4g by the reference", t->flops / s / 1e12,
         t->reference / s / 1e12);
  if (t->computed > 0) printf(", %.4g computed", t->computed / s / 1e12);
  printf("\n");
  print_peak("large product here", t->measured_peak, t);
  if (t->nominal_peak > 0) print_peak("nominal peak", t->nominal_peak, t);
  if (t->profiled > 0) print_families(t);
}

static np_status bench(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  np_step_timing timing;
  char *plans = NULL;
  size_t length = 0;
  int64_t steps = 10, warmup = 3, profile = 1;
  NP_TRY(np_cli_integer(options, "steps", 1, 1000000, &steps));
  NP_TRY(np_cli_integer(options, "warmup", 0, 1000000, &warmup));
  NP_TRY(np_cli_integer(options, "profile", 0, 1000, &profile));
  NP_TRY(np_recipe_load_to_train(options->positional[0], options->overrides, options->override_count, &recipe));
  np_step_bench how = {.recipe = recipe, .steps = (int)steps, .warmup = (int)warmup, .profile = (int)profile};
  if (np_cli_flag(options, "plans") && !(how.plans = open_memstream(&plans, &length))) {
    st = np_error(NP_ERR_MEMORY, "out of memory for the plans");
    goto out;
  }
  st = np_bench_step(&how, &timing);
  if (how.plans) fclose(how.plans); /* then `plans` holds them */
  NP_TRY(st);
  bool json = np_cli_flag(options, "json");
  if (json) print_json(&timing, recipe->train.batch);
  else print_table(&timing, recipe->train.batch);
  if (plans) fprintf(json ? stderr : stdout, "%s", plans);
out:
  free(plans);
  np_recipe_free(recipe);
  return st;
}

int np_cli_bench_step(int argc, char **argv) { return np_cli_run(&usage, argc, argv, bench); }
