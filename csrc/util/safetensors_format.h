/* What reader and writer of safetensors share. */
#ifndef NP_UTIL_SAFETENSORS_FORMAT_H
#define NP_UTIL_SAFETENSORS_FORMAT_H

#include "util/safetensors.h"

#include <stdbool.h>

#define NP_SAFETENSORS_METADATA "__metadata__"
enum { NP_SAFETENSORS_MAX_HEADER = 100000000 }; /* the limit of the format's own library */

/* "F32" and so on. */
const char *np_safetensors_dtype_name(np_dtype type);

/* Bytes that dtype and shape give; false when a size is negative or the product overflows. */
bool np_safetensors_bytes(const np_tensor *tensor, uint64_t *bytes);

#endif
