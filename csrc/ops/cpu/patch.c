/* Images cut into patches. */
#include "ops/cpu/cpu.h"
#include "ops/cpu/simd/act.h"

void np_cpu_levels(const np_pixels *p, float level[3][256]) {
  for (int c = 0; c < p->channels && p->u8; c++)
    for (int v = 0; v < 256; v++) level[c][v] = (float)((v / 255.0 - (double)p->mean[c]) / (double)p->std[c]);
}

/* One patch in (channel, row, column) order. */
NP_INLINE void cut(bool bf16, const np_pixels *p, int64_t image, int top, int left, const float (*level)[256],
                   void *out) {
  int64_t at = 0;
  for (int c = 0; c < p->channels; c++)
    for (int y = top; y < top + p->patch; y++)
      for (int x = left; x < left + p->patch; x++, at++) {
        float value;
        if (p->u8) value = level[c][p->u8[((image * p->height + y) * p->width + x) * p->channels + c]];
        else value = p->f32[((image * p->channels + c) * p->height + y) * p->width + x];
        np_act_store(bf16, out, at, value);
      }
}

np_status np_cpu_patchify(np_ops *ops, const np_pixels *pixels, void *out) {
  np_cpu *cpu = np_cpu_of(ops);
  const np_pixels p = *pixels;
  if (p.channels < 1 || p.channels > 3)
    return np_error(NP_ERR_ARGUMENT, "an image has %d channels: expected 1 to 3", p.channels);
  float level[3][256];
  np_cpu_levels(pixels, level);

  int across = p.width / p.patch, tokens = across * (p.height / p.patch);
  int64_t rows = (int64_t)p.batch * tokens, values = (int64_t)p.patch * p.patch * p.channels;
  int parts = np_cpu_parts(cpu, rows, 1 + 16384 / values);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t end = np_cpu_border(rows, 1, parts, part + 1);
    for (int64_t r = np_cpu_border(rows, 1, parts, part); r < end; r++) {
      int token = (int)(r % tokens), top = token / across * p.patch, left = token % across * p.patch;
      if (cpu->bf16) cut(true, &p, r / tokens, top, left, (const float(*)[256])level, (np_bf16 *)out + r * values);
      else cut(false, &p, r / tokens, top, left, (const float(*)[256])level, (float *)out + r * values);
    }
  }
  return NP_OK;
}
