#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_word keys[] = {{"gpus", "GPUs that share the work (1)"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "plan",
    .arguments = "RECIPE [gpus=N] [KEY=VALUE ...]",
    .text = "Print parameters, FLOPs an image, memory by kind and checkpoint size, without touching data.\n",
    .examples = "  nextpatch plan recipes/aim_7b.yaml gpus=512\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .recipe = true,
};

int np_cli_plan(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "plan is not in this build");
out:
  np_cli_free(&options);
  return st;
}
