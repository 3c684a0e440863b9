#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_usage usage = {
    .name = "synth",
    .arguments = "FOLDER [KEY=VALUE ...]",
    .text = "Make a labelled set of textured shapes: FOLDER/train and FOLDER/val with class folders of PNG files.\n",
    .examples = "  nextpatch synth images\n",
    .least = 1,
    .most = 1,
};

int np_cli_synth(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "synth is not in this build");
out:
  np_cli_free(&options);
  return st;
}
