#include "bench/ops.h"
#include "cli/bench.h"
#include "cli/options.h"
#include "ops/choose.h"
#include "recipe/recipe.h"

#include <stdio.h>
#include <string.h>

static const np_cli_word keys[] = {
    {"images", "images of a pass (256; cpu: 4)"},
    {"parameters", "elements of a slice the optimiser takes (67108864; cpu: 4194304)"},
    {"runs", "timed runs of an operator (50; cpu: 10)"},
    {"warmup", "runs before them (5; cpu: 2)"},
    {"calls", "of an operator in a run, one behind the other; 0: as many as move a gigabyte (0; cpu: 1)"},
    {"rotate_mb", "megabytes of buffers that runs take turns on (256)"},
    {NULL, NULL}};
static const np_cli_word flags[] = {{"json", "a JSON line an operator instead of the table"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "bench ops",
    .arguments = "[KEY=VALUE ...] [--json]",
    .text = "Time the memory-bound operators at the shapes of AIM-0.6B (model.* keys change them): bytes moved, GB/s, "
            "and the\n"
            "share of the rate at which this device copies float32. Bytes: inputs read once, outputs written once.\n",
    .examples = "  nextpatch bench ops\n"
                "  nextpatch bench ops images=2 threads=2 precision=fp32 --json\n",
    .most = 0,
    .keys = keys,
    .flags = flags,
    .recipe = true,
};

static np_status parse(const np_cli_options *options, bool cpu, np_ops_bench *b) {
  np_status st = NP_OK;
  int64_t images = cpu ? 4 : 256, runs = cpu ? 10 : 50, warmup = cpu ? 2 : 5, megabytes = 256, calls = cpu;
  b->parameters = cpu ? 1 << 22 : 1 << 26;
  NP_TRY(np_cli_integer(options, "images", 1, 65536, &images));
  NP_TRY(np_cli_integer(options, "parameters", 1, (int64_t)1 << 34, &b->parameters));
  NP_TRY(np_cli_integer(options, "runs", 1, 10000, &runs));
  NP_TRY(np_cli_integer(options, "warmup", 0, 10000, &warmup));
  NP_TRY(np_cli_integer(options, "calls", 0, 10000, &calls));
  NP_TRY(np_cli_integer(options, "rotate_mb", 0, 1 << 20, &megabytes));
  b->images = (int)images, b->runs = (int)runs, b->warmup = (int)warmup, b->calls = (int)calls;
  b->rotation = 1e6 * (double)megabytes;
out:
  return st;
}

static void print_json(const np_ops_row *r, void *context) {
  printf("{\"program\": \"nextpatch\", \"operator\": \"%s\", \"precision\": \"%s\", \"rows\": %lld, \"width\": %d, "
         "\"bytes\": %.6g, \"median_s\": %.6g, \"p99_s\": %.6g, \"min_s\": %.6g, \"runs\": %d, \"calls\": %d, "
         "\"gbytes_per_s\": %.6g, "
         "\"share_of_copy\": %.4g}\n",
         r->name, (const char *)context, (long long)r->rows, r->width, r->bytes, r->time.median, r->time.p99,
         r->time.least, r->time.runs, r->calls, r->bytes / r->time.median / 1e9, r->share);
  fflush(stdout);
}

static void print_line(const np_ops_row *r, void *context) {
  (void)context;
  printf("%-14s %10lld %6d %10.4g %10.4g %10.4g %8.4g %7.1f %%\n", r->name, (long long)r->rows, r->width,
         r->bytes / 1e6, r->time.median * 1e3, r->time.p99 * 1e3, r->bytes / r->time.median / 1e9, 100 * r->share);
  fflush(stdout);
}

static np_status bench(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  np_ops_bench b = {0};
  np_ops_choice choice;
  NP_TRY(np_recipe_load(NULL, options->overrides, options->override_count, &recipe));
  NP_TRY(np_ops_choose(recipe, &choice));
  NP_TRY(np_ops_open(recipe, &choice, &b.ops));
  NP_TRY(np_ops_open_f32(recipe, b.ops, &b.copy));
  NP_TRY(parse(options, !strcmp(b.ops->name, "cpu"), &b));
  b.model = &recipe->model, b.seed = recipe->seed;
  char precision[8];
  snprintf(precision, sizeof precision, "%s", np_precision_name(b.ops->act));
  if (np_cli_flag(options, "json")) {
    NP_TRY(np_bench_ops(&b, print_json, precision));
  } else {
    printf("memory-bound operators on %s, %s, %d images\n", choice.hardware, precision, b.images);
    printf("%-14s %10s %6s %10s %10s %10s %8s %9s\n", "operator", "rows", "width", "MB", "median ms", "p99 ms", "GB/s",
           "of copy");
    NP_TRY(np_bench_ops(&b, print_line, NULL));
  }
out:
  if (b.copy) b.copy->destroy(b.copy);
  if (b.ops) b.ops->destroy(b.ops);
  np_recipe_free(recipe);
  return st;
}

int np_cli_bench_ops(int argc, char **argv) { return np_cli_run(&usage, argc, argv, bench); }
