/* Any bytes as a safetensors file: refused with a reason, or every byte of every tensor can be touched. */
#include "util/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  np_safetensors *file;
  if (np_safetensors_parse(data, size, "fuzz", &file) != NP_OK) {
    if (file || !*np_error_message()) abort();
    return 0;
  }
  unsigned sum = 0;
  size_t bytes = 0;
  for (int i = 0; i < np_safetensors_count(file); i++) {
    const np_tensor *t = np_safetensors_at(file, i);
    for (size_t b = 0; b < t->bytes; b++) sum += ((const uint8_t *)t->data)[b];
    bytes += t->bytes;
    if (np_safetensors_find(file, t->name) != t) abort();
    if ((size_t)np_tensor_count(t) * np_dtype_size(t->dtype) != t->bytes) abort();
    if (t->bytes <= 1 << 16) {
      float *values = malloc((size_t)np_tensor_count(t) * sizeof *values + 1);
      if (values && np_tensor_to_f32(t, values, np_tensor_count(t)) == NP_OK && np_tensor_count(t) > 0)
        sum += values[0] > 0;
      free(values);
    }
  }
  if (bytes > size) abort();
  const char *format = np_safetensors_metadata(file, "format");
  if (format) sum += (unsigned)strlen(format);
  np_safetensors_close(file);
  volatile unsigned touched = sum;
  (void)touched;
  return 0;
}
