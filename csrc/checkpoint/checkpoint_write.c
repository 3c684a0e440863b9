#include "checkpoint/checkpoint_files.h"
#include "util/build.h"
#include "util/file.h"
#include "util/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static void hash_text(XXH128_hash_t hash, char text[NP_HASH_TEXT]) {
  snprintf(text, NP_HASH_TEXT, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
}

np_status np_checkpoint_hash_file(const char *path, int64_t *bytes, char hash[NP_HASH_TEXT]) {
  enum { CHUNK = 1 << 20 };
  np_status st = NP_OK;
  ssize_t n = 0;
  char *chunk = malloc(CHUNK);
  XXH3_state_t *state = XXH3_createState();
  int descriptor = -1;
  *bytes = 0;
  if (!chunk || !state) {
    st = np_error(NP_ERR_MEMORY, "no memory to read '%s'", path);
    goto out;
  }
  descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    st = np_error(NP_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    goto out;
  }
  XXH3_128bits_reset(state);
  while ((n = read(descriptor, chunk, CHUNK)) > 0 || (n < 0 && errno == EINTR)) {
    if (n < 0) continue;
    XXH3_128bits_update(state, chunk, (size_t)n);
    *bytes += n;
  }
  if (n < 0) st = np_error(NP_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
  hash_text(XXH3_128bits_digest(state), hash);
out:
  if (descriptor >= 0) close(descriptor);
  XXH3_freeState(state);
  free(chunk);
  return st;
}

np_status np_checkpoint_hash_json(const cJSON *json, char hash[NP_HASH_TEXT]) {
  char *text = cJSON_PrintUnformatted(json);
  if (!text) return np_error(NP_ERR_MEMORY, "no memory for " NP_CHECKPOINT_ABOUT);
  hash_text(XXH3_128bits(text, strlen(text)), hash);
  cJSON_free(text);
  return NP_OK;
}

char *np_checkpoint_path(const char *run, int64_t step) {
  char *parent = np_path_join(run, NP_CHECKPOINT_FOLDER), *path = np_format("%s/" NP_CHECKPOINT_STEP, parent, step);
  free(parent);
  return path;
}

/* ---- save -------------------------------------------------------------------------------------------------------- */

static np_status write_model(const char *folder, const np_checkpoint_content *content) {
  np_status st = NP_OK;
  np_tensor *tensors = NULL;
  char *path = np_path_join(folder, NP_CHECKPOINT_MODEL), *step = np_format("%" PRId64, content->state.step);
  const np_metadata metadata[] = {
      {"format", "pt"}, /* other readers of safetensors ask for it */
      {NP_METADATA_WRITTEN_BY, np_build_version()},
      {NP_METADATA_STEP, step},
      {NP_METADATA_RECIPE, content->recipe},
  };
  NP_TRY(content->weights(content->context, content->staging));
  NP_TRY(np_params_tensors(content->params, content->staging, NULL, &tensors));
  st = np_safetensors_write(path, tensors, content->params->count, metadata, sizeof metadata / sizeof *metadata);
out:
  free(tensors);
  free(step);
  free(path);
  return st;
}

static np_status write_moments(const char *folder, const np_checkpoint_content *content) {
  np_status st = NP_OK;
  size_t count = (size_t)content->params->count;
  np_tensor *first = NULL, *second = NULL, *both = NULL;
  char *path = np_path_join(folder, NP_CHECKPOINT_MOMENTS);
  float *behind = content->staging + content->params->total;
  NP_TRY(content->moments(content->context, content->staging, behind));
  NP_TRY(np_params_tensors(content->params, content->staging, NP_MOMENT_FIRST, &first));
  NP_TRY(np_params_tensors(content->params, behind, NP_MOMENT_SECOND, &second));
  both = malloc((2 * count + 1) * sizeof *both);
  if (!both) {
    st = np_error(NP_ERR_MEMORY, "no memory for the table of '%s'", path);
    goto out;
  }
  memcpy(both, first, count * sizeof *both);
  memcpy(both + count, second, count * sizeof *both);
  st = np_safetensors_write(path, both, (int)(2 * count), NULL, 0);
out:
  free(both);
  free(second);
  free(first);
  free(path);
  return st;
}

static np_status add_file(cJSON *files, const char *folder, const char *name) {
  np_status st = NP_OK;
  int64_t bytes = 0;
  char hash[NP_HASH_TEXT], *path = np_path_join(folder, name);
  NP_TRY(np_checkpoint_hash_file(path, &bytes, hash));
  cJSON *file = cJSON_AddObjectToObject(files, name);
  cJSON_AddNumberToObject(file, "bytes", (double)bytes);
  cJSON_AddStringToObject(file, "xxh3_128", hash);
out:
  free(path);
  return st;
}

static np_status write_about(const char *folder, const np_checkpoint_state *state) {
  np_status st = NP_OK;
  char hash[NP_HASH_TEXT], listing[20], *text = NULL, *path = np_path_join(folder, NP_CHECKPOINT_ABOUT);
  cJSON *about = cJSON_CreateObject();
  snprintf(listing, sizeof listing, "%016" PRIx64, state->listing);
  cJSON_AddNumberToObject(about, "format", NP_CHECKPOINT_FORMAT);
  cJSON_AddNumberToObject(about, "step", (double)state->step);
  cJSON_AddNumberToObject(about, "applied", (double)state->applied);
  cJSON_AddNumberToObject(about, "bad_in_row", state->bad_in_row);
  cJSON_AddNumberToObject(about, "seconds", state->seconds);
  cJSON_AddStringToObject(about, "precision", np_precision_name(state->act));
  cJSON_AddStringToObject(about, "hardware", state->hardware);
  if (*state->attention) cJSON_AddStringToObject(about, "attention", state->attention);
  cJSON_AddNumberToObject(about, "threads", state->threads);
  cJSON_AddNumberToObject(about, "micro_batch", state->micro_batch);
  cJSON_AddNumberToObject(about, "ranks", state->ranks);
  cJSON_AddBoolToObject(about, "sharded", state->sharded);
  cJSON_AddNumberToObject(about, "images", (double)state->images);
  cJSON_AddStringToObject(about, "listing", listing);
  cJSON_AddNumberToObject(about, "images_seen", (double)state->images_seen);
  cJSON_AddNumberToObject(about, "images_bad", (double)state->images_bad);
  cJSON *files = cJSON_AddObjectToObject(about, "files");
  NP_TRY(add_file(files, folder, NP_CHECKPOINT_MODEL));
  NP_TRY(add_file(files, folder, NP_CHECKPOINT_MOMENTS));
  NP_TRY(np_checkpoint_hash_json(about, hash));
  cJSON_AddStringToObject(about, "xxh3_128", hash);
  text = cJSON_Print(about);
  if (!text) st = np_error(NP_ERR_MEMORY, "no memory for '%s'", path);
  else st = np_file_write(path, text, strlen(text));
out:
  cJSON_free(text);
  cJSON_Delete(about);
  free(path);
  return st;
}

np_status np_checkpoint_save(const char *run, const np_checkpoint_content *content) {
  np_status st = NP_OK;
  char *parent = np_path_join(run, NP_CHECKPOINT_FOLDER);
  char *hidden = np_format("%s/." NP_CHECKPOINT_STEP ".tmp", parent, content->state.step);
  char *path = np_checkpoint_path(run, content->state.step);
  NP_TRY(np_folder_make(parent));
  NP_TRY(np_folder_remove(hidden));
  NP_TRY(np_folder_make(hidden));
  NP_TRY(write_model(hidden, content));
  NP_TRY(write_moments(hidden, content));
  NP_TRY(write_about(hidden, &content->state));
  NP_TRY(np_folder_sync(hidden));
  if (rename(hidden, path) != 0) {
    st = np_error(NP_ERR_IO, "cannot rename '%s' to '%s': %s", hidden, path, strerror(errno));
    goto out;
  }
  st = np_folder_sync(parent);
out:
  if (st != NP_OK) {
    char *reason = np_format("%s", np_error_message());
    np_folder_remove(hidden);
    np_error(st, "%s", reason);
    free(reason);
  }
  free(path);
  free(hidden);
  free(parent);
  return st;
}

/* ---- remove ------------------------------------------------------------------------------------------------------ */

/* Renaming first: a kill in the middle of the removal must not leave half a checkpoint under a checkpoint's name. */
static np_status remove_step(const char *run, int64_t step) {
  np_status st = NP_OK;
  char *path = np_checkpoint_path(run, step);
  char *hidden = np_format("%s/" NP_CHECKPOINT_FOLDER "/." NP_CHECKPOINT_STEP ".old", run, step);
  NP_TRY(np_folder_remove(hidden));
  if (rename(path, hidden) != 0) {
    st = np_error(NP_ERR_IO, "cannot remove '%s': %s", path, strerror(errno));
    goto out;
  }
  st = np_folder_remove(hidden);
out:
  free(hidden);
  free(path);
  return st;
}

np_status np_checkpoint_prune(const char *run, int keep_last, int64_t keep_every) {
  np_status st = NP_OK;
  int64_t *steps = NULL;
  int count = 0;
  NP_TRY(np_checkpoint_list(run, &steps, &count));
  for (int i = 0; i < count - keep_last; i++)
    if (keep_every == 0 || steps[i] % keep_every != 0) NP_TRY(remove_step(run, steps[i]));
out:
  free(steps);
  return st;
}

np_status np_checkpoint_clean(const char *run) {
  np_status st = NP_OK;
  char *parent = np_path_join(run, NP_CHECKPOINT_FOLDER);
  DIR *folder = opendir(parent);
  const struct dirent *entry;
  if (!folder) goto out; /* nothing was ever written */
  while ((entry = readdir(folder))) {
    if (strncmp(entry->d_name, ".step-", 6) != 0) continue;
    char *path = np_path_join(parent, entry->d_name);
    st = np_folder_remove(path);
    free(path);
    if (st != NP_OK) goto out;
  }
out:
  if (folder) closedir(folder);
  free(parent);
  return st;
}

np_status np_checkpoint_set_aside(const char *run, int64_t step) {
  np_status st = NP_OK;
  int64_t *steps = NULL;
  int count = 0;
  NP_TRY(np_checkpoint_list(run, &steps, &count));
  for (int i = 0; i < count && st == NP_OK; i++) {
    if (steps[i] <= step) continue;
    char *path = np_checkpoint_path(run, steps[i]), *aside = np_format("%s.damaged", path);
    st = np_folder_remove(aside);
    if (st == NP_OK && rename(path, aside) != 0)
      st = np_error(NP_ERR_IO, "cannot rename '%s' to '%s': %s", path, aside, strerror(errno));
    if (st == NP_OK) np_warn("'%s' is kept as '%s'", path, aside);
    free(aside);
    free(path);
  }
out:
  free(steps);
  return st;
}
