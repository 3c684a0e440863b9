/* The gradients cut where a backward pass completes them, so that sums over ranks begin while it goes on:
 *
 *   gradients  ├ pred, norm ┤├ head block ┤├ head block ┤ … ├ trunk block ┤ … ├ patchifier ┤
 *   slices     ├──────────── 0 ───────────┤├──── 1 ──── …                 ├─────── K ──────┤
 *
 * A slice has slice_bytes or more, but for the last. A sum of few bytes takes as long as its way through the machines
 * does, and all must be taken one by one; in large ones the last, which nothing hides, is long. PyTorch's data parallel
 * training cuts at 25 MiB for the same reasons. */
#include "model/internal.h"

/* One past the parameter `i`, and the gap behind it. */
static int64_t end_of(const np_params *p, int i) { return i + 1 < p->count ? p->items[i + 1].offset : p->total; }

/* A stage is what a call of np_model_complete ends. */
static void add_stage(np_model *m, int last) {
  const int64_t end = end_of(&m->params, last), bytes = m->options.slice_bytes;
  np_slice *s = &m->slices[m->slice_count];
  s->count = end - s->offset;
  const bool whole = end == m->params.total;
  const bool small = bytes == 0 || s->count * (int64_t)sizeof(float) < bytes;
  if (!whole && (small || m->slice_count == NP_SIGNALS - 1)) return;
  m->slice_count++;
  if (!whole) m->slices[m->slice_count] = (np_slice){.offset = end};
}

void np_model_cut(np_model *m) {
  if (!m->options.train) return;
  m->slices[0] = (np_slice){0};
  add_stage(m, m->decode_norm_bias);
  for (int i = m->config.head_blocks - 1; i >= 0; i--) add_stage(m, m->head_blocks[i].norm1_bias);
  add_stage(m, m->decode_bias);
  add_stage(m, m->post_bias);
  for (int i = m->config.blocks - 1; i >= 0; i--) add_stage(m, m->blocks[i].norm1_bias);
  add_stage(m, m->embed_bias);
}

const np_slice *np_model_slices(const np_model *m, int *count) {
  *count = m->slice_count;
  return m->slices;
}

void np_model_begin_slices(np_model *m) { m->next_slice = 0; }

np_status np_model_complete(np_model *m, int last) {
  if (!m->options.slice_bytes || !m->ops->signal) return NP_OK;
  const np_slice *s = &m->slices[m->next_slice];
  if (end_of(&m->params, last) < s->offset + s->count) return NP_OK;
  return m->ops->signal(m->ops, m->next_slice++);
}
