/* The pixel loss: squared error against the next patch, standardised by itself. */
#include "ops/cpu/cpu.h"

#include <string.h>

/* Patch `token` of image `image` in (row, column, channel) order, as normalised floats. With raw pixels a row of a
 * patch is one run of bytes; only this one patch exists as floats at a time. */
static void target(const np_pixels *p, const float (*level)[256], int64_t image, int token, float *t) {
  int across = p->width / p->patch, top = token / across * p->patch, left = token % across * p->patch;
  for (int y = top; y < top + p->patch; y++)
    for (int x = left; x < left + p->patch; x++)
      for (int c = 0; c < p->channels; c++)
        if (p->u8) *t++ = level[c][p->u8[((image * p->height + y) * p->width + x) * p->channels + c]];
        else *t++ = p->f32[((image * p->channels + c) * p->height + y) * p->width + x];
}

np_status np_cpu_pixel_loss(np_ops *ops, const np_pixels *pixels, int64_t rows, const int32_t *index, bool normalize,
                            const float *scale, const void *pred, void *dpred, double *loss, bool accumulate) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  const np_pixels p = *pixels;
  if (p.channels < 1 || p.channels > 3)
    return np_error(NP_ERR_ARGUMENT, "an image has %d channels: expected 1 to 3", p.channels);
  float level[3][256];
  np_cpu_levels(pixels, level);

  int tokens = p.width / p.patch * (p.height / p.patch), values = p.patch * p.patch * p.channels;
  size_t row_bytes = (size_t)values * np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, rows, 1 + 16384 / values);
  size_t losses_bytes = np_cpu_lines((size_t)rows * sizeof(double));
  size_t target_bytes = np_cpu_lines((size_t)values * sizeof(float));
  void *scratch;
  NP_TRY(np_cpu_scratch(cpu, losses_bytes + (size_t)parts * target_bytes, &scratch));
  double *losses = scratch;
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    float *t = (float *)((char *)scratch + losses_bytes + (size_t)part * target_bytes);
    int64_t end = np_cpu_border(rows, 8, parts, part + 1);
    for (int64_t r = np_cpu_border(rows, 8, parts, part); r < end; r++) {
      void *gradient = dpred ? (char *)dpred + (size_t)r * row_bytes : NULL;
      if (index[r] < 0) { /* padding */
        losses[r] = 0.0;
        if (gradient) memset(gradient, 0, row_bytes);
        continue;
      }
      target(&p, (const float(*)[256])level, index[r] / tokens, index[r] % tokens + 1, t);
      losses[r] = cpu->simd->pixel_row(cpu->bf16, values, normalize, dpred ? scale[0] : 0.0f, t,
                                       (const char *)pred + (size_t)r * row_bytes, gradient);
    }
  }
  double sum = accumulate ? loss[0] : 0.0;
  for (int64_t r = 0; r < rows; r++) sum += losses[r];
  loss[0] = sum;
out:
  return st;
}
