/* golden [backend=cpu|cuda] [CASE_FOLDER ...]: compare with cases computed by the official code. Without arguments:
 * every case of the shared folder. */
#include "golden/golden.h"
#include "util/file.h"
#include "util/status.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSED = 0, FAILED = 1, SKIPPED = 77 };

static int run_case(const char *folder) {
  static const struct {
    const char *kind;
    int (*run)(const char *folder);
  } kinds[] = {{"pretrain", golden_pretrain}, {"probe", golden_probe}, {"transforms", golden_transforms}};
  char *path = np_path_join(folder, "case.json"), *text = NULL;
  size_t size;
  int result = FAILED;
  cJSON *json = NULL;
  if (np_file_read(path, 1 << 20, &text, &size) != NP_OK) {
    printf("%s\n", np_error_message());
    goto out;
  }
  json = cJSON_Parse(text);
  const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "kind"));
  size_t i = 0;
  while (i < sizeof kinds / sizeof *kinds && (!kind || strcmp(kinds[i].kind, kind) != 0)) i++;
  if (i == sizeof kinds / sizeof *kinds)
    printf("%s: kind \"%s\" is none of pretrain, probe, transforms\n", path, kind ? kind : "");
  else result = kinds[i].run(folder);
out:
  printf("%s %s\n", result == PASSED ? "PASSED" : "FAILED", folder);
  cJSON_Delete(json);
  free(text);
  free(path);
  return result;
}

static int visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static int run_all(const char *root) {
  struct dirent **entries;
  int failed = 0, ran = 0, count = scandir(root, &entries, visible, alphasort);
  for (int i = 0; i < count; i++) {
    char *folder = np_path_join(root, entries[i]->d_name), *path = np_path_join(folder, "case.json");
    FILE *probe = fopen(path, "r");
    if (probe) {
      fclose(probe);
      ran++;
      failed += run_case(folder);
    }
    free(path);
    free(folder);
    free(entries[i]);
  }
  if (count >= 0) free(entries);
  if (ran == 0) {
    printf("SKIPPED: no golden cases in %s\n", root);
    return SKIPPED;
  }
  printf("%d passed, %d failed\n", ran - failed, failed);
  return failed ? FAILED : PASSED;
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  int failed = 0, first = 1;
  if (argc > 1 && !strncmp(argv[1], "backend=", 8)) {
    first = 2;
    if (strcmp(argv[1], "backend=cpu") && strcmp(argv[1], "backend=cuda")) {
      printf("%s: expected backend=cpu or backend=cuda\n", argv[1]);
      return FAILED;
    }
    if (golden_backend(strcmp(argv[1], "backend=cuda") ? NP_BACKEND_CPU : NP_BACKEND_CUDA) != NP_OK) {
      printf("SKIPPED: %s\n", np_error_message());
      return SKIPPED;
    }
  }
  if (argc == first) return run_all(NP_SHARED_DIR "/golden");
  for (int i = first; i < argc; i++) failed += run_case(argv[i]);
  printf("%d passed, %d failed\n", argc - first - failed, failed);
  return failed ? FAILED : PASSED;
}
