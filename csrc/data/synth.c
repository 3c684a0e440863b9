#include "data/synth.h"

#include "data/shard_write.h"
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
  char shards[32] = "";
  if (o->shards > 0) snprintf(shards, sizeof shards, "\"shards\": %d, ", o->shards);
  return np_format(
      "{\"made_by\": \"nextpatch synth 1\", \"classes\": %d, \"train\": %lld, \"val\": %lld, \"size\": %d, "
      "\"seed\": %llu, %s\"complete\": %s}\n",
      o->classes, (long long)o->train, (long long)o->val, o->size, (unsigned long long)o->seed, shards,
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
    for (int c = 0; c < (o->shards ? 1 : o->classes) && st == NP_OK; c++) {
      char *path = np_format("%s/%s/%s", root, parts[part], o->shards ? "" : np_synth_class(c));
      st = np_folder_make(path);
      free(path);
    }
  }
  return st;
}

/* Draw an image as PNG; *bytes and *name, CLASS/NNNNN.png, are malloc'ed. */
static np_status draw_png(const np_synth_options *o, int part, int64_t index, uint8_t **bytes, size_t *size,
                          char **name) {
  np_status st = NP_OK;
  int class_number = (int)(index % o->classes);
  np_image image = {.height = o->size, .width = o->size, .channels = 3};
  *bytes = NULL;
  *name = np_format("%s/%05lld.png", np_synth_class(class_number), (long long)index);
  image.pixels = malloc((size_t)o->size * (size_t)o->size * 3);
  if (!image.pixels) {
    st = np_error(NP_ERR_MEMORY, "no memory for an image of %d x %d", o->size, o->size);
    goto out;
  }
  np_synth_draw(o->seed, part, index, class_number, o->size, image.pixels);
  st = np_image_encode_png(&image, bytes, size);
out:
  np_image_free(&image);
  return st;
}

static np_status make_file(const char *root, const np_synth_options *o, int part, int64_t index) {
  np_status st = NP_OK;
  uint8_t *bytes;
  size_t size;
  char *name, *path = NULL;
  NP_TRY(draw_png(o, part, index, &bytes, &size, &name));
  path = np_format("%s/%s/%s", root, parts[part], name);
  NP_TRY(np_file_write_unsynced(path, bytes, size)); /* thousands of syncs would take minutes */
out:
  free(bytes);
  free(name);
  free(path);
  return st;
}

/* Images first … end - 1 as one tar. */
static np_status make_shard(const char *path, const np_synth_options *o, int part, int64_t first, int64_t end) {
  np_status st = NP_OK;
  np_shard_writer writer;
  uint8_t *bytes = NULL;
  size_t size;
  char *name = NULL;
  NP_TRY(np_shard_begin(&writer, path));
  for (int64_t i = first; i < end; i++) {
    free(bytes);
    free(name);
    NP_TRY(draw_png(o, part, i, &bytes, &size, &name));
    NP_TRY(np_shard_put(&writer, name, bytes, size));
  }
  st = np_shard_commit(&writer);
out:
  np_shard_abort(&writer);
  free(bytes);
  free(name);
  return st;
}

/* One file of a part: image `i`, or tar `i` of `files`. */
static np_status make_one(const char *root, const np_synth_options *o, int part, int64_t count, int64_t i,
                          int64_t files) {
  if (!o->shards) return make_file(root, o, part, i);
  char *path = np_format("%s/%s/%05lld.tar", root, parts[part], (long long)i);
  np_status st = make_shard(path, o, part, count * i / files, count * (i + 1) / files);
  free(path);
  return st;
}

/* Each image is a function of its index: threads share them as they like. After a failure the others are passed over.
 */
static np_status make_part(const char *root, const np_synth_options *o, int part, int64_t count) {
  np_status st = NP_OK;
  char message[1024] = "";
  const int64_t files = o->shards && o->shards < count ? o->shards : count;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < files; i++) {
    np_status seen;
#pragma omp atomic read
    seen = st;
    if (seen != NP_OK) continue;
    np_status one = make_one(root, o, part, count, i, files);
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
      options->size < 8 || options->size > 1024 || options->shards < 0) {
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
