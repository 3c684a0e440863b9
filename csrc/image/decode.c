#include "image/internal.h"
#include "util/file.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void np_image_free(np_image *image) {
  free(image->pixels);
  *image = (np_image){0};
}

np_status np_image_alloc(np_image *out, int height, int width, int channels) {
  const size_t bytes = (size_t)height * (size_t)width * (size_t)channels;
  *out = (np_image){.height = height, .width = width, .channels = channels, .pixels = malloc(bytes)};
  if (!out->pixels) return np_error(NP_ERR_MEMORY, "no memory for an image of %d x %d pixels", width, height);
  return NP_OK;
}

np_status np_image_check_size(const char *name, int64_t height, int64_t width, int64_t max_pixels) {
  if (height < 1 || width < 1) return np_error(NP_ERR_FORMAT, "%s: an image without pixels", name);
  if (height > max_pixels / width)
    return np_error(NP_ERR_FORMAT, "%s: %lld x %lld pixels, more than the limit of %lld", name, (long long)width,
                    (long long)height, (long long)max_pixels);
  return NP_OK;
}

np_status np_image_decode(const void *bytes, size_t size, const char *name, int channels, int64_t max_pixels,
                          np_image *out) {
  static const unsigned char png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  static const unsigned char jpeg[3] = {0xff, 0xd8, 0xff};
  *out = (np_image){0};
  if (channels != 1 && channels != 3)
    return np_error(NP_ERR_ARGUMENT, "%s: channels is %d, expected 1 or 3", name, channels);
  if (size == 0) return np_error(NP_ERR_FORMAT, "%s: empty, expected a PNG or JPEG image", name);
  if (size >= sizeof png && !memcmp(bytes, png, sizeof png))
    return np_decode_png(bytes, size, name, channels, max_pixels, out);
  if (size >= sizeof jpeg && !memcmp(bytes, jpeg, sizeof jpeg))
    return np_decode_jpeg(bytes, size, name, channels, max_pixels, out);
  return np_error(NP_ERR_FORMAT, "%s: neither PNG nor JPEG", name);
}

bool np_image_is_name(const char *name) {
  static const char *const endings[] = {".png", ".jpg", ".jpeg"};
  size_t length = strlen(name);
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    size_t n = strlen(endings[i]);
    if (length > n && strcasecmp(name + length - n, endings[i]) == 0) return true;
  }
  return false;
}

np_status np_image_read(const char *path, int channels, int64_t max_pixels, np_image *out) {
  np_status st = NP_OK;
  char *bytes = NULL;
  size_t size = 0;
  *out = (np_image){0};
  NP_TRY(np_file_read(path, NP_IMAGE_MAX_BYTES, &bytes, &size));
  NP_TRY(np_image_decode(bytes, size, path, channels, max_pixels, out));
out:
  free(bytes);
  return st;
}
