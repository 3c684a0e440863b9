#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_word keys[] = {{"out", "file to write (features.npy)"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "features",
    .arguments = "RUN_OR_WEIGHTS IMAGES [out=FILE] [KEY=VALUE ...]",
    .text = "Write the trunk's features of every image of a folder as a NumPy array.\n",
    .examples = "  nextpatch features runs/600m images/ out=features.npy\n",
    .least = 2,
    .most = 2,
    .keys = keys,
    .recipe = true,
};

int np_cli_features(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "features is not in this build");
out:
  np_cli_free(&options);
  return st;
}
