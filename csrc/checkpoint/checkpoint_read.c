#include "checkpoint/checkpoint_files.h"
#include "util/file.h"
#include "util/log.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LARGEST_ABOUT = 1 << 20 };

/* ---- list -------------------------------------------------------------------------------------------------------- */

/* Names as np_checkpoint_path makes them, and no other: a step then has one folder, and that is the one listed. */
static bool step_of(const char *name, int64_t *step) {
  char written[32];
  if (sscanf(name, "step-%" SCNd64, step) != 1 || *step < 0) return false;
  snprintf(written, sizeof written, NP_CHECKPOINT_STEP, *step);
  return strcmp(name, written) == 0;
}

static int ascending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

np_status np_checkpoint_list(const char *run, int64_t **steps, int *count) {
  np_status st = NP_OK;
  char *parent = np_path_join(run, NP_CHECKPOINT_FOLDER);
  DIR *folder = opendir(parent);
  const struct dirent *entry;
  int64_t step, *list = NULL;
  int room = 0;
  *steps = NULL;
  *count = 0;
  if (!folder) {
    if (errno != ENOENT) st = np_error(NP_ERR_IO, "cannot read the folder '%s': %s", parent, strerror(errno));
    goto out;
  }
  while ((entry = readdir(folder))) {
    if (!step_of(entry->d_name, &step)) continue;
    if (*count == room) {
      room = 2 * room + 16;
      int64_t *larger = realloc(list, (size_t)room * sizeof *list);
      if (!larger) {
        st = np_error(NP_ERR_MEMORY, "no memory to list '%s'", parent);
        goto out;
      }
      list = larger;
    }
    list[(*count)++] = step;
  }
  if (*count) qsort(list, (size_t)*count, sizeof *list, ascending);
  *steps = list;
  list = NULL;
out:
  free(list);
  if (folder) closedir(folder);
  free(parent);
  return st;
}

/* ---- open -------------------------------------------------------------------------------------------------------- */

static np_status damaged(const char *folder, const char *file, const char *reason) {
  return np_error(NP_ERR_FORMAT, "checkpoint '%s' is damaged: %s %s", folder, file, reason);
}

static np_status read_about(const char *folder, cJSON **out) {
  np_status st = NP_OK;
  size_t size = 0;
  char expected[NP_HASH_TEXT], *text = NULL, *path = np_path_join(folder, NP_CHECKPOINT_ABOUT);
  cJSON *about = NULL, *hash = NULL;
  struct stat found;
  if (stat(path, &found) != 0 && errno == ENOENT) {
    st = damaged(folder, NP_CHECKPOINT_ABOUT, "is missing");
    goto out;
  }
  NP_TRY(np_file_read(path, LARGEST_ABOUT, &text, &size));
  about = cJSON_ParseWithLength(text, size);
  hash = cJSON_DetachItemFromObjectCaseSensitive(about, "xxh3_128");
  if (!cJSON_IsObject(about) || !cJSON_IsString(hash)) {
    st = damaged(folder, NP_CHECKPOINT_ABOUT, "is not complete");
    goto out;
  }
  NP_TRY(np_checkpoint_hash_json(about, expected));
  if (strcmp(expected, hash->valuestring) != 0) {
    st = damaged(folder, NP_CHECKPOINT_ABOUT, "was altered: its checksum does not match");
    goto out;
  }
  *out = about;
  about = NULL;
out:
  cJSON_Delete(hash);
  cJSON_Delete(about);
  free(text);
  free(path);
  return st;
}

static np_status check_file(const char *folder, const cJSON *files, const char *name) {
  np_status st = NP_OK;
  const cJSON *file = cJSON_GetObjectItemCaseSensitive(files, name);
  const cJSON *bytes = cJSON_GetObjectItemCaseSensitive(file, "bytes");
  const char *hash = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(file, "xxh3_128"));
  char found[NP_HASH_TEXT], reason[128], *path = np_path_join(folder, name);
  struct stat about;
  if (!cJSON_IsNumber(bytes) || !hash) {
    st = damaged(folder, NP_CHECKPOINT_ABOUT, "does not name all files");
    goto out;
  }
  if (stat(path, &about) != 0) {
    st = errno == ENOENT ? damaged(folder, name, "is missing")
                         : np_error(NP_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
    goto out;
  }
  int64_t expected = (int64_t)bytes->valuedouble, size = about.st_size;
  if (size != expected) {
    snprintf(reason, sizeof reason, "has %" PRId64 " bytes, %" PRId64 " were written", size, expected);
    st = damaged(folder, name, reason);
    goto out;
  }
  NP_TRY(np_checkpoint_hash_file(path, &size, found));
  if (strcmp(found, hash) != 0) st = damaged(folder, name, "was altered: its checksum does not match");
out:
  free(path);
  return st;
}

/* What older programs did not write is 0. */
static int64_t count_or_zero(const cJSON *about, const char *key) {
  double value = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(about, key));
  return value >= 0 && value < 9e15 ? (int64_t)value : 0;
}

static np_status read_state(const char *folder, const cJSON *about, np_checkpoint_state *out) {
  static const char *const numbers[] = {"step", "applied", "bad_in_row", "seconds", "threads", "micro_batch", "images"};
  double format = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(about, "format"));
  double value[sizeof numbers / sizeof *numbers];
  const char *listing = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(about, "listing"));
  const char *precision = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(about, "precision"));
  if (isnan(format)) return damaged(folder, NP_CHECKPOINT_ABOUT, "lacks a number");
  if (format != NP_CHECKPOINT_FORMAT) /* first: another format may lack what this one has, and is not damaged */
    return np_error(NP_ERR_ARGUMENT, "checkpoint '%s' has format %g; this program reads format %d", folder, format,
                    NP_CHECKPOINT_FORMAT);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    value[i] = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(about, numbers[i]));
    if (!(value[i] >= 0 && value[i] < 9e15)) return damaged(folder, NP_CHECKPOINT_ABOUT, "lacks a number");
  }
  if (!precision || (strcmp(precision, "bf16") && strcmp(precision, "fp32")))
    return damaged(folder, NP_CHECKPOINT_ABOUT, "lacks the precision");
  const char *hardware = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(about, "hardware"));
  const char *attention = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(about, "attention"));
  if (!listing) return damaged(folder, NP_CHECKPOINT_ABOUT, "lacks the listing's hash");
  *out = (np_checkpoint_state){
      .step = (int64_t)value[0],
      .applied = (int64_t)value[1],
      .bad_in_row = (int)value[2],
      .seconds = value[3],
      .act = strcmp(precision, "bf16") ? NP_F32 : NP_BF16,
      .threads = (int)value[4],
      .micro_batch = (int)value[5],
      .ranks = (int)count_or_zero(about, "ranks"),
      .sharded = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(about, "sharded")),
      .images = (int64_t)value[6],
      .listing = strtoull(listing, NULL, 16),
      .images_seen = count_or_zero(about, "images_seen"),
      .images_bad = count_or_zero(about, "images_bad"),
  };
  if (out->ranks == 0) out->ranks = 1;
  snprintf(out->hardware, sizeof out->hardware, "%s", hardware ? hardware : "cpu"); /* before there was another */
  snprintf(out->attention, sizeof out->attention, "%s", attention ? attention : "");
  return NP_OK;
}

np_status np_checkpoint_open(const char *folder, np_checkpoint **out) {
  np_status st = NP_OK;
  cJSON *about = NULL;
  char *model = np_path_join(folder, NP_CHECKPOINT_MODEL), *moments = np_path_join(folder, NP_CHECKPOINT_MOMENTS);
  np_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
  *out = NULL;
  if (!checkpoint) {
    st = np_error(NP_ERR_MEMORY, "no memory to open '%s'", folder);
    goto out;
  }
  checkpoint->path = np_format("%s", folder);
  NP_TRY(read_about(folder, &about));
  NP_TRY(read_state(folder, about, &checkpoint->state));
  const cJSON *files = cJSON_GetObjectItemCaseSensitive(about, "files");
  NP_TRY(check_file(folder, files, NP_CHECKPOINT_MODEL));
  NP_TRY(check_file(folder, files, NP_CHECKPOINT_MOMENTS));
  NP_TRY(np_safetensors_open(model, &checkpoint->model));
  NP_TRY(np_safetensors_open(moments, &checkpoint->moments));
  checkpoint->recipe = np_safetensors_metadata(checkpoint->model, NP_METADATA_RECIPE);
  if (!checkpoint->recipe) {
    st = damaged(folder, NP_CHECKPOINT_MODEL, "holds no recipe");
    goto out;
  }
  *out = checkpoint;
  checkpoint = NULL;
out:
  np_checkpoint_close(checkpoint);
  cJSON_Delete(about);
  free(moments);
  free(model);
  return st;
}

np_status np_checkpoint_verify_model(const char *path) {
  np_status st = NP_OK;
  cJSON *json = NULL;
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  char *folder = slash ? np_format("%.*s", (int)(slash - path), path) : np_format(".");
  char *about = np_path_join(folder, NP_CHECKPOINT_ABOUT);
  struct stat found;
  int64_t step;
  if (strcmp(name, NP_CHECKPOINT_MODEL) != 0) goto out;
  const char *parent = strrchr(folder, '/');
  if (stat(about, &found) != 0 && !step_of(parent ? parent + 1 : folder, &step)) goto out; /* a copy of its own */
  NP_TRY(read_about(folder, &json));
  NP_TRY(check_file(folder, cJSON_GetObjectItemCaseSensitive(json, "files"), name));
out:
  cJSON_Delete(json);
  free(about);
  free(folder);
  return st;
}

void np_checkpoint_close(np_checkpoint *checkpoint) {
  if (!checkpoint) return;
  np_safetensors_close(checkpoint->moments);
  np_safetensors_close(checkpoint->model);
  free(checkpoint->path);
  free(checkpoint);
}

np_status np_checkpoint_newest(const char *run, bool fallback, np_checkpoint **out) {
  np_status st = NP_OK;
  int64_t *steps = NULL;
  int count = 0;
  *out = NULL;
  NP_TRY(np_checkpoint_list(run, &steps, &count));
  for (int i = count - 1; i >= 0; i--) {
    char *folder = np_checkpoint_path(run, steps[i]);
    st = np_checkpoint_open(folder, out);
    free(folder);
    if (st != NP_ERR_FORMAT) goto out; /* good, or not read for a reason that may pass: no damage to step over */
    if (!fallback) {
      char *reason = np_format("%s", np_error_message());
      if (i > 0) np_error(st, "%s; pretrain checkpoint.fallback=true goes back to step %" PRId64, reason, steps[i - 1]);
      free(reason);
      goto out;
    }
    np_warn("%s", np_error_message());
  }
  if (count > 0) st = np_error(NP_ERR_FORMAT, "every checkpoint in '%s/" NP_CHECKPOINT_FOLDER "' is damaged", run);
out:
  free(steps);
  return st;
}

/* ---- restore ----------------------------------------------------------------------------------------------------- */

static np_status restore_one(const np_checkpoint *checkpoint, const np_safetensors *file, const char *prefix,
                             const np_param *param, float *values) {
  np_status st = NP_OK;
  char *name = np_format("%s%s", prefix, param->name);
  const np_tensor *tensor = np_safetensors_find(file, name);
  bool same = tensor && tensor->ndim == param->ndim;
  for (int i = 0; same && i < param->ndim; i++) same = tensor->shape[i] == param->shape[i];
  if (!tensor) st = np_error(NP_ERR_FORMAT, "checkpoint '%s' lacks the tensor '%s'", checkpoint->path, name);
  else if (!same)
    st = np_error(NP_ERR_FORMAT, "checkpoint '%s': tensor '%s' has another shape than the recipe's model",
                  checkpoint->path, name);
  else st = np_tensor_to_f32(tensor, values + param->offset, param->count);
  free(name);
  return st;
}

static np_status restore(const np_checkpoint *checkpoint, const np_safetensors *file, const char *prefix,
                         const np_params *params, float *values) {
  np_status st = NP_OK;
  memset(values, 0, (size_t)params->total * sizeof *values);
  for (int i = 0; i < params->count; i++) NP_TRY(restore_one(checkpoint, file, prefix, &params->items[i], values));
out:
  return st;
}

np_status np_checkpoint_weights(const np_checkpoint *checkpoint, const np_params *params, float *weights) {
  return restore(checkpoint, checkpoint->model, "", params, weights);
}

np_status np_checkpoint_moments(const np_checkpoint *checkpoint, const np_params *params, float *first, float *second) {
  np_status st = NP_OK;
  if (first) NP_TRY(restore(checkpoint, checkpoint->moments, NP_MOMENT_FIRST, params, first));
  if (second) NP_TRY(restore(checkpoint, checkpoint->moments, NP_MOMENT_SECOND, params, second));
out:
  return st;
}
