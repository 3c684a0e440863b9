#include "train/report.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "util/file.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SCORES = 16 };

static const np_cli_word keys[] = {
    {"out", "file to write (RUN/report.html)"},
    {"probe", "result of a probe of the run's trunk, *.json (every RUN/probe*.json)"},
    {"random", "result of a probe of a random trunk, *.json (likewise)"},
    {NULL, NULL},
};
static const np_cli_usage usage = {
    .name = "report",
    .arguments = "RUN [out=FILE] [probe=RESULT.json] [random=RESULT.json]",
    .text = "Write a run as one HTML file: loss curve, settings, accuracies of probes.\n",
    .examples = "  nextpatch report runs/demo\n"
                "  nextpatch report runs/600m out=600m.html probe=runs/600m/probe.json\n",
    .least = 1,
    .most = 1,
    .keys = keys,
};

/* The results named on the command line, else those that `nextpatch probe` left in the run folder. */
static np_status read_scores(const np_cli_options *options, np_report_score *scores, int *count) {
  np_status st = NP_OK;
  const char *given[] = {np_cli_value(options, "probe", NULL), np_cli_value(options, "random", NULL)};
  char *pattern = np_path_join(options->positional[0], "probe*.json");
  glob_t found = {0};
  *count = 0;
  for (int i = 0; i < 2; i++)
    if (given[i]) NP_TRY(np_report_read_score(given[i], &scores[(*count)++]));
  if (*count > 0) goto out;
  if (glob(pattern, 0, NULL, &found) != 0) goto out;
  for (size_t i = 0; i < found.gl_pathc && *count < MOST_SCORES; i++)
    NP_TRY(np_report_read_score(found.gl_pathv[i], &scores[(*count)++]));
out:
  globfree(&found);
  free(pattern);
  return st;
}

static np_status run(const np_cli_options *options) {
  np_status st = NP_OK;
  np_report_score scores[MOST_SCORES];
  np_report_content content = {.run = options->positional[0], .scores = scores};
  char *fallback = np_path_join(content.run, "report.html");
  const char *out = np_cli_value(options, "out", fallback);
  NP_TRY(read_scores(options, scores, &content.score_count));
  NP_TRY(np_report_write(out, &content));
  printf("%s\n", out);
out:
  free(fallback);
  return st;
}

int np_cli_report(int argc, char **argv) {
  np_cli_options options;
  np_status st;
  NP_TRY(np_cli_parse(&usage, argc, argv, &options));
  if (!options.help) st = run(&options);
out:
  np_cli_free(&options);
  return st;
}
