/* Inside of the image room: resampling a window of the result, and the loops along rows and columns. */
#ifndef NP_IMAGE_RESIZE_H
#define NP_IMAGE_RESIZE_H

#include "image/image.h"

/* Fraction bits of a weight: 32, less 8 for the pixel, less 2 because weights may be negative and sums exceed one. */
enum { NP_WEIGHT_BITS = 22 };

/* For each of `size` outputs along an axis: the first input under the filter, how many, and their weights. */
typedef struct np_axis {
  int size, taps;  /* taps: room for weights of an output, even */
  int *first;      /* [size] */
  int *count;      /* [size], <= taps */
  int32_t *weight; /* [size, taps], zero behind `count` */
} np_axis;

/* The part [top, left, height, width] of a result that would have full_height × full_width pixels. */
typedef struct np_window {
  int full_height, full_width;
  int top, left, height, width;
} np_window;

/* As np_image_resize to the full size, but only the pixels of the window are made. */
np_status np_image_resize_window(const np_image *in, np_box box, np_window window, np_interpolation how, np_image *out);

/* Bytes of scratch for np_resample_across over `in_width` pixels. */
size_t np_row_scratch(int in_width, int taps);

/* One row of in_width pixels → axis->size pixels. */
void np_resample_across(const uint8_t *in, int in_width, int channels, const np_axis *axis, uint8_t *scratch,
                        uint8_t *out);

/* `count` rows of `bytes` values, `stride` apart, weighed and summed into one. */
void np_resample_down(const uint8_t *rows, size_t stride, size_t bytes, int count, const int32_t *weight, uint8_t *out);

#endif
