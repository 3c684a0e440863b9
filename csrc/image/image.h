/* Images in memory, and how bytes of PNG and JPEG become them. */
#ifndef NP_IMAGE_IMAGE_H
#define NP_IMAGE_IMAGE_H

#include "util/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct np_image {
  int height, width, channels; /* channels 1 or 3 */
  uint8_t *pixels;             /* [height, width, channels], owned: malloc */
} np_image;

void np_image_free(np_image *image); /* zeroes the struct; a zeroed struct is fine */

/* Decode PNG or JPEG, told apart by their first bytes. channels 3: as Pillow's open(...).convert("RGB"); 1: as
 * convert("L"). NP_ERR_FORMAT for damaged, truncated or empty bytes, for an unknown format, and for an image of more than
 * `max_pixels` (checked before memory is taken). Never prints. `name` stands in messages. */
np_status np_image_decode(const void *bytes, size_t size, const char *name, int channels, int64_t max_pixels, np_image *out);

/* Whether a file of this name is taken for an image: *.png, *.jpg, *.jpeg, in any case. */
bool np_image_is_name(const char *name);

/* Read a file and decode it; one of more than NP_IMAGE_MAX_BYTES is NP_ERR_FORMAT. */
enum { NP_IMAGE_MAX_BYTES = 1 << 30 };
np_status np_image_read(const char *path, int channels, int64_t max_pixels, np_image *out);

/* Write a PNG (through a temporary name and rename). */
np_status np_image_write_png(const char *path, const np_image *image);
/* Encode a PNG into memory; *out is malloc'ed. */
np_status np_image_encode_png(const np_image *image, uint8_t **out, size_t *size);

typedef enum np_interpolation { NP_NEAREST, NP_BILINEAR, NP_BICUBIC } np_interpolation;

/* A rectangle of whole pixels inside an image. */
typedef struct np_box {
  int top, left, height, width;
} np_box;

/* Crop to `box`, then resample to height × width with Pillow's antialiased filters and its fixed-point rounding (the crop's
 * edge is the filter's edge, as in torchvision's resized_crop). out->pixels is allocated. */
np_status np_image_resize(const np_image *in, np_box box, int height, int width, np_interpolation how, np_image *out);

/* Mirror left to right, in place. */
void np_image_flip(np_image *image);

/* The evaluation crop: short side to ceil(size / 0.875) (of the target's own short side for non-square targets) with bicubic,
 * then the centre height × width, as torchvision's Resize and CenterCrop round. */
np_status np_image_eval_crop(const np_image *in, int height, int width, np_image *out);

/* RandomResizedCrop's box for `in_height` × `in_width` from ten tries of two uniforms and two integers; after them the centre
 * fallback. `uniform` draws from [0, 1). */
typedef struct np_crop_range {
  double scale_min, scale_max; /* share of the area */
  double ratio_min, ratio_max; /* width / height, drawn log-uniformly */
} np_crop_range;
struct np_rng;
np_box np_image_random_box(int in_height, int in_width, const np_crop_range *range, struct np_rng *rng);

/* Colour jitter as torchvision does it on Pillow images; the four operations in `order` (0 brightness, 1 contrast,
 * 2 saturation, 3 hue), each in uint8. hue in [-0.5, 0.5], the others are factors, 1 = leave. With one channel, saturation and
 * hue do nothing. */
typedef struct np_jitter {
  int order[4];
  double brightness, contrast, saturation, hue;
} np_jitter;
np_status np_image_jitter(np_image *image, const np_jitter *jitter);
/* Draw factors from [max(0, 1-x), 1+x] and hue from [-x, x], and the order. strength: brightness, contrast, saturation, hue. */
np_jitter np_jitter_draw(const double strength[4], struct np_rng *rng);

#endif
