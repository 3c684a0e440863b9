#include "bench/allreduce.h"
#include "cli/bench.h"
#include "cli/options.h"
#include "dist/open.h"
#include "recipe/recipe.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const whats[] = {
    [NP_ALLREDUCE_SUM] = "sum", [NP_ALLREDUCE_SCATTER] = "scatter", [NP_ALLREDUCE_GATHER] = "gather"};
static const np_cli_word keys[] = {{"what", "sum, or one of its halves: scatter (each rank a piece of it), gather (the "
                                            "pieces to all); default sum. With MPI scatter is the whole sum"},
                                   {"least_kb", "kibibytes of the smallest slice (64)"},
                                   {"most_mb", "mebibytes of the largest (256; cpu: 16)"},
                                   {"runs", "timed sums of a size (20)"},
                                   {"warmup", "sums before them (5)"},
                                   {NULL, NULL}};
static const np_cli_word flags[] = {{"json", "a JSON line a size instead of the table"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "bench allreduce",
    .arguments = "[KEY=VALUE ...] [--json]",
    .text = "Time sums of float32 over the ranks of a run, as the gradients of a step are added up: NCCL between GPUs, "
            "MPI\n"
            "between CPU ranks. Start it as a run is started. GB/s are those that each rank's link carries at least,\n"
            "2(n-1)/n of the slice in its time; a step sums slices of train.slice_mb or more. With train.shard: optim "
            "a step\n"
            "scatters the sums and gathers the weights, half as many bytes each (a quarter in bf16).\n",
    .examples = "  mpirun -np 8 nextpatch bench allreduce\n"
                "  srun nextpatch bench allreduce most_mb=1024 --json\n"
                "  mpirun -np 8 nextpatch bench allreduce what=scatter\n"
                "  torchrun --no-python --nproc-per-node 8 nextpatch bench allreduce\n",
    .most = 0,
    .keys = keys,
    .flags = flags,
    .recipe = true,
};

typedef struct table {
  int rank, world;
  bool json;
  const char *what;
  const char *hardware;
} table;

static void print(const np_allreduce_row *r, void *context) {
  const table *t = context;
  if (t->rank > 0) return;
  if (t->json)
    printf("{\"program\": \"nextpatch\", \"what\": \"%s\", \"hardware\": \"%s\", \"ranks\": %d, \"bytes\": %.0f, "
           "\"median_s\": %.6g, "
           "\"p99_s\": %.6g, \"min_s\": %.6g, \"runs\": %d, \"gbytes_per_s\": %.6g}\n",
           t->what, t->hardware, t->world, r->bytes, r->time.median, r->time.p99, r->time.least, r->time.runs,
           r->bus / 1e9);
  else
    printf("%12.2f %12.4g %12.4g %10.4g\n", r->bytes / 1048576, r->time.median * 1e3, r->time.p99 * 1e3, r->bus / 1e9);
  fflush(stdout);
}

static np_status find_what(const char *text, np_allreduce_what *out) {
  for (size_t i = 0; i < sizeof whats / sizeof *whats; i++) {
    if (strcmp(whats[i], text) != 0) continue;
    *out = (np_allreduce_what)i;
    return NP_OK;
  }
  return np_error(NP_ERR_ARGUMENT, "bench allreduce: what=%s: expected sum, scatter or gather", text);
}

static np_status bench(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  np_launch launch;
  np_ops_choice choice;
  np_allreduce_bench b = {0};
  int64_t kilobytes = 64, megabytes, runs = 20, warmup = 5;
  NP_TRY(np_launch_detect(&launch));
  if (launch.world == 1) {
    st = np_error(NP_ERR_ARGUMENT,
                  "bench allreduce: one process has nobody to sum with; start several, with mpirun, srun "
                  "or torchrun");
    goto out;
  }
  NP_TRY(np_recipe_load(NULL, options->overrides, options->override_count, &recipe));
  NP_TRY(np_ranks_open(recipe, &launch, &choice, &b.ops, &b.comm));
  megabytes = choice.backend == NP_BACKEND_CPU ? 16 : 256;
  st = find_what(np_cli_value(options, "what", "sum"), &b.what);
  if (st == NP_OK) st = np_cli_integer(options, "least_kb", 1, 1 << 20, &kilobytes);
  if (st == NP_OK) st = np_cli_integer(options, "most_mb", 1, 1 << 16, &megabytes);
  if (st == NP_OK) st = np_cli_integer(options, "runs", 1, 10000, &runs);
  if (st == NP_OK) st = np_cli_integer(options, "warmup", 0, 10000, &warmup);
  if (st == NP_OK && kilobytes << 10 < launch.world * (int64_t)sizeof(float))
    st = np_error(NP_ERR_ARGUMENT, "least_kb=%lld: expected at least one value for each of %d ranks",
                  (long long)kilobytes, launch.world);
  if (st == NP_OK && kilobytes > megabytes << 10)
    st = np_error(NP_ERR_ARGUMENT, "least_kb=%lld: expected at most the largest slice, most_mb=%lld",
                  (long long)kilobytes, (long long)megabytes);
  NP_TRY(np_comm_settle(b.comm, st));
  b.least = kilobytes << 10, b.most = megabytes << 20, b.runs = (int)runs, b.warmup = (int)warmup;
  table t = {launch.rank, launch.world, np_cli_flag(options, "json"), whats[b.what], choice.hardware};
  if (launch.rank == 0 && !t.json) {
    printf("%s over %d ranks, %s on each\n", t.what, launch.world, choice.hardware);
    printf("%12s %12s %12s %10s\n", "MiB", "median ms", "p99 ms", "GB/s");
  }
  st = np_bench_allreduce(&b, print, &t);
out:
  np_comm_close(b.comm);
  if (b.ops) b.ops->destroy(b.ops);
  np_recipe_free(recipe);
  return st;
}

int np_cli_bench_allreduce(int argc, char **argv) { return np_cli_run(&usage, argc, argv, bench); }
