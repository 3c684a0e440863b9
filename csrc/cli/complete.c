#include "probe/complete.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "probe/open.h"

#include <stdio.h>
#include <string.h>

static const np_cli_word keys[] = {
    {"out", "PNG to write; default completion.png"},
    {"prefix", "patches given, in raster order: 1..N-1; default a quarter of them"},
    {"mode", "teacher: each patch from the true ones before it; rollout: from the predicted ones; default teacher"},
    {"scale", "each pixel is drawn scale × scale; default so that a panel is about 256 pixels high"},
    {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "complete",
    .arguments = "MODEL IMAGE [out=FILE] [KEY=VALUE ...]",
    .text = "Continue an image from its first patches and draw three panels: given, predicted, true.\n"
            "The model predicts each patch standardised by that patch's own mean and deviation, so a prediction is "
            "drawn with the mean and\n"
            "deviation of the true patch: brightness and contrast are given, the content is predicted.\n"
            "MODEL is a run folder (its newest checkpoint), a checkpoint folder or a .safetensors file; it must hold "
            "the pixel head.\n",
    .examples = "  nextpatch complete runs/600m image.png out=completion.png\n"
                "  nextpatch complete runs/600m image.png prefix=128 mode=rollout\n",
    .least = 2,
    .most = 2,
    .keys = keys,
    .recipe = true,
};

/* Read the image and bring it to the model's size with the evaluation crop. */
static np_status read_image(const char *path, const np_recipe *recipe, np_image *out) {
  np_status st;
  np_image raw = {0};
  NP_TRY(np_image_read(path, recipe->model.channels, recipe->data.max_pixels, &raw));
  NP_TRY(np_image_eval_crop(&raw, recipe->model.image_size[0], recipe->model.image_size[1], out));
out:
  np_image_free(&raw);
  return st;
}

static np_status run(const np_cli_options *options) {
  np_status st;
  np_opened opened = {0};
  np_image image = {0}, picture = {0};
  const char *mode = np_cli_value(options, "mode", "teacher"), *out = np_cli_value(options, "out", "completion.png");
  const bool rollout = !strcmp(mode, "rollout");
  if (!rollout && strcmp(mode, "teacher"))
    return np_error(NP_ERR_ARGUMENT, "complete: mode=%s: expected teacher or rollout", mode);
  NP_TRY(np_cli_check_output("out", out));
  const np_open_options how = {
      .overrides = options->overrides, .override_count = options->override_count, .batch = 1, .pixel_head = true};
  NP_TRY(np_open_model(options->positional[0], &how, &opened));
  const np_recipe_model *model = &opened.recipe->model;
  const int tokens = np_recipe_tokens(model);
  int64_t prefix = tokens / 4 > 0 ? tokens / 4 : 1, scale = (256 + model->image_size[0] - 1) / model->image_size[0];
  NP_TRY(np_cli_integer(options, "prefix", 1, tokens - 1, &prefix));
  NP_TRY(np_cli_integer(options, "scale", 1, 64, &scale));
  NP_TRY(read_image(options->positional[1], opened.recipe, &image));
  NP_TRY(np_complete_picture(opened.model, &image, (int)prefix, rollout, (int)scale, &picture));
  NP_TRY(np_image_write_png(out, &picture));
  printf("%s: %d × %d pixels; given %d of %d patches, predicted (%s), true\n", out, picture.width, picture.height,
         (int)prefix, tokens, mode);
out:
  np_image_free(&image);
  np_image_free(&picture);
  np_open_close(&opened);
  return st;
}

int np_cli_complete(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
