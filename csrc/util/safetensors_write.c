#include "util/file.h"
#include "util/safetensors.h"
#include "util/safetensors_format.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static np_status no_memory(const char *path) {
  return np_error(NP_ERR_MEMORY, "no memory for the header of '%s'", path);
}

/* {"dtype":…,"shape":[…],"data_offsets":[begin,end]} as text: cJSON's numbers are doubles and would print 1e+15. */
static char *entry_text(const np_tensor *tensor, uint64_t begin) {
  char *shape = np_format("%s", "");
  for (int d = 0; d < tensor->ndim; d++) {
    char *longer = np_format("%s%s%lld", shape, d ? "," : "", (long long)tensor->shape[d]);
    free(shape);
    shape = longer;
  }
  char *text = np_format("{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                         np_safetensors_dtype_name(tensor->dtype), shape, (unsigned long long)begin,
                         (unsigned long long)(begin + tensor->bytes));
  free(shape);
  return text;
}

static int by_name(const void *a, const void *b) {
  return strcmp((*(const np_tensor *const *)a)->name, (*(const np_tensor *const *)b)->name);
}

/* What the reader would refuse must not be written. */
static np_status check(const char *path, const np_tensor *tensors, int count) {
  np_status st = NP_OK;
  const np_tensor **sorted = malloc(((size_t)count + 1) * sizeof *sorted);
  if (!sorted) return no_memory(path);
  for (int i = 0; i < count; i++) {
    const np_tensor *t = sorted[i] = &tensors[i];
    uint64_t bytes;
    if (t->ndim < 0 || t->ndim > NP_MAX_DIMS || !np_safetensors_bytes(t, &bytes) || bytes != t->bytes) {
      st = np_error(NP_ERR_ARGUMENT,
                    "cannot write '%s': tensor '%s' has %zu bytes, which its shape and type do not give", path, t->name,
                    t->bytes);
      goto out;
    }
    if (strcmp(t->name, NP_SAFETENSORS_METADATA) == 0) {
      st = np_error(NP_ERR_ARGUMENT, "cannot write '%s': '%s' is not a name for a tensor", path, t->name);
      goto out;
    }
  }
  qsort(sorted, (size_t)count, sizeof *sorted, by_name);
  for (int i = 1; i < count; i++) {
    if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) {
      st = np_error(NP_ERR_ARGUMENT, "cannot write '%s': two tensors are named '%s'", path, sorted[i]->name);
      goto out;
    }
  }
out:
  free(sorted);
  return st;
}

static np_status header_text(const char *path, const np_tensor *tensors, int count, const np_metadata *metadata,
                             int metadata_count, char **out) {
  np_status st = NP_ERR_MEMORY;
  uint64_t begin = 0;
  cJSON *root = cJSON_CreateObject();
  if (!root) goto out;
  if (metadata_count > 0) {
    cJSON *strings = cJSON_AddObjectToObject(root, NP_SAFETENSORS_METADATA);
    for (int i = 0; i < metadata_count; i++)
      if (!cJSON_AddStringToObject(strings, metadata[i].key, metadata[i].value)) goto out;
  }
  for (int i = 0; i < count; i++) {
    char *text = entry_text(&tensors[i], begin);
    const cJSON *added = cJSON_AddRawToObject(root, tensors[i].name, text);
    free(text);
    if (!added) goto out;
    begin += tensors[i].bytes;
  }
  *out = cJSON_PrintUnformatted(root);
  if (*out) st = NP_OK;
out:
  cJSON_Delete(root);
  return st == NP_OK ? NP_OK : no_memory(path);
}

static np_status put_header(np_file_writer *writer, const char *text) {
  np_status st = NP_OK;
  enum { LENGTH_BYTES = 8, ALIGNMENT = 64 };
  size_t used = strlen(text);
  size_t padding = (ALIGNMENT - (LENGTH_BYTES + used) % ALIGNMENT) % ALIGNMENT;
  uint64_t length = used + padding;
  unsigned char bytes[LENGTH_BYTES];
  char spaces[ALIGNMENT];
  if (length > NP_SAFETENSORS_MAX_HEADER)
    return np_error(NP_ERR_ARGUMENT, "cannot write '%s': a header of %llu bytes is over the format's limit",
                    writer->path, (unsigned long long)length);
  for (int i = 0; i < LENGTH_BYTES; i++) bytes[i] = (unsigned char)(length >> (8 * i));
  memset(spaces, ' ', sizeof spaces);
  NP_TRY(np_file_put(writer, bytes, sizeof bytes));
  NP_TRY(np_file_put(writer, text, used));
  st = np_file_put(writer, spaces, padding);
out:
  return st;
}

np_status np_safetensors_write(const char *path, const np_tensor *tensors, int count, const np_metadata *metadata,
                               int metadata_count) {
  np_status st = NP_OK;
  np_file_writer writer = {.descriptor = -1};
  char *text = NULL;
  NP_TRY(check(path, tensors, count));
  NP_TRY(header_text(path, tensors, count, metadata, metadata_count, &text));
  NP_TRY(np_file_begin(&writer, path));
  NP_TRY(put_header(&writer, text));
  for (int i = 0; i < count; i++) NP_TRY(np_file_put(&writer, tensors[i].data, tensors[i].bytes));
  st = np_file_commit(&writer);
out:
  np_file_abort(&writer);
  cJSON_free(text);
  return st;
}
