/* The operator table: every operation the models need, on one page. Each backend fills one struct np_ops.
 *
 * Letters (model.md): B images, N tokens of an image, D width, h heads, d = D/h, P patch side, C channels. Rows are tokens of a
 * whole batch, B·N of them, image by image, in raster order. All matrices are row-major and dense.
 *
 * Types: "act" is the activation type of the backend's precision (np_ops.act: NP_F32 or NP_BF16). Statistics, losses, gains, biases,
 * tables and all gradients of parameters are float32. Sums run in float32 or wider, in an order that depends only on the
 * shapes and the thread count, so equal inputs give equal bits.
 *
 * Gradients of parameters take `accumulate`: false overwrites, true adds. Unless said otherwise outputs may not alias
 * inputs. Every op returns NP_OK or an error with its message; shapes are the caller's duty.
 *
 * Operations are queued and run in order; the host goes on. Only download, arrive and destroy wait for the device (the CPU
 * backend runs each at once). So what changes from step to step and is computed late (the loss's divisor, the learning
 * rate, the clipping factor) is read from device memory, and pointers named "device" may not be read on the host. An index
 * list may be padded: index[r] < 0 marks a row that stands for nothing, so that few distinct shapes occur. */
#ifndef NP_OPS_OPS_H
#define NP_OPS_OPS_H

#include "util/dtype.h"
#include "util/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A batch of images, on the device, in one of two forms. */
typedef struct np_pixels {
  const uint8_t *u8; /* [B, H, W, C] raw; normalised as (u8/255 - mean[c]) / std[c] where it is read */
  const float *f32;  /* [B, C, H, W] already normalised; used when u8 is NULL */
  int batch, height, width, channels, patch; /* height and width are multiples of patch */
  float mean[3], std[3];
} np_pixels;

/* C[m, n] (+)= op(A)·op(B) + bias. op(A) is [m, k]: A is stored [m, k], or [k, m] with transpose_a; op(B) is [k, n]: stored
 * [k, n], or [n, k] with transpose_b. A linear layer y = x·Wᵀ + b has transpose_b, its data gradient neither, its weight
 * gradient transpose_a. A backend may round the bias, and the product, to C's type before they are added up. */
typedef struct np_matmul {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  np_dtype a_type, b_type, c_type; /* F32·F32 → F32, or BF16·BF16 → BF16 or F32 */
  bool accumulate;                 /* C += instead of C = */
} np_matmul;

/* AdamW's constants; a slice's elements share their decay. */
typedef struct np_adamw {
  double beta1, beta2;
  float eps, weight_decay;
  float clip; /* largest global norm; 0: no limit */
} np_adamw;

/* One optimiser's scalars, in device memory: what a step decides without asking the host. */
typedef struct np_adamw_state {
  double norm_squared; /* Σ g² of the gradient at hand: sum_squares writes it */
  int64_t steps;       /* applied so far: the t of the bias correction */
  float lr;            /* of the step at hand: uploaded before it */
  /* What adamw_prepare makes of them. */
  float grad_scale;                         /* gradients are multiplied by it first: clipping */
  float bias_correction1, bias_correction2; /* 1 - beta^t */
  int32_t apply;                            /* 0: the norm is not finite, and adamw leaves everything as it is */
  int32_t reserved;
} np_adamw_state;

enum {
  NP_FETCH_SLOTS = 8,   /* copies to the host that may be under way at once */
  NP_FETCH_BYTES = 128, /* the largest of them */
  NP_SIGNALS = 256      /* places in the order of operations that something beside them may wait for */
};

typedef struct np_recording np_recording; /* operations recorded once and run again as one */

typedef struct np_ops np_ops;

struct np_ops {
  const char *name; /* "cpu", "cuda" */
  np_dtype act;

  /* ---- memory ---- */
  np_status (*alloc)(np_ops *ops, size_t bytes, void **out); /* 64-byte aligned, contents undefined */
  void (*release)(np_ops *ops, void *memory);                /* NULL is fine */
  np_status (*available)(np_ops *ops, size_t *bytes);        /* what alloc may still grant; SIZE_MAX: unknown */
  /* Queued like any operation; the host memory may change as soon as it returns. */
  np_status (*upload)(np_ops *ops, void *device, const void *host, size_t bytes);
  np_status (*download)(np_ops *ops, void *host, const void *device, size_t bytes); /* waits for what wrote it */
  np_status (*zero)(np_ops *ops, void *device, size_t bytes);
  /* A late read of at most NP_FETCH_BYTES: fetch queues it under a slot 0 … NP_FETCH_SLOTS - 1; arrive waits for that copy,
   * and not for what was queued behind it. A slot is fetched again only after it has arrived. */
  np_status (*fetch)(np_ops *ops, int slot, const void *device, size_t bytes);
  np_status (*arrive)(np_ops *ops, int slot, void *host, size_t bytes);

  /* ---- recording and time; NULL where a backend has no use for it ---- */
  /* Between begin and end operations are recorded, not run: such as need no more working memory than those that ran
   * before, and operations on device memory alone (no alloc, upload, download, fetch). end takes all that the recording
   * ever needs; replay queues it and takes nothing. */
  np_status (*record_begin)(np_ops *ops);
  np_status (*record_end)(np_ops *ops, np_recording **out); /* *out NULL and an error when recording failed */
  np_status (*replay)(np_ops *ops, np_recording *recording);
  void (*forget)(np_ops *ops, np_recording *recording); /* NULL is fine */
  /* Queues a signal 0 … NP_SIGNALS - 1, which is reached when the operations before it are done; recorded it comes with every
   * replay. What waits for it is the backend's own (np_cuda_beside_follow). */
  np_status (*signal)(np_ops *ops, int signal);
  /* mark notes, under any index >= 0, when the device gets there; elapsed gives the seconds between two marks and waits for
   * them. Never NULL. */
  np_status (*mark)(np_ops *ops, int index);
  np_status (*elapsed)(np_ops *ops, int from, int to, double *seconds);

  /* ---- elements and rows ---- */
  /* out[i] = act(in[i]) for i < count: the low-precision copy of weights. With act F32 a copy. */
  np_status (*to_act)(np_ops *ops, int64_t count, const float *in, void *out);
  /* y[i] += alpha · x[i]; x act, y float32. */
  np_status (*axpy)(np_ops *ops, int64_t count, float alpha, const void *x, float *y);

  /* out [B·N, P·P·C] act: patches in (channel, row, column) order, as the patch convolution's weight is laid out. */
  np_status (*patchify)(np_ops *ops, const np_pixels *pixels, void *out);

  /* x[r, :] += table[position(r), :]; position(r) = (index ? index[r] : r) % tokens; nothing where index[r] < 0.
   * x [rows, width] act, table [tokens, width], index [rows] device or NULL. */
  np_status (*add_table)(np_ops *ops, int64_t rows, int width, int tokens, const int32_t *index, const float *table, void *x);

  /* y[r, :] = x[index[r], :] for r < rows, zeros where index[r] < 0. act; index [rows] device. */
  np_status (*gather_rows)(np_ops *ops, int64_t rows, int width, const int32_t *index, const void *x, void *y);
  /* Its gradient: dx [total, width] = 0, then dx[index[r], :] = dy[r, :] where index[r] >= 0. Those come first and strictly
   * ascend. */
  np_status (*scatter_rows)(np_ops *ops, int64_t rows, int64_t total, int width, const int32_t *index, const void *dy, void *dx);

  np_status (*matmul)(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias /* [n] or NULL */,
                      void *c);
  /* out[j] (+)= Σ_r x[r, j]: gradient of a bias. x [rows, width] act. */
  np_status (*column_sum)(np_ops *ops, int64_t rows, int width, const void *x, float *out, bool accumulate);

  /* Residual add and LayerNorm: s = x + delta (delta NULL: s = x; sum NULL: s is not stored), y = (s - mean)·rstd·gain + bias.
   * x, delta, sum, y [rows, width] act (sum may alias x or delta); mean, rstd [rows] (NULL: not kept). Statistics and y are
   * those of s as it is stored: with it as x and no delta the same bits come again, which is what recomputation rests on. */
  np_status (*norm_forward)(np_ops *ops, int64_t rows, int width, float eps, const void *x, const void *delta, const float *gain,
                            const float *bias, void *sum, void *y, float *mean, float *rstd);
  /* dx = residual (NULL: 0) + dL/dx from dy; dgain, dbias [width]. dx may alias residual or dy. */
  np_status (*norm_backward)(np_ops *ops, int64_t rows, int width, const void *dy, const void *x, const float *mean,
                             const float *rstd, const float *gain, const void *residual, void *dx, float *dgain, float *dbias,
                             bool accumulate);

  /* y = x·Φ(x), the exact (erf) GELU; y may alias x. dx = dy·(Φ(x) + x·φ(x)); dx may alias dy. */
  np_status (*gelu_forward)(np_ops *ops, int64_t count, const void *x, void *y);
  np_status (*gelu_backward)(np_ops *ops, int64_t count, const void *x, const void *dy, void *dx);

  /* Prefix-causal attention: query i sees key j when j <= i or j < prefix[b] (model.md 5); scale 1/sqrt(d).
   * qkv [B, N, 3, h, d] act → out [B, N, h, d] act, lse [B, h, N] natural log-sum-exp of the scaled scores. lse NULL: not
   * kept. prefix [B] device, each 0 … N; NULL: every query sees every key. Hidden keys are not read; no N×N array exists. */
  np_status (*attention_forward)(np_ops *ops, int batch, int tokens, int heads, int head_width, const int32_t *prefix,
                                 const void *qkv, void *out, float *lse);
  np_status (*attention_backward)(np_ops *ops, int batch, int tokens, int heads, int head_width, const int32_t *prefix,
                                  const void *qkv, const void *out, const float *lse, const void *dout, void *dqkv);

  /* Pixel loss of gathered rows. Row r is token index[r] = b·N + k; its target is patch k+1 of image b, values in (row, column,
   * channel) order, standardised by its own mean and unbiased variance when `normalize` (model.md 7). Where index[r] < 0 the
   * row counts nothing and its gradient is zeros.
   * loss[0] (+)= Σ_r mean_j (pred[r, j] - t[r, j])² in float64, the squares too where float32 overflows: a loss that is
   * not finite then has a gradient that is not, and the optimiser need not look at it. dpred (NULL: not wanted) =
   * scale[0]·2·(pred - t)/(P·P·C).
   * pred, dpred [rows, P·P·C] act, they may alias; index [rows], scale [1] (not read without dpred), loss [1] device. */
  np_status (*pixel_loss)(np_ops *ops, const np_pixels *pixels, int64_t rows, const int32_t *index, bool normalize,
                          const float *scale, const void *pred, void *dpred, double *loss, bool accumulate);

  /* ---- probe: float32 throughout ---- */
  /* What the statistics of a batch are made of: sums[0, j] = Σ_r d and sums[1, j] = Σ_r d², d = x[r, j] - shift[j] in float64,
   * which leaves no digits that matter to cancel. Those of several ranks, of one shift, add up. sums [2, width]. */
  np_status (*batch_moments)(np_ops *ops, int64_t rows, int width, const float *x, const float *shift, double *sums);
  /* y = (x - mean)/sqrt(var + eps) over `width` columns. sums: batch_moments of `whole` rows, these and what was added to
   * them, shift being running_mean; mean and biased variance are theirs, and running = (1 - momentum)·running +
   * momentum·(mean | unbiased variance). NULL: the running statistics. y may alias x.
   * There is no backward pass: it stands between a frozen trunk and the heads and has neither gain nor bias, so no
   * gradient ends in it or passes through it (np_heads_backward ends at the pooling). */
  np_status (*batch_norm)(np_ops *ops, int64_t rows, int width, float eps, float momentum, const double *sums, int64_t whole,
                          const float *x, float *running_mean, float *running_var, float *y);
  /* Attention pooling by one query, with the key projection folded into it: u[i, :] = W_k,iᵀ q_i / sqrt(d) for head i.
   * weight[b, i, n] = softmax_n(x[b, n, :]·u[i, :]); pooled[b, i, :] = Σ_n weight[b, i, n]·x[b, n, :].
   * x [B, N, D], u [h, D], weight [B, h, N], pooled [B, h, D]. */
  np_status (*pool_forward)(np_ops *ops, int batch, int tokens, int heads, int width, const float *x, const float *u, float *weight,
                            float *pooled);
  /* du [h, D] (+)= gradient by u given dpooled [B, h, D]. */
  np_status (*pool_backward)(np_ops *ops, int batch, int tokens, int heads, int width, const float *x, const float *weight,
                             const float *dpooled, float *du, bool accumulate);
  /* loss[0] = Σ_b -log softmax(logits[b])[label[b]]; dlogits (NULL: not wanted, may alias logits) = scale·(softmax - onehot).
   * logits, dlogits [B, classes]; labels [B], loss [1] device. */
  np_status (*cross_entropy)(np_ops *ops, int batch, int classes, float scale, const float *logits, const int32_t *labels,
                             float *dlogits, double *loss);

  /* ---- optimiser ---- */
  /* out[0] (+)= Σ g² in float64; non-finite input gives a non-finite sum. out device. */
  np_status (*sum_squares)(np_ops *ops, int64_t count, const float *g, double *out, bool accumulate);
  /* Before a step's adamw calls: from state's norm_squared, steps and lr decide whether it is applied (apply = the norm is
   * finite; then steps grows by one), the clipping factor min(1, clip / (norm + 1e-6)) as in clip_grad_norm_, and the bias
   * corrections. state device. */
  np_status (*adamw_prepare)(np_ops *ops, const np_adamw *how, np_adamw_state *state);
  /* w, m, v updated in place from g as torch.optim.AdamW does (decoupled decay first) unless state->apply is 0; low (NULL or
   * [count] act) receives the new w. state device. */
  np_status (*adamw)(np_ops *ops, const np_adamw *how, const np_adamw_state *state, int64_t count, const float *g, float *w,
                     float *m, float *v, void *low);

  void (*destroy)(np_ops *ops); /* waits for the device first */
};

/* The CPU backend (csrc/ops/cpu): act F32 or BF16; threads 0: all cores. NP_ERR_ARGUMENT when BF16 is asked of a processor
 * without native bf16 products. */
np_status np_ops_cpu(np_dtype act, int threads, np_ops **out);
/* Whether this processor multiplies bf16 natively (AVX512-BF16 or AMX). */
bool np_cpu_has_bf16(void);
/* Instruction set of the backend's own loops: "generic", "avx2", "avx512". */
const char *np_cpu_isa_name(void);
/* What its products run on: "oneDNN 2.6.3 AVX-512 BF16". */
enum { NP_CPU_TEXT = 48 };
void np_cpu_products_name(char text[NP_CPU_TEXT]);

#endif
