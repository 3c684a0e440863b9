#include "checkpoint/checkpoint.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "util/file.h"
#include "util/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const np_cli_word flags[] = {
    {"verify", "read all data and compare with the checksums, of every checkpoint of a run"},
    {NULL, NULL},
};
static const np_cli_usage usage = {
    .name = "inspect",
    .arguments = "RUN|CHECKPOINT|FILE.safetensors [--verify]",
    .text = "List what a run's newest checkpoint, a checkpoint folder or a weight file holds: tensors, shapes, types,\n"
            "step, recipe. A damaged checkpoint is an error that gives the reason.\n",
    .examples = "  nextpatch inspect runs/600m\n"
                "  nextpatch inspect runs/600m --verify\n"
                "  nextpatch inspect runs/600m/checkpoints/step-00001000\n"
                "  nextpatch inspect model.safetensors\n",
    .least = 1,
    .most = 1,
    .flags = flags,
};

static const char *type_name(np_dtype type) {
  static const char *const names[] = {"f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"};
  return names[type];
}

static void shape_text(const np_tensor *tensor, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "[");
  for (int d = 0; d < tensor->ndim; d++)
    used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, d ? ", " : "", tensor->shape[d]);
  snprintf(text + used, size - used, "]");
}

static void print_tensors(const char *title, const np_safetensors *file) {
  int64_t elements = 0;
  size_t bytes = 0;
  char shape[200];
  for (int i = 0; i < np_safetensors_count(file); i++) {
    elements += np_tensor_count(np_safetensors_at(file, i));
    bytes += np_safetensors_at(file, i)->bytes;
  }
  printf("%s: %d tensors, %" PRId64 " values, %zu bytes\n", title, np_safetensors_count(file), elements, bytes);
  for (int i = 0; i < np_safetensors_count(file); i++) {
    const np_tensor *tensor = np_safetensors_at(file, i);
    shape_text(tensor, shape, sizeof shape);
    printf("  %-56s %-4s %s\n", tensor->name, type_name(tensor->dtype), shape);
  }
}

static void print_metadata(const np_safetensors *file) {
  const char *step = np_safetensors_metadata(file, NP_METADATA_STEP);
  const char *version = np_safetensors_metadata(file, NP_METADATA_WRITTEN_BY);
  const char *recipe = np_safetensors_metadata(file, NP_METADATA_RECIPE);
  if (version) printf("written by: nextpatch %s\n", version);
  if (step) printf("step: %s\n", step);
  if (!recipe) return;
  printf("recipe:\n");
  for (const char *at = recipe; *at;) {
    int length = (int)strcspn(at, "\n");
    printf("  %.*s\n", length, at);
    at += length + (at[length] == '\n');
  }
}

static np_status inspect_file(const char *path) {
  np_status st;
  np_safetensors *file = NULL;
  NP_TRY(np_safetensors_open(path, &file));
  print_metadata(file);
  print_tensors(path, file);
out:
  np_safetensors_close(file);
  return st;
}

static void print_checkpoint(const np_checkpoint *checkpoint) {
  const np_checkpoint_state *s = &checkpoint->state;
  printf("checkpoint: %s (sizes and checksums are as written)\n", checkpoint->path);
  printf("steps applied: %" PRId64 " of %" PRId64
         "; training time %.0f s on %s; %s, %d threads, micro-batches of %d; %" PRId64 " images\n",
         s->applied, s->step, s->seconds, s->hardware, s->act == NP_BF16 ? "bf16" : "fp32", s->threads, s->micro_batch,
         s->images);
  print_metadata(checkpoint->model);
  print_tensors(NP_CHECKPOINT_MODEL, checkpoint->model);
  print_tensors(NP_CHECKPOINT_MOMENTS, checkpoint->moments);
}

/* One line a checkpoint; an error when any is damaged, after all were looked at. */
static np_status verify_run(const char *run) {
  np_status st = NP_OK, first = NP_OK;
  int64_t *steps = NULL;
  int count = 0, bad = 0;
  NP_TRY(np_checkpoint_list(run, &steps, &count));
  for (int i = 0; i < count; i++) {
    np_checkpoint *checkpoint = NULL;
    char *path = np_checkpoint_path(run, steps[i]);
    np_status one = np_checkpoint_open(path, &checkpoint);
    printf("%s: %s\n", path, one == NP_OK ? "good" : np_error_message());
    bad += one != NP_OK;
    if (first == NP_OK) first = one;
    np_checkpoint_close(checkpoint);
    free(path);
  }
  if (count == 0) st = np_error(NP_ERR_IO, "'%s' holds no checkpoint", run);
  else if (bad > 0) st = np_error(first, "%d of %d checkpoints in '%s' are damaged", bad, count, run);
out:
  free(steps);
  return st;
}

static np_status inspect_folder(const char *path, bool verify) {
  np_status st = NP_OK;
  np_checkpoint *checkpoint = NULL;
  struct stat about;
  char *inside = np_path_join(path, NP_CHECKPOINT_ABOUT);
  if (stat(inside, &about) == 0) {
    NP_TRY(np_checkpoint_open(path, &checkpoint));
  } else if (verify) {
    st = verify_run(path);
    goto out;
  } else {
    NP_TRY(np_checkpoint_newest(path, false, &checkpoint));
  }
  if (!checkpoint)
    st = np_error(NP_ERR_IO,
                  "'%s' holds no checkpoint: expected a run folder, a checkpoint folder or a .safetensors file", path);
  else print_checkpoint(checkpoint);
out:
  np_checkpoint_close(checkpoint);
  free(inside);
  return st;
}

static np_status run(const np_cli_options *options) {
  const char *path = options->positional[0];
  return np_folder_is(path) ? inspect_folder(path, np_cli_flag(options, "verify")) : inspect_file(path);
}

int np_cli_inspect(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
