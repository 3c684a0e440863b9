/* Safetensors files: a JSON header (names, types, shapes, offsets, string metadata), then raw little-endian tensors.
 * Format: https://github.com/huggingface/safetensors. */
#ifndef NP_UTIL_SAFETENSORS_H
#define NP_UTIL_SAFETENSORS_H

#include "util/dtype.h"
#include "util/status.h"

#include <stddef.h>
#include <stdint.h>

enum { NP_MAX_DIMS = 8 };

typedef struct np_tensor {
  const char *name;
  np_dtype dtype;
  int ndim;                   /* 0: a scalar */
  int64_t shape[NP_MAX_DIMS]; /* row-major */
  const void *data;           /* read: inside the mapping, valid until close; write: the caller's */
  size_t bytes;
} np_tensor;

typedef struct np_safetensors np_safetensors;

/* Map a file read-only and check all of it that can be checked without reading the data: header size and JSON, every
 * type, shape and offset, no overlap, no hole, nothing past the end. NP_ERR_IO or NP_ERR_FORMAT with the path and the
 * reason; *out is NULL then. */
np_status np_safetensors_open(const char *path, np_safetensors **out);
/* The same over bytes in memory, which must outlive the handle. `name` stands in messages. */
np_status np_safetensors_parse(const void *bytes, size_t size, const char *name, np_safetensors **out);
void np_safetensors_close(np_safetensors *file); /* NULL is fine */

int np_safetensors_count(const np_safetensors *file);
/* In the order of their offsets. */
const np_tensor *np_safetensors_at(const np_safetensors *file, int i);
/* NULL when there is none of that name. */
const np_tensor *np_safetensors_find(const np_safetensors *file, const char *name);
/* A value of "__metadata__"; NULL when absent. */
const char *np_safetensors_metadata(const np_safetensors *file, const char *key);

typedef struct np_metadata {
  const char *key, *value;
} np_metadata;

/* Write through a temporary file beside `path`, sync it, rename it, sync the folder: `path` is either the old file or
 * the whole new one. On failure the temporary is removed. Data starts at a multiple of 64 bytes. */
np_status np_safetensors_write(const char *path, const np_tensor *tensors, int count, const np_metadata *metadata,
                               int metadata_count);

/* Copy elements into floats (`data` of a file that another program wrote may be unaligned: do not cast it); dtype F64,
 * F32, F16 or BF16, else NP_ERR_FORMAT. `count` must be the tensor's. */
np_status np_tensor_to_f32(const np_tensor *tensor, float *out, int64_t count);
int64_t np_tensor_count(const np_tensor *tensor);

#endif
