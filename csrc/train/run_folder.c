#include "train/run_folder.h"

#include "checkpoint/checkpoint_files.h"
#include "util/build.h"
#include "util/file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

np_status np_run_lock(const char *run, int *descriptor) {
  np_status st = NP_OK;
  char holder[24] = "", *path = np_path_join(run, "lock");
  int fd = -1;
  *descriptor = -1;
  NP_TRY(np_folder_make(run));
  fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) {
    st = np_error(NP_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    goto out;
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      ssize_t n = read(fd, holder, sizeof holder - 1);
      holder[n > 0 ? n : 0] = 0;
      st = np_error(NP_ERR_IO, "another process (%s) is training in '%s'; wait for it, or take another run.dir",
                    *holder ? holder : "unknown", run);
    } else {
      st = np_error(NP_ERR_IO, "cannot lock '%s': %s", path, strerror(errno));
    }
    goto out;
  }
  /* The number is only for the message above: what keeps others out is the lock. */
  int n = snprintf(holder, sizeof holder, "%ld", (long)getpid());
  if (ftruncate(fd, 0) != 0 || pwrite(fd, holder, (size_t)n, 0) != n) {
    st = np_error(NP_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    goto out;
  }
  *descriptor = fd;
  fd = -1;
out:
  if (fd >= 0) close(fd);
  free(path);
  return st;
}

void np_run_unlock(int descriptor) {
  if (descriptor >= 0) close(descriptor);
}

/* What the run began with: as this start says, or the one before it did. */
static void add_init(cJSON *json, const char *path, const np_run_record *record) {
  enum { LARGEST = 1 << 20 };
  char hash[20], *text = NULL;
  size_t size;
  if (record->init) {
    cJSON *init = cJSON_AddObjectToObject(json, "init");
    snprintf(hash, sizeof hash, "%016" PRIx64, record->init_hash);
    cJSON_AddStringToObject(init, "path", record->init);
    cJSON_AddStringToObject(init, "weights_xxh3_64", hash);
  } else if (record->step > 0 && np_file_read(path, LARGEST, &text, &size) == NP_OK) {
    cJSON *before = cJSON_ParseWithLength(text, size), *init = cJSON_DetachItemFromObject(before, "init");
    if (init) cJSON_AddItemToObject(json, "init", init);
    cJSON_Delete(before);
    free(text);
  }
}

static np_status write_record(const char *run, const np_recipe *recipe, const np_run_record *record) {
  np_status st = NP_OK;
  char host[256] = "unknown", started[32] = "", seed[24], *text = NULL, *path = np_path_join(run, "run.json");
  time_t now = time(NULL);
  struct tm parts;
  gethostname(host, sizeof host - 1);
  if (gmtime_r(&now, &parts)) strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", &parts);
  snprintf(seed, sizeof seed, "%" PRIu64, recipe->seed); /* text: JSON's numbers lose bits above 2^53 */
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "version", np_build_version());
  cJSON_AddStringToObject(json, "commit", np_build_commit());
  cJSON_AddStringToObject(json, "command", record->command ? record->command : "");
  cJSON_AddStringToObject(json, "seed", seed);
  cJSON_AddStringToObject(json, "started", started);
  add_init(json, path, record);
  cJSON_AddNumberToObject(json, "from_step", (double)record->step);
  cJSON_AddStringToObject(json, "host", host);
  cJSON_AddStringToObject(json, "hardware", record->hardware);
  cJSON_AddNumberToObject(json, "threads", record->threads);
  cJSON_AddNumberToObject(json, "ranks", record->ranks);
  cJSON_AddStringToObject(json, "precision", np_precision_name(record->act));
  text = cJSON_Print(json);
  cJSON_Delete(json);
  if (!text) st = np_error(NP_ERR_MEMORY, "no memory for '%s'", path);
  else st = np_file_write(path, text, strlen(text));
  cJSON_free(text);
  free(path);
  return st;
}

np_status np_run_describe(const char *run, const np_recipe *recipe, const np_run_record *record) {
  np_status st = NP_OK;
  char *text = NULL, *path = np_path_join(run, "recipe.yaml");
  NP_TRY(np_recipe_dump(recipe, &text));
  NP_TRY(np_file_write(path, text, strlen(text)));
  st = write_record(run, recipe, record);
out:
  free(text);
  free(path);
  return st;
}
