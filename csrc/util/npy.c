#include "util/npy.h"

#include <stdlib.h>
#include <string.h>

np_status np_npy_header_f32(np_file_writer *writer, const int64_t *shape, int ndim) {
  /* magic, version, uint16 length, dictionary padded with spaces and a newline to a multiple of 64
   * (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html) */
  char *sizes = np_format("%s", "");
  for (int i = 0; i < ndim; i++) {
    char *longer = np_format("%s%s%lld", sizes, i ? ", " : "", (long long)shape[i]);
    free(sizes);
    sizes = longer;
  }
  char *dictionary =
      np_format("{'descr': '<f4', 'fortran_order': False, 'shape': (%s%s), }", sizes, ndim == 1 ? "," : "");
  free(sizes);
  enum { PREAMBLE = 10, ALIGNMENT = 64 };
  size_t used = PREAMBLE + strlen(dictionary) + 1;
  size_t padding = (ALIGNMENT - used % ALIGNMENT) % ALIGNMENT;
  size_t length = used + padding - PREAMBLE;
  char *header = np_format("\x93NUMPY%c%c%c%c%s%*s\n", 1, 0, (int)(length & 0xff), (int)(length >> 8), dictionary,
                           (int)padding, "");
  np_status st = length > 0xffff ? np_error(NP_ERR_ARGUMENT, "%d dimensions are too many for a .npy header", ndim)
                                 : np_file_put(writer, header, PREAMBLE + length);
  free(header);
  free(dictionary);
  return st;
}
