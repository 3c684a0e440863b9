#include "cli/cli.h"
#include "cli/options.h"

#include <stddef.h>

static const np_cli_usage usage = {
    .name = "report",
    .arguments = "RUN",
    .text = "Write the run's report.html: loss curve, settings, accuracies, pictures of predicted patches.\n",
    .examples = "  nextpatch report runs/demo\n",
    .least = 1,
    .most = 1,
};

int np_cli_report(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = np_error(NP_ERR_ARGUMENT, "report is not in this build");
out:
  np_cli_free(&options);
  return st;
}
