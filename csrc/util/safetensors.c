#include "util/safetensors.h"
#include "util/safetensors_format.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LENGTH_BYTES = 8 };

struct np_safetensors {
  void *mapping; /* NULL when the bytes are the caller's */
  size_t mapped;
  cJSON *header;      /* owns every name and metadata string */
  np_tensor *tensors; /* in the order of their offsets */
  np_tensor **sorted; /* by name */
  int count;
  const cJSON *metadata;
};

/* ---- types and sizes
 * ------------------------------------------------------------------------------------------------- */

static const char *const dtype_names[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"};
enum { DTYPES = sizeof dtype_names / sizeof *dtype_names };

const char *np_safetensors_dtype_name(np_dtype type) { return dtype_names[type]; }

bool np_safetensors_bytes(const np_tensor *tensor, uint64_t *bytes) {
  /* below 2^63 at every step, although a size of zero may follow: np_tensor_count multiplies in the same order */
  uint64_t product = np_dtype_size(tensor->dtype);
  for (int d = 0; d < tensor->ndim; d++) {
    if (tensor->shape[d] < 0 || __builtin_mul_overflow(product, (uint64_t)tensor->shape[d], &product)) return false;
    if (product > INT64_MAX) return false;
  }
  *bytes = product;
  return true;
}

int64_t np_tensor_count(const np_tensor *tensor) {
  int64_t count = 1;
  for (int d = 0; d < tensor->ndim; d++) count *= tensor->shape[d];
  return count;
}

/* ---- one entry of the header
 * ----------------------------------------------------------------------------------------- */

/* A whole number that a double holds exactly. */
static bool whole_number(const cJSON *item, int64_t *out) {
  if (!cJSON_IsNumber(item)) return false;
  double value = item->valuedouble;
  if (!(value >= 0 && value <= 9007199254740992.0)) return false;
  *out = (int64_t)value;
  return (double)*out == value;
}

static bool parse_dtype(const cJSON *item, np_dtype *out) {
  if (!cJSON_IsString(item)) return false;
  for (int i = 0; i < DTYPES; i++) {
    if (strcmp(item->valuestring, dtype_names[i]) != 0) continue;
    *out = (np_dtype)i;
    return true;
  }
  return false;
}

static bool parse_shape(const cJSON *item, np_tensor *out) {
  const cJSON *size;
  if (!cJSON_IsArray(item)) return false;
  out->ndim = 0;
  cJSON_ArrayForEach(size, item) {
    if (out->ndim == NP_MAX_DIMS || !whole_number(size, &out->shape[out->ndim])) return false;
    out->ndim++;
  }
  return true;
}

static bool parse_offsets(const cJSON *item, uint64_t *begin, uint64_t *end) {
  int64_t value[2];
  int used = 0;
  const cJSON *offset;
  if (!cJSON_IsArray(item)) return false;
  cJSON_ArrayForEach(offset, item) {
    if (used == 2 || !whole_number(offset, &value[used])) return false;
    used++;
  }
  if (used != 2 || value[0] > value[1]) return false;
  *begin = (uint64_t)value[0];
  *end = (uint64_t)value[1];
  return true;
}

static np_status parse_entry(const cJSON *entry, const char *name, const unsigned char *data, uint64_t data_bytes,
                             np_tensor *out) {
  const cJSON *dtype = NULL, *shape = NULL, *offsets = NULL, *field;
  bool clean = cJSON_IsObject(entry);
  *out = (np_tensor){.name = entry->string};
  if (clean) {
    cJSON_ArrayForEach(field, entry) {
      const cJSON **slot = strcmp(field->string, "dtype") == 0          ? &dtype
                           : strcmp(field->string, "shape") == 0        ? &shape
                           : strcmp(field->string, "data_offsets") == 0 ? &offsets
                                                                        : NULL;
      if (!slot || *slot) clean = false;
      else *slot = field;
    }
  }
  if (!clean || !dtype || !shape || !offsets)
    return np_error(NP_ERR_FORMAT, "'%s': tensor '%s' does not have exactly the keys dtype, shape and data_offsets",
                    name, out->name);
  if (!parse_dtype(dtype, &out->dtype))
    return np_error(NP_ERR_FORMAT, "'%s': tensor '%s' has the unknown type %s", name, out->name,
                    cJSON_IsString(dtype) ? dtype->valuestring : "(not a string)");
  if (!parse_shape(shape, out))
    return np_error(NP_ERR_FORMAT, "'%s': the shape of tensor '%s' is not an array of at most %d whole numbers", name,
                    out->name, NP_MAX_DIMS);
  uint64_t bytes, begin, end;
  if (!np_safetensors_bytes(out, &bytes))
    return np_error(NP_ERR_FORMAT, "'%s': the shape of tensor '%s' is too large", name, out->name);
  if (!parse_offsets(offsets, &begin, &end))
    return np_error(NP_ERR_FORMAT, "'%s': data_offsets of tensor '%s' are not two whole numbers in rising order", name,
                    out->name);
  if (end > data_bytes)
    return np_error(NP_ERR_FORMAT,
                    "'%s': tensor '%s' ends at byte %llu of the data, but there are only %llu (truncated?)", name,
                    out->name, (unsigned long long)end, (unsigned long long)data_bytes);
  if (end - begin != bytes)
    return np_error(NP_ERR_FORMAT, "'%s': tensor '%s' has %llu bytes; its shape and type need %llu", name, out->name,
                    (unsigned long long)(end - begin), (unsigned long long)bytes);
  out->data = data + begin;
  out->bytes = (size_t)bytes;
  return NP_OK;
}

static np_status check_metadata(const cJSON *item, const char *name) {
  const cJSON *value;
  bool good = cJSON_IsObject(item);
  if (good) {
    cJSON_ArrayForEach(value, item) good = good && cJSON_IsString(value);
  }
  return good ? NP_OK : np_error(NP_ERR_FORMAT, "'%s': " NP_SAFETENSORS_METADATA " is not a set of strings", name);
}

/* ---- the whole header
 * ------------------------------------------------------------------------------------------------ */

static int by_place(const void *a, const void *b) {
  const np_tensor *x = a, *y = b;
  uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
  if (p != q) return p < q ? -1 : 1;
  return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors before the one that begins there */
}

static int by_name(const void *a, const void *b) {
  return strcmp((*(np_tensor *const *)a)->name, (*(np_tensor *const *)b)->name);
}

static np_status collect(np_safetensors *file, const char *name, const unsigned char *data, uint64_t data_bytes) {
  np_status st = NP_OK;
  const cJSON *entry;
  size_t room = (size_t)cJSON_GetArraySize(file->header) + 1;
  file->tensors = calloc(room, sizeof *file->tensors);
  file->sorted = calloc(room, sizeof *file->sorted);
  if (!file->tensors || !file->sorted) return np_error(NP_ERR_MEMORY, "no memory for the header of '%s'", name);
  cJSON_ArrayForEach(entry, file->header) {
    if (strcmp(entry->string, NP_SAFETENSORS_METADATA) == 0) {
      if (file->metadata) return np_error(NP_ERR_FORMAT, "'%s': " NP_SAFETENSORS_METADATA " stands there twice", name);
      NP_TRY(check_metadata(entry, name));
      file->metadata = entry;
    } else {
      NP_TRY(parse_entry(entry, name, data, data_bytes, &file->tensors[file->count]));
      file->count++;
    }
  }
out:
  return st;
}

/* Every byte of the data belongs to exactly one tensor; every name stands once. */
static np_status check_whole(np_safetensors *file, const char *name, const unsigned char *data, uint64_t data_bytes) {
  qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_place);
  uint64_t reached = 0;
  for (int i = 0; i < file->count; i++) {
    const np_tensor *t = &file->tensors[i];
    uint64_t begin = (uint64_t)((const unsigned char *)t->data - data);
    if (begin != reached)
      return np_error(NP_ERR_FORMAT, "'%s': tensor '%s' begins at byte %llu of the data; %s", name, t->name,
                      (unsigned long long)begin, begin < reached ? "it overlaps another" : "there is a hole before it");
    reached += t->bytes;
    file->sorted[i] = &file->tensors[i];
  }
  if (reached != data_bytes)
    return np_error(NP_ERR_FORMAT, "'%s': the tensors have %llu bytes, the file holds %llu", name,
                    (unsigned long long)reached, (unsigned long long)data_bytes);
  qsort(file->sorted, (size_t)file->count, sizeof *file->sorted, by_name);
  for (int i = 1; i < file->count; i++)
    if (strcmp(file->sorted[i - 1]->name, file->sorted[i]->name) == 0)
      return np_error(NP_ERR_FORMAT, "'%s': two tensors are named '%s'", name, file->sorted[i]->name);
  return NP_OK;
}

static np_status parse_header(np_safetensors *file, const unsigned char *bytes, size_t size, const char *name) {
  if (size < LENGTH_BYTES)
    return np_error(NP_ERR_FORMAT, "'%s' has %zu bytes: too short for a safetensors file", name, size);
  uint64_t length = 0;
  for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint64_t)bytes[i] << (8 * i);
  if (length > NP_SAFETENSORS_MAX_HEADER)
    return np_error(NP_ERR_FORMAT, "'%s': a header of %llu bytes is over the limit of %d (not a safetensors file?)",
                    name, (unsigned long long)length, NP_SAFETENSORS_MAX_HEADER);
  if (length > size - LENGTH_BYTES)
    return np_error(NP_ERR_FORMAT, "'%s': the header should have %llu bytes, the file has only %zu more (truncated?)",
                    name, (unsigned long long)length, size - LENGTH_BYTES);
  const char *text = (const char *)bytes + LENGTH_BYTES, *end = NULL;
  file->header = cJSON_ParseWithLengthOpts(text, (size_t)length, &end, false);
  for (; file->header && end < text + length; end++) {
    if (*end == ' ' || *end == '\n' || *end == '\r' || *end == '\t') continue;
    return np_error(NP_ERR_FORMAT, "'%s': something stands behind the header's JSON", name);
  }
  if (!cJSON_IsObject(file->header)) return np_error(NP_ERR_FORMAT, "'%s': the header is not a JSON object", name);
  np_status st = NP_OK;
  const unsigned char *data = bytes + LENGTH_BYTES + length;
  uint64_t data_bytes = size - LENGTH_BYTES - length;
  NP_TRY(collect(file, name, data, data_bytes));
  st = check_whole(file, name, data, data_bytes);
out:
  return st;
}

np_status np_safetensors_parse(const void *bytes, size_t size, const char *name, np_safetensors **out) {
  np_status st = NP_OK;
  *out = NULL;
  np_safetensors *file = calloc(1, sizeof *file);
  if (!file) return np_error(NP_ERR_MEMORY, "no memory to read '%s'", name);
  NP_TRY(parse_header(file, bytes, size, name));
  *out = file;
  return NP_OK;
out:
  np_safetensors_close(file);
  return st;
}

np_status np_safetensors_open(const char *path, np_safetensors **out) {
  np_status st = NP_OK;
  struct stat about;
  void *mapping = MAP_FAILED;
  size_t size = 0;
  *out = NULL;
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return np_error(NP_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
  if (fstat(descriptor, &about) != 0 || !S_ISREG(about.st_mode)) {
    st = np_error(NP_ERR_IO, "cannot read '%s': not a regular file", path);
    goto out;
  }
  if (about.st_size == 0) {
    st = np_error(NP_ERR_FORMAT, "'%s' is empty", path);
    goto out;
  }
  size = (size_t)about.st_size;
  mapping = mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (mapping == MAP_FAILED) {
    st = np_error(NP_ERR_IO, "cannot map '%s': %s", path, strerror(errno));
    goto out;
  }
  NP_TRY(np_safetensors_parse(mapping, size, path, out));
  (*out)->mapping = mapping;
  (*out)->mapped = size;
  mapping = MAP_FAILED;
out:
  if (mapping != MAP_FAILED) munmap(mapping, size);
  close(descriptor);
  return st;
}

void np_safetensors_close(np_safetensors *file) {
  if (!file) return;
  if (file->mapping) munmap(file->mapping, file->mapped);
  cJSON_Delete(file->header);
  free(file->tensors);
  free(file->sorted);
  free(file);
}

/* ---- what stands in it
 * ----------------------------------------------------------------------------------------------- */

int np_safetensors_count(const np_safetensors *file) { return file->count; }

const np_tensor *np_safetensors_at(const np_safetensors *file, int i) { return &file->tensors[i]; }

const np_tensor *np_safetensors_find(const np_safetensors *file, const char *name) {
  np_tensor wanted = {.name = name}, *key = &wanted;
  np_tensor *const *found = bsearch(&key, file->sorted, (size_t)file->count, sizeof *file->sorted, by_name);
  return found ? *found : NULL;
}

const char *np_safetensors_metadata(const np_safetensors *file, const char *key) {
  return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(file->metadata, key));
}

static float f16_to_f32(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 0x1fu, fraction = half & 0x3ffu;
  uint32_t bits;
  float out;
  if (exponent == 0) { /* zero or subnormal: fraction × 2^-24, exact in float */
    out = (float)fraction * 0x1p-24f;
    return sign ? -out : out;
  }
  if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
  else bits = sign | (exponent + 112) << 23 | fraction << 13;
  memcpy(&out, &bits, sizeof out);
  return out;
}

np_status np_tensor_to_f32(const np_tensor *tensor, float *out, int64_t count) {
  if (np_tensor_count(tensor) != count)
    return np_error(NP_ERR_FORMAT, "tensor '%s' has %lld values where %lld were expected", tensor->name,
                    (long long)np_tensor_count(tensor), (long long)count);
  const unsigned char *from = tensor->data; /* not always aligned: other writers do not pad their header */
  if (tensor->dtype == NP_F32) {
    if (count) memcpy(out, from, (size_t)count * sizeof *out);
  } else if (tensor->dtype == NP_F64) {
    for (int64_t i = 0; i < count; i++) {
      double value;
      memcpy(&value, from + i * 8, sizeof value);
      out[i] = (float)value;
    }
  } else if (tensor->dtype == NP_F16 || tensor->dtype == NP_BF16) {
    for (int64_t i = 0; i < count; i++) {
      uint16_t value;
      memcpy(&value, from + i * 2, sizeof value);
      out[i] = tensor->dtype == NP_F16 ? f16_to_f32(value) : np_bf16_to_f32(value);
    }
  } else {
    return np_error(NP_ERR_FORMAT, "tensor '%s' is of type %s where floating-point values were expected", tensor->name,
                    np_safetensors_dtype_name(tensor->dtype));
  }
  return NP_OK;
}
