/* The inner loops of resampling, written on the compiler's vector types. Each is compiled twice on x86-64, for AVX2 and
 * for the plain instruction set, and chosen at the call: integer sums, so the bits are the same. */
#include "image/resize.h"

#include <string.h>

typedef int32_t v8i __attribute__((vector_size(32)));
typedef uint8_t v8b __attribute__((vector_size(8)));

enum { LANES = 8, BLOCK = 4 * LANES };

#define INLINE static inline __attribute__((always_inline))

INLINE uint8_t clip(int32_t sum) {
  const int32_t value = sum >> NP_WEIGHT_BITS;
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static const int32_t HALF = 1 << (NP_WEIGHT_BITS - 1);

/* Two RGBX pixels a step: even taps gather in the lower half of the sum, odd taps in the upper. */
INLINE void across_rgb(const uint8_t *rgbx, const np_axis *axis, uint8_t *out) {
  for (int x = 0; x < axis->size; x++, out += 3) {
    const int32_t *weight = axis->weight + (size_t)x * (size_t)axis->taps;
    const uint8_t *in = rgbx + (size_t)axis->first[x] * 4;
    v8i sum = {HALF, HALF, HALF, 0, 0, 0, 0, 0};
    for (int i = 0; i < axis->count[x]; i += 2) {
      v8b pixels;
      memcpy(&pixels, in + 4 * i, sizeof pixels);
      const int32_t a = weight[i], b = weight[i + 1];
      sum += __builtin_convertvector(pixels, v8i) * (v8i){a, a, a, a, b, b, b, b};
    }
    for (int c = 0; c < 3; c++) out[c] = clip(sum[c] + sum[c + 4]);
  }
}

INLINE void across_grey(const uint8_t *in, const np_axis *axis, uint8_t *out) {
  for (int x = 0; x < axis->size; x++) {
    const int32_t *weight = axis->weight + (size_t)x * (size_t)axis->taps;
    int32_t sum = HALF;
    for (int i = 0; i < axis->count[x]; i++) sum += in[axis->first[x] + i] * weight[i];
    out[x] = clip(sum);
  }
}

INLINE void down(const uint8_t *rows, size_t stride, size_t bytes, int count, const int32_t *weight, uint8_t *out) {
  size_t x = 0;
  for (; x + BLOCK <= bytes; x += BLOCK) {
    v8i sum[4];
    for (int j = 0; j < 4; j++) sum[j] = (v8i){HALF, HALF, HALF, HALF, HALF, HALF, HALF, HALF};
    for (int i = 0; i < count; i++) {
      const v8i w = {weight[i], weight[i], weight[i], weight[i], weight[i], weight[i], weight[i], weight[i]};
      for (int j = 0; j < 4; j++) {
        v8b values;
        memcpy(&values, rows + (size_t)i * stride + x + (size_t)j * LANES, sizeof values);
        sum[j] += __builtin_convertvector(values, v8i) * w;
      }
    }
    for (int j = 0; j < 4; j++) {
      v8i value = sum[j] >> NP_WEIGHT_BITS;
      value &= value > 0;
      value |= value > 255; /* all ones: the low byte is 255 */
      const v8b low = __builtin_convertvector(value, v8b);
      memcpy(out + x + (size_t)j * LANES, &low, sizeof low);
    }
  }
  for (; x < bytes; x++) {
    int32_t sum = HALF;
    for (int i = 0; i < count; i++) sum += rows[(size_t)i * stride + x] * weight[i];
    out[x] = clip(sum);
  }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void across_rgb_avx2(const uint8_t *rgbx, const np_axis *axis, uint8_t *out) {
  across_rgb(rgbx, axis, out);
}
__attribute__((target("avx2"))) static void down_avx2(const uint8_t *rows, size_t stride, size_t bytes, int count,
                                                      const int32_t *weight, uint8_t *out) {
  down(rows, stride, bytes, count, weight, out);
}
static int have_avx2(void) { return __builtin_cpu_supports("avx2"); }
#else
#define across_rgb_avx2 across_rgb
#define down_avx2       down
static int have_avx2(void) { return 0; }
#endif

/* Behind the row: what the last pair of taps may read beyond it, times a zero weight. */
size_t np_row_scratch(int in_width, int taps) { return ((size_t)in_width + (size_t)taps + LANES) * 4; }

void np_resample_across(const uint8_t *in, int in_width, int channels, const np_axis *axis, uint8_t *scratch,
                        uint8_t *out) {
  if (channels == 1) {
    across_grey(in, axis, out);
    return;
  }
  for (int x = 0; x < in_width; x++)
    memcpy(scratch + (size_t)x * 4, (uint8_t[]){in[3 * x], in[3 * x + 1], in[3 * x + 2], 0}, 4);
  memset(scratch + (size_t)in_width * 4, 0, LANES);
  if (have_avx2()) across_rgb_avx2(scratch, axis, out);
  else across_rgb(scratch, axis, out);
}

void np_resample_down(const uint8_t *rows, size_t stride, size_t bytes, int count, const int32_t *weight,
                      uint8_t *out) {
  if (have_avx2()) down_avx2(rows, stride, bytes, count, weight, out);
  else down(rows, stride, bytes, count, weight, out);
}
