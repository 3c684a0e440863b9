/* Flip, the evaluation crop, and RandomResizedCrop's box, with torchvision's roundings. Python rounds halves to even:
 * rint. */
#include "image/image.h"
#include "image/resize.h"
#include "util/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void np_image_flip(np_image *image) {
  const size_t pixel = (size_t)image->channels, width = (size_t)image->width;
  for (int y = 0; y < image->height; y++) {
    uint8_t *left = image->pixels + (size_t)y * width * pixel, *right = left + (width - 1) * pixel;
    for (; left < right; left += pixel, right -= pixel)
      for (size_t c = 0; c < pixel; c++) {
        const uint8_t value = left[c];
        left[c] = right[c];
        right[c] = value;
      }
  }
}

/* Where the crop lies along one axis of the resized image: the pixels [from, from + size) of it land at `at`; the rest
 * of the crop is the black that CenterCrop pads a too small image with. */
typedef struct span {
  int from, size, at;
} span;

static span centre(int resized, int crop) {
  if (resized < crop) return (span){.from = 0, .size = resized, .at = (crop - resized) / 2};
  return (span){.from = (int)rint((resized - crop) / 2.0), .size = crop, .at = 0};
}

np_status np_image_eval_crop(const np_image *in, int height, int width, np_image *out) {
  *out = (np_image){0};
  if (height < 1 || width < 1) return np_error(NP_ERR_ARGUMENT, "cannot crop to %d x %d", width, height);
  const int shortest = (int)ceil((height < width ? height : width) / 0.875);
  const int tall = in->height > in->width;
  const int in_short = tall ? in->width : in->height, in_long = tall ? in->height : in->width;
  const double longest = (double)((int64_t)shortest * in_long) / in_short;
  if (longest >= 1e9) return np_error(NP_ERR_FORMAT, "%d x %d pixels are too narrow to crop", in->width, in->height);
  const int full_height = tall ? (int)longest : shortest, full_width = tall ? shortest : (int)longest;
  const span rows = centre(full_height, height), columns = centre(full_width, width);
  const np_box all = {.top = 0, .left = 0, .height = in->height, .width = in->width};
  const np_window window = {.full_height = full_height,
                            .full_width = full_width,
                            .top = rows.from,
                            .left = columns.from,
                            .height = rows.size,
                            .width = columns.size};
  np_image crop;
  np_status st = np_image_resize_window(in, all, window, NP_BICUBIC, &crop);
  if (st != NP_OK) return st;
  if (crop.height == height && crop.width == width) {
    *out = crop;
    return NP_OK;
  }
  const size_t pixel = (size_t)in->channels, stride = (size_t)width * pixel;
  *out =
      (np_image){.height = height, .width = width, .channels = in->channels, .pixels = calloc((size_t)height, stride)};
  if (!out->pixels) st = np_error(NP_ERR_MEMORY, "no memory for a crop of %d x %d", width, height);
  for (int y = 0; st == NP_OK && y < crop.height; y++)
    memcpy(out->pixels + (size_t)(rows.at + y) * stride + (size_t)columns.at * pixel,
           crop.pixels + (size_t)y * (size_t)crop.width * pixel, (size_t)crop.width * pixel);
  np_image_free(&crop);
  if (st != NP_OK) *out = (np_image){0};
  return st;
}

static double between(double low, double high, np_rng *rng) { return low + (high - low) * np_rng_uniform(rng); }

/* The largest box of an allowed ratio in the middle. */
static np_box central_box(int in_height, int in_width, const np_crop_range *range) {
  const double ratio = (double)in_width / in_height;
  np_box box = {.height = in_height, .width = in_width};
  if (ratio < range->ratio_min) box.height = (int)rint(in_width / range->ratio_min);
  if (ratio > range->ratio_max) box.width = (int)rint(in_height * range->ratio_max);
  if (box.height < 1) box.height = 1;
  if (box.width < 1) box.width = 1;
  box.top = (in_height - box.height) / 2;
  box.left = (in_width - box.width) / 2;
  return box;
}

np_box np_image_random_box(int in_height, int in_width, const np_crop_range *range, np_rng *rng) {
  const double area = (double)in_height * in_width;
  for (int attempt = 0; attempt < 10; attempt++) {
    const double target = area * between(range->scale_min, range->scale_max, rng);
    const double ratio = exp(between(log(range->ratio_min), log(range->ratio_max), rng));
    const double width = rint(sqrt(target * ratio)), height = rint(sqrt(target / ratio));
    if (!(width >= 1 && width <= in_width && height >= 1 && height <= in_height)) continue;
    np_box box = {.height = (int)height, .width = (int)width};
    box.top = (int)np_rng_below(rng, (uint32_t)(in_height - box.height) + 1);
    box.left = (int)np_rng_below(rng, (uint32_t)(in_width - box.width) + 1);
    return box;
  }
  return central_box(in_height, in_width, range);
}
