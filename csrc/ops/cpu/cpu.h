/* The CPU backend's own header: its state, its operations, and how work is split among threads.
 *
 * Work is cut into parts whose number depends only on shapes and the thread count, never on which thread is early;
 * partial sums are added in the order of the parts. So equal inputs give equal bits. The inner loops live in simd/,
 * once for each instruction set, and are reached through np_cpu.simd. */
#ifndef NP_OPS_CPU_CPU_H
#define NP_OPS_CPU_CPU_H

#include "ops/cpu/simd/simd.h"
#include "ops/ops.h"

typedef struct np_cpu {
  np_ops table; /* first: an np_ops of this backend is an np_cpu */
  int threads;  /* at least 1 */
  bool bf16;    /* table.act is NP_BF16 */
  const np_simd *simd;
  void *matmul;  /* state of matmul.c */
  void *scratch; /* np_cpu_scratch */
  size_t scratch_bytes;
  unsigned char slots[NP_FETCH_SLOTS][NP_FETCH_BYTES]; /* fetched and not arrived */
  size_t fetched[NP_FETCH_SLOTS];                      /* bytes in each; 0: free */
  double *marks;                                       /* [mark_count] monotonic seconds; -1: not made */
  int mark_count;
} np_cpu;

static inline np_cpu *np_cpu_of(np_ops *ops) { return (np_cpu *)ops; }

/* At least `bytes` of 64-byte aligned working memory, contents undefined, valid until the next call. It grows to the
 * largest request and stays, so that a step allocates nothing after the first one. */
np_status np_cpu_scratch(np_cpu *cpu, size_t bytes, void **out);

/* How many parts to cut `count` units into when fewer than `least` units are not worth a thread: 1 … threads. */
static inline int np_cpu_parts(const np_cpu *cpu, int64_t count, int64_t least) {
  int64_t parts = count / least;
  return parts < 1 ? 1 : parts < cpu->threads ? (int)parts : cpu->threads;
}

/* Where part `part` of `parts` begins; part `parts` begins at `count`. Borders are multiples of `grain` units. */
static inline int64_t np_cpu_border(int64_t count, int64_t grain, int parts, int part) {
  int64_t grains = (count + grain - 1) / grain;
  int64_t border = grains * part / parts * grain;
  return border < count ? border : count;
}

/* Bytes rounded up to whole cache lines, so that neighbours in scratch do not share one. */
static inline size_t np_cpu_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* out[j] (+)= Σ_part sums_part[j], in the order of the parts, which lie sum_bytes apart; the first one is overwritten.
 * The whole sum is added to `out`, so accumulating twice is exactly twice the sum. */
void np_cpu_add_parts(const np_cpu *cpu, int parts, int64_t width, void *sums, size_t sum_bytes, float *out,
                      bool accumulate);

/* level[c][v] = what byte v of channel c is once normalised, rounded once; untouched for images of floats. A look-up is
 * exact and cheaper than a division a value. At most 3 channels. */
void np_cpu_levels(const np_pixels *pixels, float level[3][256]);

/* ---- matmul.c ---- */
np_status np_cpu_matmul_open(void **state);
void np_cpu_matmul_close(void *state); /* NULL is fine */
bool np_cpu_products_take_bf16(void); /* oneDNN has native ones here; ONEDNN_MAX_CPU_ISA may deny them */
np_status np_cpu_matmul(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias, void *c);

/* ---- the other operations; contracts in ops/ops.h ---- */
np_status np_cpu_available(np_ops *ops, size_t *bytes);
np_status np_cpu_fetch(np_ops *ops, int slot, const void *device, size_t bytes);
np_status np_cpu_arrive(np_ops *ops, int slot, void *host, size_t bytes);
np_status np_cpu_mark(np_ops *ops, int index);
np_status np_cpu_elapsed(np_ops *ops, int from, int to, double *seconds);
np_status np_cpu_to_act(np_ops *ops, int64_t count, const float *in, void *out);
np_status np_cpu_axpy(np_ops *ops, int64_t count, float alpha, const void *x, float *y);
np_status np_cpu_patchify(np_ops *ops, const np_pixels *pixels, void *out);
np_status np_cpu_add_table(np_ops *ops, int64_t rows, int width, int tokens, const int32_t *index, const float *table,
                           void *x);
np_status np_cpu_gather_rows(np_ops *ops, int64_t rows, int width, const int32_t *index, const void *x, void *y);
np_status np_cpu_scatter_rows(np_ops *ops, int64_t rows, int64_t total, int width, const int32_t *index, const void *dy,
                              void *dx);
np_status np_cpu_column_sum(np_ops *ops, int64_t rows, int width, const void *x, float *out, bool accumulate);
np_status np_cpu_norm_forward(np_ops *ops, int64_t rows, int width, float eps, const void *x, const void *delta,
                              const float *gain, const float *bias, void *sum, void *y, float *mean, float *rstd);
np_status np_cpu_norm_backward(np_ops *ops, int64_t rows, int width, const void *dy, const void *x, const float *mean,
                               const float *rstd, const float *gain, const void *residual, void *dx, float *dgain,
                               float *dbias, bool accumulate);
np_status np_cpu_gelu_forward(np_ops *ops, int64_t count, const void *x, void *y);
np_status np_cpu_gelu_backward(np_ops *ops, int64_t count, const void *x, const void *dy, void *dx);
np_status np_cpu_attention_forward(np_ops *ops, int batch, int tokens, int heads, int head_width, const int32_t *prefix,
                                   const void *qkv, void *out, float *lse);
np_status np_cpu_attention_backward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                    const int32_t *prefix, const void *qkv, const void *out, const float *lse,
                                    const void *dout, void *dqkv);
np_status np_cpu_pixel_loss(np_ops *ops, const np_pixels *pixels, int64_t rows, const int32_t *index, bool normalize,
                            const float *scale, const void *pred, void *dpred, double *loss, bool accumulate);
np_status np_cpu_batch_moments(np_ops *ops, int64_t rows, int width, const float *x, const float *shift, double *sums);
np_status np_cpu_batch_norm(np_ops *ops, int64_t rows, int width, float eps, float momentum, const double *sums, int64_t whole,
                            const float *x, float *running_mean, float *running_var, float *y);
np_status np_cpu_pool_forward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x, const float *u,
                              float *weight, float *pooled);
np_status np_cpu_pool_backward(np_ops *ops, int batch, int tokens, int heads, int width, const float *x,
                               const float *weight, const float *dpooled, float *du, bool accumulate);
np_status np_cpu_cross_entropy(np_ops *ops, int batch, int classes, float scale, const float *logits,
                               const int32_t *labels, float *dlogits, double *loss);
np_status np_cpu_sum_squares(np_ops *ops, int64_t count, const float *g, double *out, bool accumulate);
np_status np_cpu_adamw_prepare(np_ops *ops, const np_adamw *how, np_adamw_state *state);
np_status np_cpu_adamw(np_ops *ops, const np_adamw *how, const np_adamw_state *state, int64_t count, const float *g,
                       float *w, float *m, float *v, void *low);

#endif
