#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_word keys[] = {{"data", "folder of class folders"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "eval",
    .arguments = "PROBE data=FOLDER [KEY=VALUE ...]",
    .text = "Score a trained probe on a folder of class folders.\n",
    .examples = "  nextpatch eval runs/600m/probe.safetensors data=/data/imagenet/val\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .recipe = true,
};

int np_cli_eval(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "eval is not in this build");
out:
  np_cli_free(&options);
  return st;
}
