#include "golden/compare.h"

#include "util/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool golden_close(const char *what, const float *got, const np_tensor *want, int64_t offset, int64_t count,
                  double bound) {
  double difference = 0, norm = 0;
  if (!want || want->dtype != NP_F32 || np_tensor_count(want) < offset + count) {
    printf("  %s: the case has no such float32 tensor of at least %lld values\n", what, (long long)(offset + count));
    return false;
  }
  const float *expected = (const float *)want->data + offset;
  for (int64_t i = 0; i < count; i++) {
    double d = (double)got[i] - expected[i];
    difference += d * d;
    norm += (double)expected[i] * expected[i];
  }
  difference = sqrt(difference), norm = sqrt(norm);
  if (difference <= bound * norm + 1e-12) return true;
  printf("  %s: off by %.3g of its norm, allowed %.3g (norms %.6g, difference %.6g)\n", what, difference / norm, bound,
         norm, difference);
  return false;
}

bool golden_close_number(const char *what, double got, double want, double bound) {
  if (fabs(got - want) <= bound * fabs(want) + 1e-12) return true;
  printf("  %s: %.9g, expected %.9g within %.3g\n", what, got, want, bound);
  return false;
}

double golden_number(const cJSON *json, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  if (cJSON_IsNumber(item)) return item->valuedouble;
  printf("  case.json: no number \"%s\"\n", key);
  return NAN;
}

np_safetensors *golden_open(const char *folder, const char *name) {
  np_safetensors *file = NULL;
  char *path = np_path_join(folder, name);
  if (np_safetensors_open(path, &file) != NP_OK) printf("  %s\n", np_error_message());
  free(path);
  return file;
}

cJSON *golden_json(const char *folder) {
  char *path = np_path_join(folder, "case.json"), *text = NULL;
  size_t size;
  cJSON *json = NULL;
  if (np_file_read(path, 1 << 20, &text, &size) == NP_OK) json = cJSON_Parse(text);
  if (!json) printf("  %s: not JSON\n", path);
  free(text);
  free(path);
  return json;
}

float *golden_floats(const np_safetensors *file, const char *name, int64_t offset, int64_t count) {
  const np_tensor *t = np_safetensors_find(file, name);
  if (!t || t->dtype != NP_F32 || np_tensor_count(t) < offset + count) {
    printf("  %s: the case has no such float32 tensor of at least %lld values\n", name, (long long)(offset + count));
    return NULL;
  }
  float *out = malloc((size_t)count * sizeof *out);
  if (out) memcpy(out, (const float *)t->data + offset, (size_t)count * sizeof *out);
  return out;
}
