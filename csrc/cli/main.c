#include "cli/cli.h"
#include "dist/launch.h"
#include "util/build.h"
#include "util/log.h"
#include "util/nearest.h"
#include "util/status.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct command {
  const char *name, *meaning;
  int (*run)(int argc, char **argv);
  bool ranks; /* several processes may run it together */
} commands[] = {
    {"pretrain", "pretrain a model on images in folders or tars; goes on where it was stopped", np_cli_pretrain, true},
    {"probe", "train attentive heads on a frozen trunk and score them", np_cli_probe, true},
    {"eval", "score a trained probe on labelled images", np_cli_eval, true},
    {"loss", "the pixel loss of images a model was not trained on", np_cli_loss, true},
    {"features", "write the features of images as .npy", np_cli_features, true},
    {"complete", "continue an image from its first patches, as a picture", np_cli_complete, false},
    {"plan", "parameters, FLOPs and memory of a recipe, before anything runs", np_cli_plan, false},
    {"inspect", "what a checkpoint or a weight file holds", np_cli_inspect, false},
    {"report", "write a run's report.html", np_cli_report, false},
    {"synth", "make a labelled set of textured shapes to try things on", np_cli_synth, false},
    {"bench", "how fast this machine trains", np_cli_bench, true},
    {"doctor", "what was built in and what this machine has", np_cli_doctor, true},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *to) {
  fprintf(to, "usage: nextpatch COMMAND [ARGUMENT ...] [key=value ...]\n\n"
              "Pretrains autoregressive image models (AIM) and probes them.\n\ncommands:\n");
  for (int i = 0; i < COMMANDS; i++) fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].meaning);
  fprintf(to, "\n'nextpatch COMMAND --help' tells more, with examples; 'nextpatch --version' prints the version.\n\n"
              "exit status: 0 done, 1 error, 2 wrong command line or recipe, 75 stopped by a signal after saving\n\n"
              "example:\n"
              "  nextpatch synth images && nextpatch pretrain recipes/demo.yaml data.train=images/train \\\n"
              "    run.dir=runs/demo\n");
}

static np_status find(const char *name, const struct command **out) {
  const char *names[COMMANDS];
  for (int i = 0; i < COMMANDS; i++) {
    names[i] = commands[i].name;
    if (!strcmp(name, names[i])) {
      *out = &commands[i];
      return NP_OK;
    }
  }
  const char *near = np_nearest(name, names, COMMANDS);
  if (near) return np_error(NP_ERR_ARGUMENT, "unknown command '%s' (did you mean '%s'?)", name, near);
  return np_error(NP_ERR_ARGUMENT, "unknown command '%s'; 'nextpatch --help' lists the commands", name);
}

static np_status run(int argc, char **argv) {
  const struct command *command = NULL;
  np_status st;
  if (argc < 2) {
    st = np_error(NP_ERR_ARGUMENT, "needs a command; 'nextpatch --help' lists them");
  } else if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
    print_help(stdout);
    st = NP_OK;
  } else if (!strcmp(argv[1], "--version")) {
    printf("nextpatch %s (%s)\n", np_build_version(), np_build_commit());
    st = NP_OK;
  } else if ((st = find(argv[1], &command)) == NP_OK && (command->ranks || (st = np_launch_single(argv[1])) == NP_OK)) {
    st = (np_status)command->run(argc - 1, argv + 1);
  }
  /* A result that never reached its file (full disk) is an error although everything before went well. */
  if ((fflush(stdout) || ferror(stdout)) && st == NP_OK)
    st = np_error(NP_ERR_IO, "cannot write standard output: %s", strerror(errno));
  return st;
}

int main(int argc, char **argv) {
  signal(SIGXFSZ, SIG_IGN); /* a limit on file size is then an error of write, like a full disk, and not a kill */
  np_status st = run(argc, argv);
  switch (st) {
  case NP_OK:
    return NP_EXIT_OK;
  case NP_ERR_INTERRUPTED:
    np_log_end("stopped", np_error_message());
    return NP_EXIT_REQUEUE;
  default:
    np_log_end("error", np_error_message());
  }
  return st == NP_ERR_ARGUMENT ? NP_EXIT_USAGE : NP_EXIT_ERROR;
}
