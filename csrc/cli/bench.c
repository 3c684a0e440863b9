#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "dist/launch.h"

#include <string.h>

static const np_cli_usage usage = {
    .name = "bench",
    .arguments = "allreduce | attention | ops | step ... ",
    .text = "Measure this machine; 'nextpatch bench NAME --help' says how.\n"
            "  allreduce  sums over the ranks of a run, by size\n"
            "  attention  the attention operator, forward and backward, by shape and mask\n"
            "  ops        the memory-bound operators beside a copy\n"
            "  step       whole training steps of a recipe\n",
    .examples = "  mpirun -np 8 nextpatch bench allreduce\n"
                "  nextpatch bench attention\n"
                "  nextpatch bench ops images=8\n"
                "  nextpatch bench step recipes/cifar10.yaml\n",
    .least = 1,
    .most = -1,
};

static np_status unknown(const np_cli_options *options) {
  return np_error(NP_ERR_ARGUMENT, "bench %s: no such bench; allowed: allreduce, attention, ops, step",
                  options->positional[0]);
}

int np_cli_bench(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *command; /* that runs in one process; NULL: several may run it together */
  } benches[] = {{"allreduce", np_cli_bench_allreduce, NULL},
                 {"attention", np_cli_bench_attention, "bench attention"},
                 {"ops", np_cli_bench_ops, "bench ops"},
                 {"step", np_cli_bench_step, "bench step"}};
  for (size_t i = 0; argc > 1 && i < sizeof benches / sizeof *benches; i++) {
    if (strcmp(argv[1], benches[i].name) != 0) continue;
    np_status st = !benches[i].command ? NP_OK : np_launch_single(benches[i].command);
    return st == NP_OK ? benches[i].run(argc - 1, argv + 1) : (int)st;
  }
  return np_cli_run(&usage, argc, argv, unknown);
}
