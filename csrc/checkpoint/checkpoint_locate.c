#include "checkpoint/checkpoint.h"
#include "util/file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_file(const char *path) {
  struct stat about;
  return stat(path, &about) == 0 && S_ISREG(about.st_mode);
}

/* The model file of a run's newest checkpoint; *out is NULL when there is none. One that lacks it is damaged: an older
 * one would be another model than the one asked for. */
static np_status newest_checkpoint(const char *run, char **out) {
  np_status st = NP_OK;
  int64_t *steps = NULL;
  int count = 0;
  *out = NULL;
  NP_TRY(np_checkpoint_list(run, &steps, &count));
  if (count == 0) goto out;
  char *folder = np_checkpoint_path(run, steps[count - 1]);
  *out = np_path_join(folder, NP_CHECKPOINT_MODEL);
  if (!is_file(*out)) {
    st = np_error(NP_ERR_FORMAT, "checkpoint '%s' is damaged: %s is missing; an older one can be named itself", folder,
                  NP_CHECKPOINT_MODEL);
    free(*out);
    *out = NULL;
  }
  free(folder);
out:
  free(steps);
  return st;
}

np_status np_checkpoint_locate(const char *model, char **out) {
  struct stat about;
  *out = NULL;
  if (stat(model, &about) != 0)
    return np_error(NP_ERR_ARGUMENT,
                    "cannot open model '%s': %s; expected a run folder, a checkpoint folder or a .safetensors file",
                    model, strerror(errno));
  if (!np_folder_is(model)) {
    *out = np_format("%s", model);
    return NP_OK;
  }
  np_status st = NP_OK;
  char *direct = np_path_join(model, NP_CHECKPOINT_MODEL);
  if (is_file(direct)) {
    *out = direct;
    return NP_OK;
  }
  NP_TRY(newest_checkpoint(model, out));
  if (!*out)
    st = np_error(NP_ERR_ARGUMENT,
                  "'%s' holds no model: neither model.safetensors nor checkpoints/step-NNNNNNNN/model.safetensors",
                  model);
out:
  free(direct);
  return st;
}
