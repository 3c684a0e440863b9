#include "cli/cli.h"
#include "cli/options.h"

#include "recipe/recipe.h"
#include "train/pretrain.h"
#include "util/file.h"

#include <stdlib.h>
#include <string.h>

static const np_cli_usage usage = {
    .name = "pretrain",
    .arguments = "RECIPE [KEY=VALUE ...]",
    .text =
        "Pretrain a model as the recipe says. A run that was stopped goes on from its newest checkpoint: give the "
        "same\n"
        "command again. Started several times by torchrun, mpirun or srun, the processes share each batch: one a GPU.\n"
        "SIGTERM, SIGUSR1 and ^C finish the step, write a checkpoint and leave with status 75.\n\n"
        "The run folder (run.dir) then holds recipe.yaml, run.json, metrics.jsonl, TensorBoard event files and\n"
        "checkpoints/step-N/model.safetensors.\n",
    .examples =
        "  nextpatch pretrain recipes/demo.yaml data.train=images/train run.dir=runs/demo\n"
        "  nextpatch pretrain recipes/aim_600m.yaml data.train=/data/imagenet/train run.dir=runs/600m\n"
        "  mpirun -np 8 nextpatch pretrain recipes/aim_600m.yaml data.train=/data/imagenet/train run.dir=runs/600m\n"
        "  nextpatch pretrain runs/600m/recipe.yaml checkpoint.fallback=true\n",
    .least = 1,
    .most = 1,
    .recipe = true,
};

/* The words as typed, those with blanks or quotes in quotes. malloc'ed. */
static char *command_text(int argc, char **argv) {
  char *text = np_format("nextpatch");
  for (int i = 0; i < argc; i++) {
    const char *quote = argv[i][0] && !strpbrk(argv[i], " \t\n'\"\\$*?[]&|;<>()") ? "" : "'";
    char *longer = np_format("%s %s%s%s", text, quote, argv[i], quote);
    free(text);
    text = longer;
  }
  return text;
}

static np_status run(const np_cli_options *options) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  char *command = NULL;
  NP_TRY(np_recipe_load_to_train(options->positional[0], options->overrides, options->override_count, &recipe));
  command = command_text(options->argc, options->argv);
  st = np_pretrain(recipe, command);
out:
  free(command);
  np_recipe_free(recipe);
  return st;
}

int np_cli_pretrain(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
