/* One command line grammar for every subcommand:
 *
 *   nextpatch NAME [ARGUMENT ...] [key=value ...] [--flag] [--help]
 *
 * A word is key=value when what stands before the first '=' looks like a key: letters, digits, '_' and '.', a letter
 * first. (A file of such a name is written ./a=b, or stands behind "--", which ends keys and flags.) */
#ifndef NP_CLI_OPTIONS_H
#define NP_CLI_OPTIONS_H

#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

/* A key or a flag of one subcommand. */
typedef struct np_cli_word {
  const char *name;    /* "gpus", or for a flag "json" without its dashes; a table ends with name NULL */
  const char *meaning; /* with its default, for --help */
} np_cli_word;

/* What a subcommand takes: a static table; --help is printed from it. */
typedef struct np_cli_usage {
  const char *name;         /* "plan" */
  const char *arguments;    /* "RECIPE [gpus=N] [KEY=VALUE ...]" */
  const char *text;         /* what it does, lines ended by '\n' */
  const char *examples;     /* commands that work, one a line, ended by '\n'; printed indented as given */
  int least, most;          /* positional arguments; most < 0: any number */
  const np_cli_word *keys;  /* keys of its own; NULL: none */
  const np_cli_word *flags; /* flags beside --help; NULL: none */
  bool recipe;         /* other keys are the recipe's: they are collected, the recipe checks them, --help lists them */
  const char *section; /* --help lists only this section of the recipe; NULL: all of it */
} np_cli_usage;

typedef struct np_cli_options {
  const np_cli_usage *usage;
  int argc; /* the words as given, argv[0] the subcommand's name */
  char **argv;
  const char **positional;
  int positional_count;
  const char **overrides; /* "key=value" for np_recipe_load, in their order */
  int override_count;
  const char **own; /* "key=value" of the subcommand's own keys and "--flag", in their order */
  int own_count;
  bool help; /* --help was given and has been printed: the subcommand returns NP_OK at once */
} np_cli_options;

/* A whole subcommand: sort argv[1..] (argv[0] is its name) and hand over to `body`, or print --help where it stands
 * anywhere. NP_ERR_ARGUMENT for an unknown flag or key (with the nearest known one) and for too many or few arguments.
 */
np_status np_cli_run(const np_cli_usage *usage, int argc, char **argv,
                     np_status (*body)(const np_cli_options *options));

/* The last value given to one of the subcommand's own keys; `missing` when it was not given. */
const char *np_cli_value(const np_cli_options *options, const char *key, const char *missing);
/* The same as a whole number, *out unchanged when not given; NP_ERR_ARGUMENT unless least <= value <= most. */
np_status np_cli_integer(const np_cli_options *options, const char *key, int64_t least, int64_t most, int64_t *out);
/* The same as a finite number. */
np_status np_cli_number(const np_cli_options *options, const char *key, double least, double most, double *out);
bool np_cli_flag(const np_cli_options *options, const char *flag);

#endif
