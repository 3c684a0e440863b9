/* The gradients cut where a backward pass completes them, so that sums over ranks begin while it goes on:
 *
 *   gradients  ├ pred ┤├ head block ┤├ head block ┤ … ├ trunk block ┤ … ├ patchifier ┤├ vectors ┤
 *   slices     ├──────────── 0 ─────────────┤├──── 1 ──── …             ├──────────── K ────────┤
 *
 * A slice has slice_bytes or more, but for what is left at the end. A sum of few bytes takes as long as its way through
 * the machines does, and all must be taken one by one; in large ones the last, which nothing hides, is long. PyTorch's
 * data parallel training cuts at 25 MiB for the same reasons.
 *
 * Ranks that share the optimiser's state (options.ranks) have a piece each of every slice, but for the last, which all
 * keep: it has the vectors, and what of the matrices does not come out even. So the others are cut a little earlier,
 * and their end goes into the next:
 *
 *   slices           ├──────────── 0 ───────────┤├────────── 1 ─────────┤ …  ├ K ┤
 *   pieces of rank 1 │      │ 0.1  │            ││     │ 1.1  │         │ …  │ K │      kept one behind the other
 */
#include "model/internal.h"

/* The end of the matrices that are complete with the parameter `last`; with the very last everything is. */
static int64_t complete_by(const np_params *p, int last) {
  if (last == p->count - 1) return p->total;
  while (last >= 0 && p->items[last].role != NP_PARAM_MATRIX) last--;
  return last < 0 ? 0 : p->items[last].offset + np_param_room(p->items[last].count);
}

static void end_slice(np_model *m, int64_t end, bool scattered) {
  np_slice *s = &m->slices[m->slice_count];
  s->count = end - s->offset;
  s->scattered = scattered;
  if (s->count == 0) return;
  if (++m->slice_count < NP_SIGNALS) m->slices[m->slice_count] = (np_slice){.offset = end};
}

/* A stage is what a call of np_model_complete ends. Two places stay for the last slices. */
static void add_stage(np_model *m, int last) {
  const int64_t begin = m->slices[m->slice_count].offset, bytes = m->options.slice_bytes,
                grain = (int64_t)NP_PARAM_ALIGN * m->options.ranks;
  const bool shared = grain > NP_PARAM_ALIGN;
  const int64_t even = begin + (complete_by(&m->params, last) - begin) / grain * grain;
  const bool small = bytes == 0 || (even - begin) * (int64_t)sizeof(float) < bytes;
  if (!small && m->slice_count < NP_SIGNALS - 2) end_slice(m, even, shared);
}

static void add_rest(np_model *m) {
  const np_params *p = &m->params;
  const int64_t begin = m->slices[m->slice_count].offset, grain = (int64_t)NP_PARAM_ALIGN * m->options.ranks;
  int64_t matrices = 0;
  for (int i = 0; i < p->count; i++)
    if (p->items[i].role == NP_PARAM_MATRIX) matrices = p->items[i].offset + np_param_room(p->items[i].count);
  if (grain > NP_PARAM_ALIGN) end_slice(m, begin + (matrices - begin) / grain * grain, true);
  end_slice(m, p->total, false);
}

/* One after the other where they are kept. */
static void take_pieces(np_model *m) {
  np_pieces *p = &m->pieces;
  *p = (np_pieces){.ranks = m->options.ranks, .rank = m->options.rank, .items = m->piece_items};
  if (p->ranks == 1) m->piece_items[p->count++] = (np_piece){0, m->params.total};
  for (int i = 0; i < m->slice_count && p->ranks > 1; i++) {
    const np_slice *s = &m->slices[i];
    const int64_t each = s->scattered ? s->count / p->ranks : s->count;
    m->piece_items[p->count++] = (np_piece){s->offset + (s->scattered ? each * p->rank : 0), each};
  }
  for (int i = 0; i < p->count; i++) p->kept += p->items[i].count;
}

void np_model_cut(np_model *m) {
  m->slice_count = 0;
  m->slices[0] = (np_slice){0};
  if (m->options.train) {
    add_stage(m, m->decode_norm_bias);
    for (int i = m->config.head_blocks - 1; i >= 0; i--) add_stage(m, m->head_blocks[i].norm1_bias);
    add_stage(m, m->decode_bias);
    for (int i = m->config.blocks - 1; i >= 0; i--) add_stage(m, m->blocks[i].norm1_bias);
    add_rest(m);
  }
  take_pieces(m);
}

const np_slice *np_model_slices(const np_model *m, int *count) {
  *count = m->slice_count;
  return m->slices;
}

const np_pieces *np_model_pieces(const np_model *m) { return &m->pieces; }

void np_model_begin_slices(np_model *m) { m->next_slice = 0; }

np_status np_model_complete(np_model *m, int last) {
  np_status st = NP_OK;
  if (!m->options.slice_bytes || !m->ops->signal) return NP_OK;
  const int64_t end = complete_by(&m->params, last);
  for (; m->next_slice < m->slice_count; m->next_slice++) {
    const np_slice *s = &m->slices[m->next_slice];
    if (end < s->offset + s->count) break;
    NP_TRY(m->ops->signal(m->ops, m->next_slice));
  }
out:
  return st;
}
