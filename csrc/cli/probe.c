#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_word keys[] = {{"data", "folder with train/ and val/ class folders"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "probe",
    .arguments = "RUN_OR_WEIGHTS data=FOLDER [KEY=VALUE ...]",
    .text = "Train attentive heads on a frozen trunk; FOLDER holds train/ and val/ class folders.\n",
    .examples = "  nextpatch probe runs/600m data=/data/imagenet\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .recipe = true,
};

int np_cli_probe(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "probe is not in this build");
out:
  np_cli_free(&options);
  return st;
}
