#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_usage usage = {
    .name = "inspect",
    .arguments = "RUN_OR_FILE",
    .text = "List a checkpoint: tensors, shapes, types, step, recipe.\n",
    .examples = "  nextpatch inspect runs/600m\n"
                "  nextpatch inspect model.safetensors\n",
    .least = 1,
    .most = 1,
};

int np_cli_inspect(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "inspect is not in this build");
out:
  np_cli_free(&options);
  return st;
}
