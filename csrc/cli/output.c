#include "cli/output.h"

#include "util/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

np_status np_cli_check_output(const char *key, const char *path) {
  np_status st = NP_OK;
  const char *slash = strrchr(path, '/');
  char *folder = slash ? np_format("%.*s", slash == path ? 1 : (int)(slash - path), path) : np_format(".");
  if (!*(slash ? slash + 1 : path)) {
    st = np_error(NP_ERR_ARGUMENT, "%s=%s: expected the name of a file", key, path);
    goto out;
  }
  NP_TRY(np_folder_make(folder));
  if (access(folder, W_OK) != 0) st = np_error(NP_ERR_IO, "cannot write into '%s': %s", folder, strerror(errno));
  else if ((st = np_file_check_target(path)) != NP_OK) st = np_error_context(NP_ERR_ARGUMENT, "%s=%s", key, path);
out:
  free(folder);
  return st;
}
