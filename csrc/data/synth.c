#include "data/synth.h"

#include "image/image.h"
#include "util/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const parts[2] = {"train", "val"};

/* ---- what the folder holds
 * ------------------------------------------------------------------------------------------- */

static char *manifest_text(const np_synth_options *o, bool complete) {
  return np_format(
      "{\"made_by\": \"nextpatch synth 1\", \"classes\": %d, \"train\": %lld, \"val\": %lld, \"size\": %d, "
      "\"seed\": %llu, \"complete\": %s}\n",
      o->classes, (long long)o->train, (long long)o->val, o->size, (unsigned long long)o->seed,
      complete ? "true" : "false");
}

static np_status write_manifest(const char *path, const np_synth_options *o, bool complete) {
  char *text = manifest_text(o, complete);
  np_status st = np_file_write(path, text, strlen(text));
  free(text);
  return st;
}

static bool holds(const char *root, const char *name) {
  char *path = np_path_join(root, name);
  bool there = access(path, F_OK) == 0;
  free(path);
  return there;
}

/* *complete: all of it is there already. */
static np_status check_folder(const char *root, const char *manifest, const np_synth_options *o, bool *complete) {
  np_status st = NP_OK;
  char *found = NULL, *whole = manifest_text(o, true), *begun = manifest_text(o, false);
  size_t size;
  *complete = false;
  if (access(manifest, F_OK) != 0) {
    if (holds(root, parts[0]) || holds(root, parts[1]))
      st = np_error(NP_ERR_ARGUMENT, "'%s' holds images that synth did not make: choose another folder", root);
    goto out;
  }
  NP_TRY(np_file_read(manifest, 4096, &found, &size));
  *complete = strcmp(found, whole) == 0;
  if (!*complete && strcmp(found, begun) != 0)
    st = np_error(NP_ERR_ARGUMENT,
                  "'%s' holds an image set of other options (see '%s'): choose another folder or remove it", root,
                  manifest);
out:
  free(begun);
  free(whole);
  free(found);
  return st;
}

/* ---- the images
 * ------------------------------------------------------------------------------------------------------ */

static np_status make_folders(const char *root, const np_synth_options *o) {
  np_status st = NP_OK;
  for (int part = 0; part < 2 && st == NP_OK; part++) {
    for (int c = 0; c < o->classes && st == NP_OK; c++) {
      char *path = np_format("%s/%s/%s", root, parts[part], np_synth_class(c));
      st = np_folder_make(path);
      free(path);
    }
  }
  return st;
}

static np_status make_image(const char *root, const np_synth_options *o, int part, int64_t index) {
  np_status st = NP_OK;
  int class_number = (int)(index % o->classes);
  uint8_t *bytes = NULL;
  size_t size;
  np_image image = {.height = o->size, .width = o->size, .channels = 3};
  char *path = np_format("%s/%s/%s/%05lld.png", root, parts[part], np_synth_class(class_number), (long long)index);
  image.pixels = malloc((size_t)o->size * (size_t)o->size * 3);
  if (!image.pixels) {
    st = np_error(NP_ERR_MEMORY, "no memory for an image of %d x %d", o->size, o->size);
    goto out;
  }
  np_synth_draw(o->seed, part, index, class_number, o->size, image.pixels);
  NP_TRY(np_image_encode_png(&image, &bytes, &size));
  NP_TRY(np_file_write_unsynced(path, bytes, size)); /* thousands of syncs would take minutes */
out:
  free(bytes);
  np_image_free(&image);
  free(path);
  return st;
}

/* Each image is a function of its index: threads share them as they like. After a failure the others are passed over.
 */
static np_status make_part(const char *root, const np_synth_options *o, int part, int64_t count) {
  np_status st = NP_OK;
  char message[1024] = "";
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t i = 0; i < count; i++) {
    np_status seen;
#pragma omp atomic read
    seen = st;
    if (seen != NP_OK) continue;
    np_status one = make_image(root, o, part, i);
    if (one == NP_OK) continue;
#pragma omp critical(np_synth_failure)
    {
      snprintf(message, sizeof message, "%s", np_error_message()); /* messages belong to a thread */
#pragma omp atomic write
      st = one;
    }
  }
  return st == NP_OK ? NP_OK : np_error(st, "%s", message);
}

np_status np_synth_make(const char *root, const np_synth_options *options, bool *made) {
  np_status st = NP_OK;
  bool complete;
  char *manifest = np_path_join(root, "synth.json");
  *made = false;
  if (options->classes < 2 || options->classes > NP_SYNTH_CLASSES || options->train < 0 || options->val < 0 ||
      options->size < 8 || options->size > 1024) {
    st = np_error(NP_ERR_ARGUMENT, "synth takes 2..%d classes, sizes of 8..1024 and no negative counts",
                  NP_SYNTH_CLASSES);
    goto out;
  }
  NP_TRY(check_folder(root, manifest, options, &complete));
  if (complete) goto out;
  NP_TRY(np_folder_make(root));
  NP_TRY(write_manifest(manifest, options, false));
  NP_TRY(make_folders(root, options));
  NP_TRY(make_part(root, options, 0, options->train));
  NP_TRY(make_part(root, options, 1, options->val));
  NP_TRY(write_manifest(manifest, options, true));
  *made = true;
out:
  free(manifest);
  return st;
}
