/* What the files of the image room share with each other and with nobody else. */
#ifndef NP_IMAGE_INTERNAL_H
#define NP_IMAGE_INTERNAL_H

#include "image/image.h"

/* Allocate out->pixels (not cleared) for height × width × channels, all >= 1. */
np_status np_image_alloc(np_image *out, int height, int width, int channels);

/* NP_OK when an image of this size may be decoded, else NP_ERR_FORMAT. */
np_status np_image_check_size(const char *name, int64_t height, int64_t width, int64_t max_pixels);

/* Decoders for one format each; contract of np_image_decode. *out is zeroed on entry and left without pixels on
 * failure. */
np_status np_decode_png(const void *bytes, size_t size, const char *name, int channels, int64_t max_pixels,
                        np_image *out);
np_status np_decode_jpeg(const void *bytes, size_t size, const char *name, int channels, int64_t max_pixels,
                         np_image *out);

/* Luma of ITU-R 601 in 16-bit fixed point, as Pillow's convert("L"). */
static inline uint8_t np_grey(const uint8_t rgb[3]) {
  return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

#endif
