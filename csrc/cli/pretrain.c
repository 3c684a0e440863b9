#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_usage usage = {
    .name = "pretrain",
    .arguments = "RECIPE [KEY=VALUE ...]",
    .text = "Pretrain a model as the recipe says. A run that was stopped goes on from its newest checkpoint.\n",
    .examples = "  nextpatch pretrain recipes/demo.yaml\n"
                "  nextpatch pretrain recipes/aim_600m.yaml data.train=/data/imagenet/train run.dir=runs/600m\n",
    .least = 1,
    .most = 1,
    .recipe = true,
};

int np_cli_pretrain(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "pretrain is not in this build");
out:
  np_cli_free(&options);
  return st;
}
