/* Pillow's two-pass antialiased resampling of 8-bit images, to the bit: every output value is a weighted sum over the
 * input pixels under the filter, whose support grows with the reduction; weights are rounded to 22 fractional bits,
 * sums to 8 bits after each pass. See resize_rows.c for the inner loops. */
#include "image/resize.h"
#include "image/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double bilinear(double x) {
  x = fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

/* Keys's cubic with a = -1/2. */
static double bicubic(double x) {
  const double a = -0.5;
  x = fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

static void axis_free(np_axis *axis) {
  free(axis->first);
  free(axis->count);
  free(axis->weight);
}

/* Weights of one output place over in[*first .. *first + *count), as doubles into `exact` and then as fixed point. */
static void weigh(double (*filter)(double), double support, double centre, double reduction, int in_size, double *exact,
                  int *first, int *count, int32_t *weight) {
  int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
  if (low < 0) low = 0;
  if (high > in_size) high = in_size;
  double sum = 0.0;
  const double shrink = 1.0 / reduction;
  for (int i = 0; i < high - low; i++) sum += exact[i] = filter((i + low - centre + 0.5) * shrink);
  for (int i = 0; i < high - low; i++) {
    if (sum != 0.0) exact[i] /= sum;
    weight[i] = (int32_t)((exact[i] < 0 ? -0.5 : 0.5) + exact[i] * (1 << NP_WEIGHT_BITS));
  }
  *first = low;
  *count = high - low;
}

/* The window [from, from + size) of the outputs that `in_size` pixels give when resampled to `full` pixels. */
static np_status axis_make(np_axis *axis, int in_size, int full, int from, int size, np_interpolation how) {
  np_status st = NP_OK;
  const double scale = (double)in_size / full, reduction = scale < 1.0 ? 1.0 : scale;
  const double support = (how == NP_BICUBIC ? 2.0 : 1.0) * reduction;
  double *exact = NULL;
  *axis = (np_axis){.size = size, .taps = (int)ceil(support) * 2 + 1};
  axis->taps += axis->taps & 1; /* even: the loops take two at a time; weights behind `count` are zero */
  axis->first = malloc((size_t)size * sizeof *axis->first);
  axis->count = malloc((size_t)size * sizeof *axis->count);
  axis->weight = calloc((size_t)size * (size_t)axis->taps, sizeof *axis->weight);
  exact = malloc((size_t)axis->taps * sizeof *exact);
  if (!axis->first || !axis->count || !axis->weight || !exact) {
    st = np_error(NP_ERR_MEMORY, "no memory to resample %d to %d pixels", in_size, full);
    goto out;
  }
  for (int i = 0; i < size; i++)
    weigh(how == NP_BICUBIC ? bicubic : bilinear, support, (from + i + 0.5) * scale, reduction, in_size, exact,
          &axis->first[i], &axis->count[i], axis->weight + (size_t)i * (size_t)axis->taps);
out:
  free(exact);
  return st;
}

/* Rows `top` .. `top` + rows of `in`, columns from `left` on: each resampled along the row. */
static np_status pass_across(const np_image *in, int top, int left, int rows, const np_axis *axis, np_image *out) {
  np_status st = NP_OK;
  const size_t stride = (size_t)in->width * (size_t)in->channels;
  const int last = axis->size - 1, needed = axis->first[last] + axis->count[last];
  uint8_t *scratch = malloc(np_row_scratch(needed, axis->taps));
  if (!scratch) return np_error(NP_ERR_MEMORY, "no memory to resample %d pixels", needed);
  NP_TRY(np_image_alloc(out, rows, axis->size, in->channels));
  for (int y = 0; y < rows; y++)
    np_resample_across(in->pixels + (size_t)(top + y) * stride + (size_t)left * (size_t)in->channels, needed,
                       in->channels, axis, scratch,
                       out->pixels + (size_t)y * (size_t)axis->size * (size_t)in->channels);
out:
  free(scratch);
  return st;
}

static np_status pass_down(const uint8_t *pixels, size_t stride, int width, int channels, const np_axis *axis,
                           np_image *out) {
  const size_t bytes = (size_t)width * (size_t)channels;
  np_status st = np_image_alloc(out, axis->size, width, channels);
  for (int y = 0; st == NP_OK && y < axis->size; y++)
    np_resample_down(pixels + (size_t)axis->first[y] * stride, stride, bytes, axis->count[y],
                     axis->weight + (size_t)y * (size_t)axis->taps, out->pixels + (size_t)y * bytes);
  return st;
}

/* Pixel positions by repeated addition in double, as Pillow's affine transform for scaling. */
static np_status resize_nearest(const np_image *in, np_box box, np_window window, np_image *out) {
  const double step_y = (double)box.height / window.full_height, step_x = (double)box.width / window.full_width;
  const size_t pixel = (size_t)in->channels;
  np_status st = np_image_alloc(out, window.height, window.width, in->channels);
  if (st != NP_OK) return st;
  double y = step_y * 0.5;
  for (int row = 0; row < window.top + window.height; row++, y += step_y) {
    if (row < window.top) continue;
    const uint8_t *from = in->pixels + ((size_t)(box.top + (int)y) * (size_t)in->width + (size_t)box.left) * pixel;
    uint8_t *to = out->pixels + (size_t)(row - window.top) * (size_t)window.width * pixel;
    double x = step_x * 0.5;
    for (int column = 0; column < window.left + window.width; column++, x += step_x)
      if (column >= window.left)
        for (size_t c = 0; c < pixel; c++)
          to[(size_t)(column - window.left) * pixel + c] = from[(size_t)(int)x * pixel + c];
  }
  return NP_OK;
}

static np_status resize_filtered(const np_image *in, np_box box, np_window window, np_interpolation how,
                                 np_image *out) {
  np_status st = NP_OK;
  np_axis across = {0}, down = {0};
  np_image between = {0};
  const size_t pixel = (size_t)in->channels;
  NP_TRY(axis_make(&across, box.width, window.full_width, window.left, window.width, how));
  NP_TRY(axis_make(&down, box.height, window.full_height, window.top, window.height, how));
  /* Only the rows that the second pass reads. */
  const int row_first = down.first[0];
  const int row_count = down.first[down.size - 1] + down.count[down.size - 1] - row_first;
  const int same_width = box.width == window.full_width, same_height = box.height == window.full_height;

  if (!same_width && !same_height) {
    NP_TRY(pass_across(in, box.top + row_first, box.left, row_count, &across, &between));
    const size_t stride = (size_t)window.width * pixel;
    for (int y = 0; y < down.size; y++) down.first[y] -= row_first;
    NP_TRY(pass_down(between.pixels, stride, window.width, in->channels, &down, out));
  } else if (!same_width) {
    NP_TRY(pass_across(in, box.top + window.top, box.left, window.height, &across, out));
  } else {
    const size_t stride = (size_t)in->width * pixel;
    const uint8_t *corner = in->pixels + (size_t)box.top * stride + (size_t)(box.left + window.left) * pixel;
    if (!same_height) {
      NP_TRY(pass_down(corner, stride, window.width, in->channels, &down, out));
    } else {
      NP_TRY(np_image_alloc(out, window.height, window.width, in->channels));
      for (int y = 0; y < window.height; y++)
        memcpy(out->pixels + (size_t)y * (size_t)window.width * pixel, corner + (size_t)(window.top + y) * stride,
               (size_t)window.width * pixel);
    }
  }
out:
  axis_free(&across);
  axis_free(&down);
  np_image_free(&between);
  return st;
}

np_status np_image_resize_window(const np_image *in, np_box box, np_window window, np_interpolation how,
                                 np_image *out) {
  np_status st;
  *out = (np_image){0};
  if (box.top < 0 || box.left < 0 || box.height < 1 || box.width < 1 || box.height > in->height - box.top ||
      box.width > in->width - box.left)
    return np_error(NP_ERR_ARGUMENT, "crop %d x %d at (%d, %d) leaves the image of %d x %d", box.width, box.height,
                    box.left, box.top, in->width, in->height);
  if (window.full_height < 1 || window.full_width < 1)
    return np_error(NP_ERR_ARGUMENT, "cannot resize to %d x %d", window.full_width, window.full_height);
  st = how == NP_NEAREST ? resize_nearest(in, box, window, out) : resize_filtered(in, box, window, how, out);
  if (st != NP_OK) np_image_free(out);
  return st;
}

np_status np_image_resize(const np_image *in, np_box box, int height, int width, np_interpolation how, np_image *out) {
  const np_window whole = {
      .full_height = height, .full_width = width, .top = 0, .left = 0, .height = height, .width = width};
  return np_image_resize_window(in, box, whole, how, out);
}
