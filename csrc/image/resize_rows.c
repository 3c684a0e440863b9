/* The inner loops of resampling: a plain form, and one for AVX2 that is chosen at the call where the processor has it.
 * They add the same integers, so the bits are the same. (The compilers widen bytes one by one when left to vectorise
 * this.) */
#include "image/resize.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BLOCK = 32, HALF = 1 << (NP_WEIGHT_BITS - 1) };

static inline uint8_t clip(int32_t sum) {
  const int32_t value = sum >> NP_WEIGHT_BITS;
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void across_rgb(const uint8_t *rgbx, const np_axis *axis, uint8_t *out) {
  for (int x = 0; x < axis->size; x++, out += 3) {
    const int32_t *weight = axis->weight + (size_t)x * (size_t)axis->taps;
    const uint8_t *in = rgbx + (size_t)axis->first[x] * 4;
    int32_t sum[3] = {HALF, HALF, HALF};
    for (int i = 0; i < axis->count[x]; i++)
      for (int c = 0; c < 3; c++) sum[c] += in[4 * i + c] * weight[i];
    for (int c = 0; c < 3; c++) out[c] = clip(sum[c]);
  }
}

static void across_grey(const uint8_t *in, const np_axis *axis, uint8_t *out) {
  for (int x = 0; x < axis->size; x++) {
    const int32_t *weight = axis->weight + (size_t)x * (size_t)axis->taps;
    int32_t sum = HALF;
    for (int i = 0; i < axis->count[x]; i++) sum += in[axis->first[x] + i] * weight[i];
    out[x] = clip(sum);
  }
}

/* Values from `x` on. */
static void down(const uint8_t *rows, size_t stride, size_t x, size_t bytes, int count, const int32_t *weight,
                 uint8_t *out) {
  for (; x < bytes; x += BLOCK) {
    int32_t sum[BLOCK];
    const size_t width = bytes - x < BLOCK ? bytes - x : BLOCK;
    for (size_t j = 0; j < width; j++) sum[j] = HALF;
    for (int i = 0; i < count; i++)
      for (size_t j = 0; j < width; j++) sum[j] += rows[(size_t)i * stride + x + j] * weight[i];
    for (size_t j = 0; j < width; j++) out[x + j] = clip(sum[j]);
  }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i widen8(const uint8_t *bytes) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
}

/* Two RGBX pixels a step: even taps gather in the lower half of the sum, odd taps in the upper. */
AVX2 static void across_rgb_avx2(const uint8_t *rgbx, const np_axis *axis, uint8_t *out) {
  const __m256i even_odd = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  for (int x = 0; x < axis->size; x++, out += 3) {
    const int32_t *weight = axis->weight + (size_t)x * (size_t)axis->taps;
    const uint8_t *in = rgbx + (size_t)axis->first[x] * 4;
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < axis->count[x]; i += 2) {
      const __m128i pair = _mm_loadl_epi64((const __m128i *)(const void *)(weight + i));
      const __m256i weights = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(pair), even_odd);
      sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(widen8(in + 4 * i), weights));
    }
    __m128i total = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    total = _mm_srai_epi32(_mm_add_epi32(total, _mm_set1_epi32(HALF)), NP_WEIGHT_BITS);
    total = _mm_packus_epi16(_mm_packs_epi32(total, total), total); /* both saturate: 0..255 */
    memcpy(out, &total, 3);
  }
}

AVX2 static void down_avx2(const uint8_t *rows, size_t stride, size_t bytes, int count, const int32_t *weight,
                           uint8_t *out) {
  size_t x = 0;
  for (; x + BLOCK <= bytes; x += BLOCK) {
    __m256i sum[4];
    for (int j = 0; j < 4; j++) sum[j] = _mm256_set1_epi32(HALF);
    for (int i = 0; i < count; i++) {
      const uint8_t *in = rows + (size_t)i * stride + x;
      const __m256i weights = _mm256_set1_epi32(weight[i]);
      for (int j = 0; j < 4; j++) sum[j] = _mm256_add_epi32(sum[j], _mm256_mullo_epi32(widen8(in + 8 * j), weights));
    }
    for (int j = 0; j < 4; j++) sum[j] = _mm256_srai_epi32(sum[j], NP_WEIGHT_BITS);
    /* Packing works in 128-bit halves: the permutation puts the groups of four back in order. */
    const __m256i low = _mm256_packs_epi32(sum[0], sum[1]), high = _mm256_packs_epi32(sum[2], sum[3]);
    const __m256i packed =
        _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)(out + x), packed);
  }
  down(rows, stride, x, bytes, count, weight, out);
}
#endif

/* Behind the row: what the last pair of taps may read beyond it, times a zero weight. */
size_t np_row_scratch(int in_width, int taps) { return ((size_t)in_width + (size_t)taps + 2) * 4; }

void np_resample_across(const uint8_t *in, int in_width, int channels, const np_axis *axis, uint8_t *scratch,
                        uint8_t *out) {
  if (channels == 1) {
    across_grey(in, axis, out);
    return;
  }
  for (int x = 0; x < in_width; x++) {
    for (int c = 0; c < 3; c++) scratch[4 * x + c] = in[3 * x + c];
    scratch[4 * x + 3] = 0;
  }
  memset(scratch + (size_t)in_width * 4, 0, 8);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    across_rgb_avx2(scratch, axis, out);
    return;
  }
#endif
  across_rgb(scratch, axis, out);
}

void np_resample_down(const uint8_t *rows, size_t stride, size_t bytes, int count, const int32_t *weight,
                      uint8_t *out) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    down_avx2(rows, stride, bytes, count, weight, out);
    return;
  }
#endif
  down(rows, stride, 0, bytes, count, weight, out);
}
