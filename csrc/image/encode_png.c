#include "image/internal.h"
#include "util/file.h"

#include <stdlib.h>

#include <png.h>

np_status np_image_encode_png(const np_image *image, uint8_t **out, size_t *size) {
  *out = NULL;
  *size = 0;
  png_image header = {.version = PNG_IMAGE_VERSION,
                      .width = (png_uint_32)image->width,
                      .height = (png_uint_32)image->height,
                      .format = image->channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY};
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(header);
  uint8_t *memory = malloc(bytes);
  if (!memory) return np_error(NP_ERR_MEMORY, "no memory to encode %d x %d pixels", image->width, image->height);
  if (!png_image_write_to_memory(&header, memory, &bytes, 0, image->pixels, 0, NULL)) {
    free(memory);
    return np_error(NP_ERR_LIBRARY, "libpng: %s", header.message);
  }
  *out = memory;
  *size = bytes;
  return NP_OK;
}

np_status np_image_write_png(const char *path, const np_image *image) {
  np_status st = NP_OK;
  uint8_t *bytes = NULL;
  size_t size = 0;
  NP_TRY(np_image_encode_png(image, &bytes, &size));
  NP_TRY(np_file_write(path, bytes, size));
out:
  free(bytes);
  return st;
}
