#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_word keys[] = {{"out", "file to write (complete.png)"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "complete",
    .arguments = "RUN_OR_WEIGHTS IMAGE [out=FILE] [KEY=VALUE ...]",
    .text = "Continue an image from its first patches and draw given, predicted and true patches.\n",
    .examples = "  nextpatch complete runs/600m image.png out=completed.png\n",
    .least = 2,
    .most = 2,
    .keys = keys,
    .recipe = true,
};

int np_cli_complete(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "complete is not in this build");
out:
  np_cli_free(&options);
  return st;
}
