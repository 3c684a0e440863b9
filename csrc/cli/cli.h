/* The subcommands: one file each, csrc/cli/NAME.c, one line each in main.c's table.
 *
 * A subcommand parses its words (cli/options.h), calls the library, prints results on standard output. argv[0] is its
 * name. It returns an np_status with the message set (np_error); main prints that one line and turns it into the exit
 * status. */
#ifndef NP_CLI_CLI_H
#define NP_CLI_CLI_H

/* Exit statuses of the program. */
enum {
  NP_EXIT_OK = 0,
  NP_EXIT_ERROR = 1,
  NP_EXIT_USAGE = 2, /* NP_ERR_ARGUMENT: the command line or the recipe asks for what cannot be */
  NP_EXIT_REQUEUE =
      75, /* NP_ERR_INTERRUPTED: stopped by a signal after saving; the same command goes on from there (EX_TEMPFAIL) */
};

int np_cli_pretrain(int argc, char **argv);
int np_cli_probe(int argc, char **argv);
int np_cli_eval(int argc, char **argv);
int np_cli_loss(int argc, char **argv);
int np_cli_features(int argc, char **argv);
int np_cli_complete(int argc, char **argv);
int np_cli_plan(int argc, char **argv);
int np_cli_inspect(int argc, char **argv);
int np_cli_report(int argc, char **argv);
int np_cli_synth(int argc, char **argv);
int np_cli_bench(int argc, char **argv);
int np_cli_doctor(int argc, char **argv);

#endif
