#include "train/report.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "data/dataset.h"
#include "probe/complete.h"
#include "probe/open.h"
#include "util/file.h"
#include "util/log.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SCORES = 16, PICTURES = 8 };

static const np_cli_word keys[] = {
    {"out", "file to write (RUN/report.html)"},
    {"probe", "result of a probe of the run's trunk, *.json; without it and random=: every RUN/probe*.json"},
    {"random", "result of a probe of a random trunk, *.json"},
    {"images",
     "folder, or tar, to take pictures from (val/ or test/ beside the recipe's data.train, else that itself)"},
    {NULL, NULL},
};
static const np_cli_usage usage = {
    .name = "report",
    .arguments = "RUN [out=FILE] [probe=RESULT.json] [random=RESULT.json] [images=FOLDER]",
    .text = "Write a run as one HTML file: loss curve, settings, accuracies of probes, predicted patches.\n",
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

/* The unseen images beside …/train or …/train.tar, malloc'ed; NULL: none. */
static char *held_out_of(const char *train) {
  static const char *const parts[] = {"val", "test"};
  size_t length = strlen(train);
  while (length > 0 && train[length - 1] == '/') length--;
  if (length >= 4 && !strncmp(train + length - 4, ".tar", 4)) length -= 4;
  if (length < 5 || strncmp(train + length - 5, "train", 5)) return NULL;
  char *stem = np_format("%.*s", (int)(length - 5), train), *slash = strrchr(stem, '/'), *found = NULL;
  char *root = np_format("%.*s", slash ? (int)(slash + 1 - stem) : 0, stem);
  for (int i = 0; i < 2 && !found; i++) {
    char *name = np_format("%s%s", slash ? slash + 1 : stem, parts[i]);
    found = np_dataset_part(root, name);
    free(name);
  }
  free(root);
  free(stem);
  return found;
}

/* Where the pictures' images lie, malloc'ed: unseen ones where they stand beside the training images. */
static np_status choose_images(const np_cli_options *options, char **out) {
  np_status st = NP_OK;
  np_recipe *recipe = NULL;
  const char *given = np_cli_value(options, "images", NULL);
  char *path = np_path_join(options->positional[0], "recipe.yaml");
  *out = NULL;
  if (given) {
    *out = np_format("%s", given);
    goto out;
  }
  NP_TRY(np_recipe_load(path, NULL, 0, &recipe));
  *out = held_out_of(recipe->data.train);
  if (!*out) *out = np_format("%s", recipe->data.train);
out:
  np_recipe_free(recipe);
  free(path);
  return st;
}

/* One image, its first quarter of patches given, the rest each predicted from the true ones before it. */
static np_status draw(np_opened *opened, const np_dataset *dataset, int64_t index, np_report_picture *out) {
  np_status st;
  const np_recipe_model *m = &opened->recipe->model;
  const int tokens = np_recipe_tokens(m), prefix = tokens / 4 > 0 ? tokens / 4 : 1;
  const int scale = (128 + m->image_size[0] - 1) / m->image_size[0];
  np_image raw = {0}, image = {0}, picture = {0};
  NP_TRY(np_dataset_read(dataset, index, m->channels, opened->recipe->data.max_pixels, &raw));
  NP_TRY(np_image_eval_crop(&raw, m->image_size[0], m->image_size[1], &image));
  NP_TRY(np_complete_picture(opened->model, &image, prefix, false, scale, &picture));
  NP_TRY(np_image_encode_png(&picture, &out->png, &out->size));
out:
  np_image_free(&picture);
  np_image_free(&image);
  np_image_free(&raw);
  return st;
}

static np_status draw_all(const np_cli_options *options, const char *folder, np_report_picture *pictures, int *count,
                          bool *standardised) {
  np_status st;
  np_opened opened = {0};
  np_dataset *dataset = NULL;
  const np_open_options how = {.batch = 1, .pixel_head = true};
  *count = 0;
  NP_TRY(np_open_model(options->positional[0], &how, &opened));
  *standardised = opened.recipe->model.pixel_target == NP_TARGET_STANDARDISED;
  NP_TRY(np_dataset_open(folder, false, &dataset));
  int wanted = dataset->count < PICTURES ? (int)dataset->count : PICTURES;
  for (int i = 0; i < wanted; i++) { /* spread over the folder, so over its classes; a damaged image is left out */
    const int64_t index = (2 * i + 1) * dataset->count / (2 * wanted);
    if (draw(&opened, dataset, index, &pictures[*count]) == NP_OK) {
      ++*count;
      continue;
    }
    char *name = np_dataset_name(dataset, index);
    np_warn("no picture of '%s': %s", name, np_error_message());
    free(name);
  }
out:
  np_dataset_close(dataset);
  np_open_close(&opened);
  return st;
}

static np_status run(const np_cli_options *options) {
  np_status st = NP_OK;
  np_report_score scores[MOST_SCORES];
  np_report_picture pictures[PICTURES] = {{NULL, 0}};
  np_report_content content = {.run = options->positional[0], .scores = scores, .pictures = pictures};
  bool standardised = false;
  char *fallback = np_path_join(content.run, "report.html"), *images = NULL, *note = NULL;
  const char *out = np_cli_value(options, "out", fallback);
  NP_TRY(read_scores(options, scores, &content.score_count));
  st = choose_images(options, &images);
  if (st == NP_OK) st = draw_all(options, images, pictures, &content.picture_count, &standardised);
  if (st != NP_OK && np_cli_value(options, "images", NULL)) goto out; /* asked for: not to be left out silently */
  /* Else pictures are the last thing a run has: without a checkpoint or without images there still is a report. */
  if (st != NP_OK) np_warn("no pictures in the report: %s", np_error_message());
  note = np_format(
      "Given, predicted, true: images of %s. Each grey patch is predicted from the true ones before it, "
      "in raster order%s.",
      images ? images : "",
      standardised ? "; a prediction is of the patch standardised, its mean and deviation are the true ones" : "");
  content.picture_note = note;
  NP_TRY(np_report_write(out, &content));
  printf("%s\n", out);
out:
  for (int i = 0; i < PICTURES; i++) free(pictures[i].png);
  free(note);
  free(images);
  free(fallback);
  return st;
}

int np_cli_report(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
