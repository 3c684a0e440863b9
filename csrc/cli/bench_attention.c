#include "bench/attention.h"
#include "cli/bench.h"
#include "cli/options.h"
#include "ops/choose.h"
#include "ops/cuda.h"
#include "recipe/recipe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const np_cli_word keys[] = {
    {"tokens", "numbers of tokens of an image, separated by commas (196,256,576,1024)"},
    {"head_width", "widths of a head, separated by commas (64,128)"},
    {"width", "width of the model: it has width / head_width heads (1536; cpu: 256)"},
    {"rows", "tokens of all images together: as many images as hold them (65536; cpu: 2048)"},
    {"images", "images, whatever the tokens; 0: from rows (0)"},
    {"runs", "timed runs of a case in a round (20; cpu: 2)"},
    {"warmup", "runs before them (5; cpu: 1)"},
    {"rounds", "rounds in which all versions and masks of a shape take turns (3; cpu: 2)"},
    {"rotate_mb", "megabytes of buffers that runs take turns on: more than the cache holds (256; cpu: 64)"},
    {NULL, NULL}};
static const np_cli_word flags[] = {{"json", "a JSON line a case instead of the table"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "bench attention",
    .arguments = "[KEY=VALUE ...] [--json]",
    .text =
        "Time the attention operator, forward and backward, with prefix lengths drawn uniformly from 1..N-1 (prefix),\n"
        "causal and full. TFLOP/s count the query-key pairs the mask allows: 4 FLOPs a pair and head width forward,\n"
        "10 backward. Ratio: seconds of the baseline with full mask, over seconds. The baseline is cuDNN on a GPU,\n"
        "where it is found, and else this operator itself.\n",
    .examples = "  nextpatch bench attention\n"
                "  nextpatch bench attention tokens=256 head_width=128 runs=100 --json\n"
                "  nextpatch bench attention backend=cpu precision=fp32 threads=2 images=4 width=768\n",
    .most = 0,
    .keys = keys,
    .flags = flags,
    .recipe = true,
};

/* "196,256" → out, count. */
static np_status parse_list(const np_cli_options *options, const char *key, int least, int most, int *out, int *count) {
  const char *text = np_cli_value(options, key, NULL);
  if (!text) return NP_OK;
  *count = 0;
  for (const char *at = text;; at++) {
    char *end;
    errno = 0;
    long value = strtol(at, &end, 10);
    if (end == at || errno || value < least || value > most || (*end && *end != ',') || *count == NP_BENCH_GRID)
      return np_error(NP_ERR_ARGUMENT,
                      "bench attention: %s=%s: expected at most %d whole numbers from %d to %d, separated by commas",
                      key, text, NP_BENCH_GRID, least, most);
    out[(*count)++] = (int)value;
    if (!*end) return NP_OK;
    at = end;
  }
}

static np_status parse_int(const np_cli_options *options, const char *key, int64_t least, int64_t most, int *out) {
  int64_t value = *out;
  np_status st = np_cli_integer(options, key, least, most, &value);
  *out = (int)value;
  return st;
}

static np_status parse(const np_cli_options *options, bool cpu, np_attention_bench *b) {
  np_status st = NP_OK;
  *b = (np_attention_bench){.tokens = {196, 256, 576, 1024},
                            .tokens_count = 4,
                            .head_width = {64, 128},
                            .head_width_count = 2,
                            .width = cpu ? 256 : 1536,
                            .rows = cpu ? 2048 : 65536,
                            .runs = cpu ? 2 : 20,
                            .warmup = cpu ? 1 : 5,
                            .rounds = cpu ? 2 : 3};
  int megabytes = cpu ? 64 : 256;
  NP_TRY(parse_list(options, "tokens", 1, 65536, b->tokens, &b->tokens_count));
  NP_TRY(parse_list(options, "head_width", 8, 256, b->head_width, &b->head_width_count));
  NP_TRY(parse_int(options, "width", 8, 65536, &b->width));
  NP_TRY(parse_int(options, "rows", 1, 1 << 24, &b->rows));
  NP_TRY(parse_int(options, "images", 0, 1 << 20, &b->images));
  NP_TRY(parse_int(options, "runs", 1, 10000, &b->runs));
  NP_TRY(parse_int(options, "warmup", 0, 10000, &b->warmup));
  NP_TRY(parse_int(options, "rounds", 1, 1000, &b->rounds));
  NP_TRY(parse_int(options, "rotate_mb", 0, 1 << 20, &megabytes));
  b->rotation = 1e6 * megabytes;
out:
  return st;
}

static void print_json(const np_attention_row *r, void *context) {
  (void)context;
  printf("{\"program\": \"nextpatch\", \"version\": \"%s\", \"mask\": \"%s\", \"pass\": \"%s\", \"precision\": \"%s\", "
         "\"images\": %d, \"tokens\": %d, \"heads\": %d, \"head_width\": %d, ",
         r->version, r->mask, r->pass, np_precision_name(r->act), r->batch, r->tokens, r->heads, r->head_width);
  if (r->refused) {
    printf("\"failure\": \"%s\"}\n", r->why);
    fflush(stdout); /* what stands is told, should the rest not come */
    return;
  }
  printf("\"pairs\": %.9g, \"median_s\": %.6g, \"p99_s\": %.6g, \"min_s\": %.6g, \"runs\": %d, \"tflops_per_s\": %.6g, "
         "\"gbytes_per_s\": %.6g, \"ratio\": %.4g, \"baseline\": \"%s\", \"why\": \"%s\"}\n",
         r->pairs, r->time.median, r->time.p99, r->time.least, r->time.runs, r->flops / r->time.median / 1e12,
         r->bytes / r->time.median / 1e9, r->ratio, r->baseline, r->why);
  fflush(stdout);
}

/* The shape that the table is at. */
typedef struct table {
  int tokens, head_width;
} table;

static void print_line(const np_attention_row *r, void *context) {
  table *at = context;
  if (at->tokens != r->tokens || at->head_width != r->head_width) {
    *at = (table){r->tokens, r->head_width};
    printf("\nN = %d, d = %d: %d images, %d heads; %s (%s); ratio to the full mask of %s\n", r->tokens, r->head_width,
           r->batch, r->heads, r->version, r->why, r->baseline);
    printf("%-8s %-6s %-8s %10s %10s %8s %8s %6s\n", "pass", "mask", "version", "median ms", "p99 ms", "TFLOP/s",
           "GB/s", "ratio");
  }
  if (r->refused) printf("%-8s %-6s %-8s refused: %s\n", r->pass, r->mask, r->version, r->why);
  else
    printf("%-8s %-6s %-8s %10.4g %10.4g %8.4g %8.4g %6.2f\n", r->pass, r->mask, r->version, r->time.median * 1e3,
           r->time.p99 * 1e3, r->flops / r->time.median / 1e12, r->bytes / r->time.median / 1e9, r->ratio);
  fflush(stdout);
}

/* The version that training would run, and on a GPU in bf16 the portable one and cuDNN's beside it. */
static np_status open_versions(const np_recipe *recipe, const np_ops_choice *choice, np_attention_bench *b) {
  np_status st = NP_OK;
  np_cuda_options portable = {.act = NP_BF16, .device = recipe->device, .attention = NP_ATTENTION_PORTABLE};
  NP_TRY(np_ops_open(recipe, choice, &b->version[0].ops));
  b->versions = 1;
  if (choice->backend != NP_BACKEND_CUDA || choice->act != NP_BF16) return NP_OK;
  portable.share = b->version[0].ops;
  NP_TRY(np_ops_cuda(&portable, &b->version[1].ops));
  b->version[2] = (np_attention_version){.ops = b->version[0].ops, .cudnn = true};
  b->versions = 3;
out:
  return st;
}

static void close_versions(np_attention_bench *b) {
  for (int v = b->versions - 1; v >= 0; v--) /* cuDNN's stands on the first one's table */
    if (!b->version[v].cudnn) b->version[v].ops->destroy(b->version[v].ops);
}

static np_status bench(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  np_attention_bench b = {0};
  np_ops_choice choice;
  table none = {0, 0};
  bool json = np_cli_flag(options, "json");
  NP_TRY(np_recipe_load(NULL, options->overrides, options->override_count, &recipe));
  if (recipe->attention == NP_ATTENTION_CUDNN) {
    st = np_error(NP_ERR_ARGUMENT,
                  "bench attention: attention=cudnn: cuDNN is measured beside the others; allowed: auto, "
                  "portable, hopper");
    goto out;
  }
  NP_TRY(np_ops_choose(recipe, &choice));
  NP_TRY(parse(options, choice.backend == NP_BACKEND_CPU, &b));
  b.seed = recipe->seed;
  NP_TRY(open_versions(recipe, &choice, &b));
  if (!json) printf("attention on %s, %s (%s)\n", choice.hardware, np_precision_name(choice.act), choice.why);
  NP_TRY(np_bench_attention(&b, json ? print_json : print_line, &none));
out:
  close_versions(&b);
  np_recipe_free(recipe);
  return st;
}

int np_cli_bench_attention(int argc, char **argv) { return np_cli_run(&usage, argc, argv, bench); }
