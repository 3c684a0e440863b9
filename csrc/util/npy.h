/* NumPy's .npy files, format 1.0, little-endian, C order. */
#ifndef NP_UTIL_NPY_H
#define NP_UTIL_NPY_H

#include "util/file.h"
#include "util/status.h"

#include <stdint.h>

/* Write the header of a float32 array of `ndim` sizes; the caller then np_file_puts the rows. */
np_status np_npy_header_f32(np_file_writer *writer, const int64_t *shape, int ndim);

#endif
