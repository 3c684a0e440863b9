#include "data/synth.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <stdio.h>

static const np_cli_word keys[] = {
    {"classes", "how many shapes, 2..16 (10)"},
    {"train", "images in FOLDER/train (6000)"},
    {"val", "images in FOLDER/val (1000)"},
    {"size", "height and width in pixels, 8..1024 (32)"},
    {"shards", "write so many tars in each of FOLDER/train and FOLDER/val, in place of class folders (0: folders)"},
    {"seed", "another seed gives another set of the same kind (0)"},
    {NULL, NULL},
};

static const np_cli_usage usage = {
    .name = "synth",
    .arguments = "FOLDER [KEY=VALUE ...]",
    .text = "Make a labelled set of textured shapes: FOLDER/train and FOLDER/val with class folders of PNG files.\n"
            "Colour, texture, place, size and rotation are drawn alike for every class: only the shape tells it.\n"
            "A folder that holds the set already is left as it is; one that was interrupted is finished.\n",
    .examples = "  nextpatch synth images\n"
                "  nextpatch synth large classes=16 train=20000 val=2000 size=64 seed=7\n"
                "  nextpatch synth shards shards=4\n",
    .least = 1,
    .most = 1,
    .keys = keys,
};

static np_status run(const np_cli_options *options) {
  np_status st = NP_OK;
  int64_t classes = 10, train = 6000, val = 1000, size = 32, seed = 0, shards = 0;
  bool made;
  NP_TRY(np_cli_integer(options, "classes", 2, NP_SYNTH_CLASSES, &classes));
  NP_TRY(np_cli_integer(options, "train", 0, 10000000, &train));
  NP_TRY(np_cli_integer(options, "val", 0, 10000000, &val));
  NP_TRY(np_cli_integer(options, "size", 8, 1024, &size));
  NP_TRY(np_cli_integer(options, "shards", 0, 99999, &shards));
  NP_TRY(np_cli_integer(options, "seed", 0, INT64_MAX, &seed));
  const np_synth_options set = {.classes = (int)classes,
                                .train = train,
                                .val = val,
                                .size = (int)size,
                                .seed = (uint64_t)seed,
                                .shards = (int)shards};
  NP_TRY(np_synth_make(options->positional[0], &set, &made));
  printf("%s %s: %lld training and %lld validation images of %d classes, %d x %d\n", made ? "made" : "already there,",
         options->positional[0], (long long)train, (long long)val, set.classes, set.size, set.size);
out:
  return st;
}

int np_cli_synth(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
