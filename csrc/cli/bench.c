#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <string.h>

static const np_cli_usage usage = {
    .name = "bench",
    .arguments = "attention | ops | step ... ",
    .text = "Measure this machine; 'nextpatch bench NAME --help' says how.\n"
            "  attention  the attention operator, forward and backward, by shape and mask\n"
            "  ops        the memory-bound operators beside a copy\n"
            "  step       whole training steps of a recipe\n",
    .examples = "  nextpatch bench attention\n"
                "  nextpatch bench ops images=8\n"
                "  nextpatch bench step recipes/cifar10.yaml\n",
    .least = 1,
    .most = -1,
};

static np_status unknown(const np_cli_options *options) {
  return np_error(NP_ERR_ARGUMENT, "bench %s: no such bench; allowed: attention, ops, step", options->positional[0]);
}

int np_cli_bench(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
  } benches[] = {{"attention", np_cli_bench_attention}, {"ops", np_cli_bench_ops}, {"step", np_cli_bench_step}};
  for (size_t i = 0; argc > 1 && i < sizeof benches / sizeof *benches; i++)
    if (!strcmp(argv[1], benches[i].name)) return benches[i].run(argc - 1, argv + 1);
  return np_cli_run(&usage, argc, argv, unknown);
}
