/* cuDNN's fused attention: what a user would otherwise take, so the baseline of `bench attention`. cuDNN recognises it
 * in a graph of plain operations and runs one kernel:
 *
 *   forward    S = Q·Kᵀ ─ · scale ─ (causal: row >= column ? S : -max) ─ softmax by max, exp, sum ─ P ─ O = P·V
 *                                                                     └─ lse = max + log(sum)
 *   backward   P = exp(scale · Q·Kᵀ - lse)                    dV = Pᵀ·dO
 *              dS = P · (dO·Vᵀ - Σ dO·O) · scale              dK = dSᵀ·Q      dQ = dS·K
 *
 * A prefix of each image's own length is not among the masks it recognises. The sums of dQ are taken in an accumulator
 * whose order cuDNN does not fix: unlike everything else here, dQ may differ in its last bits from run to run. */
#include "ops/cuda/cuda.h"

#ifdef NP_HAVE_CUDNN
#include "ops/cuda/cudnn.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape {
  int64_t batch, tokens, heads, width;
  int64_t backward, causal, stats; /* flags, of one size with the rest: compared bytewise */
} shape;

typedef struct attention {
  struct attention *next;
  shape shape;
  np_cudnn_graph graph; /* owns the plan */
  cudnnBackendDescriptor_t plan;
  int64_t workspace;
} attention;

typedef struct state {
  const np_cudnn_library *library;
  cudnnHandle_t handle;
  attention *first;
} state;

enum { Q = 1, K, V, O, STATS, DO, DQ, DK, DV, DQ_SUM, DOT_SUM, SCALE, LOWEST, ONE, IDS };

static np_status failed(const np_cuda_core *core, const char *call, const np_cudnn_library *lib, cudnnStatus_t code) {
  return np_error(NP_ERR_LIBRARY, "%s on GPU %d (%s): %s", call, core->gpu.device, core->gpu.name,
                  lib->cudnnGetErrorString(code));
}

size_t np_cuda_cudnn_version(void) {
  const np_cudnn_library *lib = np_cudnn_open();
  return lib ? lib->cudnnGetVersion() : 0;
}

static np_status open_state(np_cuda_core *core) {
  np_status st = NP_OK;
  cudnnStatus_t code;
  if (core->cudnn) return NP_OK;
  const np_cudnn_library *lib = np_cudnn_open();
  if (!lib) return NP_ERR_LIBRARY;
  state *s = calloc(1, sizeof *s);
  if (!s) return np_error(NP_ERR_MEMORY, "not enough memory for cuDNN");
  s->library = lib;
  if ((code = lib->cudnnCreate(&s->handle)) != CUDNN_STATUS_SUCCESS) st = failed(core, "cudnnCreate", lib, code);
  else if ((code = lib->cudnnSetStream(s->handle, core->gpu.stream)) != CUDNN_STATUS_SUCCESS) {
    st = failed(core, "cudnnSetStream", lib, code);
    (void)lib->cudnnDestroy(s->handle);
  }
  if (st == NP_OK) core->cudnn = s;
  else free(s);
  return st;
}

void np_cuda_cudnn_close(np_cuda_core *core) {
  state *s = core->cudnn;
  if (!s) return;
  for (attention *a = s->first, *next; a; a = next) {
    next = a->next;
    np_cudnn_end(&a->graph);
    free(a);
  }
  (void)s->library->cudnnDestroy(s->handle);
  free(s);
}

/* ---- tensors ---- */

/* [B, h, N, d] as it lies in [B, N, parts, h, d]; `turned`: its transpose, [B, h, d, N]. */
static np_cudnn_tensor rows(np_cudnn_graph *g, const shape *s, int64_t id, int64_t parts, bool turned) {
  const int64_t token = parts * s->heads * s->width;
  np_cudnn_tensor t = {.size = {s->batch, s->heads, s->tokens, s->width},
                       .stride = {s->tokens * token, s->width, token, 1},
                       .type = CUDNN_DATA_BFLOAT16,
                       .id = id};
  if (turned) {
    t.size[2] = s->width, t.size[3] = s->tokens;
    t.stride[2] = 1, t.stride[3] = token;
  }
  return np_cudnn_declare(g, t);
}

/* Dense [B, h, rows, columns]. */
static np_cudnn_tensor dense(np_cudnn_graph *g, const shape *s, int64_t id, cudnnDataType_t type, int64_t row_count,
                             int64_t columns) {
  return np_cudnn_declare(g,
                          (np_cudnn_tensor){.size = {s->batch, s->heads, row_count, columns},
                                            .stride = {s->heads * row_count * columns, row_count * columns, columns, 1},
                                            .type = type,
                                            .id = id});
}

static np_cudnn_tensor scores(np_cudnn_graph *g, const shape *s, cudnnDataType_t type) {
  return dense(g, s, 0, type, s->tokens, s->tokens);
}

static np_cudnn_tensor per_row(np_cudnn_graph *g, const shape *s, int64_t id) {
  return dense(g, s, id, CUDNN_DATA_FLOAT, s->tokens, 1);
}

static np_cudnn_tensor value(np_cudnn_graph *g, int64_t id) {
  return np_cudnn_declare(
      g, (np_cudnn_tensor){
             .size = {1, 1, 1, 1}, .stride = {1, 1, 1, 1}, .type = CUDNN_DATA_FLOAT, .id = id, .by_value = true});
}

/* A score-shaped result of two tensors, in float32. */
static np_cudnn_tensor with(np_cudnn_graph *g, const shape *s, cudnnPointwiseMode_t mode, const np_cudnn_tensor *x,
                            const np_cudnn_tensor *b) {
  np_cudnn_tensor y = scores(g, s, CUDNN_DATA_FLOAT);
  np_cudnn_pointwise(g, mode, CUDNN_DATA_FLOAT, 0, x, b, NULL, &y);
  return y;
}

/* ---- graphs ---- */

/* scale · Q·Kᵀ. */
static np_cudnn_tensor scaled_scores(np_cudnn_graph *g, const shape *s, const np_cudnn_tensor *q,
                                     const np_cudnn_tensor *k_turned, const np_cudnn_tensor *scale) {
  np_cudnn_tensor raw = scores(g, s, CUDNN_DATA_FLOAT);
  np_cudnn_multiply(g, q, k_turned, &raw);
  return with(g, s, CUDNN_POINTWISE_MUL, &raw, scale);
}

/* x, or the lowest number where the shape is causal and the column comes after the row. */
static np_cudnn_tensor seen_alone(np_cudnn_graph *g, const shape *s, const np_cudnn_tensor *x) {
  if (!s->causal) return *x;
  np_cudnn_tensor lowest = value(g, LOWEST), masked = scores(g, s, CUDNN_DATA_FLOAT);
  np_cudnn_tensor row = scores(g, s, CUDNN_DATA_INT32), column = scores(g, s, CUDNN_DATA_INT32);
  np_cudnn_tensor seen = scores(g, s, CUDNN_DATA_BOOLEAN);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, 2, x, NULL, NULL, &row);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, 3, x, NULL, NULL, &column);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, 0, &row, &column, NULL, &seen);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, 0, x, &lowest, &seen, &masked);
  return masked;
}

static void forward_graph(np_cudnn_graph *g, const shape *s) {
  np_cudnn_tensor q = rows(g, s, Q, 3, false), k = rows(g, s, K, 3, true), v = rows(g, s, V, 3, false);
  np_cudnn_tensor out = rows(g, s, O, 1, false), scale = value(g, SCALE);
  np_cudnn_tensor scaled = scaled_scores(g, s, &q, &k, &scale), masked = seen_alone(g, s, &scaled);
  np_cudnn_tensor most = per_row(g, s, 0), sum = per_row(g, s, 0);
  np_cudnn_reduce(g, CUDNN_REDUCE_TENSOR_MAX, &masked, &most);
  np_cudnn_tensor less = with(g, s, CUDNN_POINTWISE_SUB, &masked, &most);
  np_cudnn_tensor power = with(g, s, CUDNN_POINTWISE_EXP, &less, NULL);
  np_cudnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, &power, &sum);
  if (s->stats) {
    np_cudnn_tensor log_sum = per_row(g, s, 0), stats = per_row(g, s, STATS);
    np_cudnn_pointwise(g, CUDNN_POINTWISE_LOG, CUDNN_DATA_FLOAT, 0, &sum, NULL, NULL, &log_sum);
    np_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, 0, &most, &log_sum, NULL, &stats);
  }
  np_cudnn_tensor p = scores(g, s, CUDNN_DATA_BFLOAT16);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, 0, &power, &sum, NULL, &p);
  np_cudnn_multiply(g, &p, &v, &out);
}

/* `low` [B, h, N, N] in bf16: the transpose of scores x, as an operand. */
static np_cudnn_tensor turned(np_cudnn_graph *g, const shape *s, const np_cudnn_tensor *x) {
  const int64_t n = s->tokens;
  np_cudnn_tensor t = np_cudnn_declare(g, (np_cudnn_tensor){.size = {s->batch, s->heads, n, n},
                                                            .stride = {s->heads * n * n, n * n, 1, n},
                                                            .type = CUDNN_DATA_BFLOAT16});
  np_cudnn_reshape(g, x, &t);
  return t;
}

/* Σ dO·O over a head's width: in memory, for a kernel of its own makes it before. */
static np_cudnn_tensor row_products(np_cudnn_graph *g, const shape *s, const np_cudnn_tensor *dout,
                                    const np_cudnn_tensor *out, const np_cudnn_tensor *one) {
  np_cudnn_tensor product = dense(g, s, 0, CUDNN_DATA_FLOAT, s->tokens, s->width);
  np_cudnn_tensor sum = per_row(g, s, 0), scaled = per_row(g, s, DOT_SUM);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, 0, dout, out, NULL, &product);
  np_cudnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, &product, &sum);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, 0, &sum, one, NULL, &scaled);
  return scaled;
}

/* The product with `one` stands where dropout would, and the mask behind the subtraction: cuDNN looks for this pattern.
 */
static void backward_graph(np_cudnn_graph *g, const shape *s) {
  np_cudnn_tensor q = rows(g, s, Q, 3, false), k = rows(g, s, K, 3, true), v = rows(g, s, V, 3, true);
  np_cudnn_tensor out = rows(g, s, O, 1, false), dout = rows(g, s, DO, 1, false), stats = per_row(g, s, STATS);
  np_cudnn_tensor dq = rows(g, s, DQ, 3, false), dk = rows(g, s, DK, 3, false), dv = rows(g, s, DV, 3, false);
  np_cudnn_tensor scale = value(g, SCALE), one = value(g, ONE);
  np_cudnn_tensor dq_sum = np_cudnn_declare(
      g, (np_cudnn_tensor){.size = {s->batch, s->heads, s->tokens, s->width},
                           .stride = {s->heads * s->tokens * s->width, s->tokens * s->width, s->width, 1},
                           .type = CUDNN_DATA_FLOAT,
                           .id = DQ_SUM});
  np_cudnn_tensor correction = row_products(g, s, &dout, &out, &one);

  np_cudnn_tensor scaled = scaled_scores(g, s, &q, &k, &scale);
  np_cudnn_tensor less = with(g, s, CUDNN_POINTWISE_SUB, &scaled, &stats), masked = seen_alone(g, s, &less);
  np_cudnn_tensor p = with(g, s, CUDNN_POINTWISE_EXP, &masked, NULL);
  np_cudnn_tensor p_turned = turned(g, s, &p);
  np_cudnn_multiply(g, &p_turned, &dout, &dv);

  np_cudnn_tensor dp = scores(g, s, CUDNN_DATA_FLOAT);
  np_cudnn_multiply(g, &dout, &v, &dp);
  np_cudnn_tensor centred = with(g, s, CUDNN_POINTWISE_SUB, &dp, &correction);
  np_cudnn_tensor weighted = with(g, s, CUDNN_POINTWISE_MUL, &centred, &p);
  np_cudnn_tensor ds = with(g, s, CUDNN_POINTWISE_MUL, &weighted, &scale);
  np_cudnn_tensor ds_turned = turned(g, s, &ds);
  np_cudnn_multiply(g, &ds_turned, &q, &dk);

  np_cudnn_tensor k_plain = rows(g, s, 0, 3, false);
  np_cudnn_reshape(g, &k, &k_plain);
  np_cudnn_multiply(g, &ds, &k_plain, &dq_sum);
  np_cudnn_pointwise(g, CUDNN_POINTWISE_IDENTITY, CUDNN_DATA_FLOAT, 0, &dq_sum, NULL, NULL, &dq);
}

/* The plan for this shape, made on its first use. */
static np_status find(np_cuda_core *core, const shape *wanted, attention **out) {
  np_status st;
  NP_TRY(open_state(core));
  state *s = core->cudnn;
  for (*out = s->first; *out; *out = (*out)->next)
    if (!memcmp(&(*out)->shape, wanted, sizeof *wanted)) return NP_OK;
  NP_TRY(np_cuda_not_recording(core, "an attention whose shape did not run before"));
  attention *a = calloc(1, sizeof *a);
  if (!a) return np_error(NP_ERR_MEMORY, "not enough memory for cuDNN's attention");
  a->shape = *wanted;
  np_cudnn_begin(&a->graph, s->library);
  if (wanted->backward) backward_graph(&a->graph, wanted);
  else forward_graph(&a->graph, wanted);
  st = np_cudnn_plan(&a->graph, s->handle, &a->plan, &a->workspace);
  if (st != NP_OK) {
    np_cudnn_end(&a->graph);
    free(a);
    np_error_context(st, "attention: cudnn, %s%s, %lld tokens, head width %lld", wanted->causal ? "causal " : "",
                     wanted->backward ? "backward" : "forward", (long long)wanted->tokens, (long long)wanted->width);
    goto out;
  }
  a->next = s->first;
  *out = s->first = a;
out:
  return st;
}

/* ---- running ---- */

static np_status check_act(const np_ops *ops) {
  if (ops->act == NP_BF16) return NP_OK;
  return np_error(NP_ERR_ARGUMENT, "attention: cudnn: it has bf16 alone");
}

static size_t version_of(const np_cuda_core *core) {
  const state *s = core->cudnn;
  return s->library->cudnnGetVersion();
}

/* Up to 9.15 cuDNN's backward pass is not to be trusted in the last, part-filled tile of keys (NVIDIA's own front end
 * masks it there): a baseline may be missing, but not read what is not its own. */
static np_status check_tail(const np_cuda_core *core, int tokens) {
  const size_t version = version_of(core);
  if (tokens % 128 == 0 || version >= 91600) return NP_OK;
  return np_error(NP_ERR_LIBRARY,
                  "attention: cudnn, backward, %d tokens: cuDNN %zu.%zu takes multiples of 128, 9.16 and later any",
                  tokens, version / 10000, version / 100 % 100);
}

/* memory[id] for the ids of tensors; NULL: not part of the graph. */
static np_status run(np_cuda_core *core, const attention *a, void *memory[IDS], void *workspace) {
  const state *s = core->cudnn;
  float scale = 1.0f / sqrtf((float)a->shape.width), lowest = -FLT_MAX, one = 1.0f;
  int64_t ids[IDS];
  void *pointers[IDS];
  int count = 0;
  memory[SCALE] = &scale;
  memory[LOWEST] = a->shape.causal ? &lowest : NULL;
  memory[ONE] = a->shape.backward ? &one : NULL;
  for (int id = 1; id < IDS; id++) {
    if (!memory[id]) continue;
    ids[count] = id;
    pointers[count++] = memory[id];
  }
  return np_cudnn_run(s->library, s->handle, a->plan, count, ids, pointers, workspace);
}

static void *part(const void *qkv, int64_t index, const shape *s) {
  return (np_bf16 *)qkv + index * s->heads * s->width; /* read alone where it is an input */
}

np_status np_cuda_cudnn_forward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                const void *qkv, void *out, float *lse) {
  np_cuda_core *core = np_cuda_enter(ops);
  const shape s = {batch, tokens, heads, head_width, 0, causal, lse != NULL};
  void *memory[IDS] = {
      [Q] = part(qkv, 0, &s), [K] = part(qkv, 1, &s), [V] = part(qkv, 2, &s), [O] = out, [STATS] = lse};
  void *scratch;
  attention *a;
  np_status st;
  NP_TRY(check_act(ops));
  NP_TRY(find(core, &s, &a));
  NP_TRY(np_cuda_scratch(core, (size_t)a->workspace, &scratch));
  st = run(core, a, memory, scratch);
out:
  return st;
}

/* Bytes of the accumulator of dQ: whole tiles of rows, so that one may be written past the last token. */
static size_t accumulator_bytes(const shape *s) {
  return (size_t)(s->batch * s->heads * ((s->tokens + 127) / 128 * 128) * s->width) * sizeof(float);
}

/* Of a number for each row of each head, up to the next line. */
static size_t row_bytes(const shape *s) {
  return ((size_t)(s->batch * s->heads * s->tokens) * sizeof(float) + 255) / 256 * 256;
}

np_status np_cuda_cudnn_backward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                 const void *qkv, const void *out, const float *lse, const void *dout, void *dqkv) {
  np_cuda_core *core = np_cuda_enter(ops);
  const shape s = {batch, tokens, heads, head_width, 1, causal, 1};
  const size_t sums = accumulator_bytes(&s), dots = row_bytes(&s);
  void *memory[IDS] = {[Q] = part(qkv, 0, &s),   [K] = part(qkv, 1, &s),   [V] = part(qkv, 2, &s),
                       [O] = (void *)out,        [STATS] = (void *)lse,    [DO] = (void *)dout,
                       [DQ] = part(dqkv, 0, &s), [DK] = part(dqkv, 1, &s), [DV] = part(dqkv, 2, &s)};
  attention *a;
  np_status st;
  NP_TRY(check_act(ops));
  NP_TRY(open_state(core));
  NP_TRY(check_tail(core, tokens));
  NP_TRY(find(core, &s, &a));
  NP_TRY(np_cuda_scratch(core, sums + dots + (size_t)a->workspace, &memory[DQ_SUM]));
  memory[DOT_SUM] = (char *)memory[DQ_SUM] + sums;
  if (version_of(core) < 90600) /* later ones begin with zeros themselves: the baseline does not pay twice */
    NP_CUDA_TRY(cudaMemsetAsync(memory[DQ_SUM], 0, sums, core->gpu.stream));
  st = run(core, a, memory, (char *)memory[DOT_SUM] + dots);
out:
  return st;
}

#else /* cuDNN's headers were not found */

static np_status absent(void) {
  return np_error(NP_ERR_LIBRARY,
                  "attention: cudnn: this build was made without cuDNN; allowed: auto, portable, hopper");
}

size_t np_cuda_cudnn_version(void) { return 0; }
void np_cuda_cudnn_close(np_cuda_core *core) { (void)core; }

np_status np_cuda_cudnn_forward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                const void *qkv, void *out, float *lse) {
  (void)ops, (void)causal, (void)batch, (void)tokens, (void)heads, (void)head_width, (void)qkv, (void)out, (void)lse;
  return absent();
}

np_status np_cuda_cudnn_backward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                 const void *qkv, const void *out, const float *lse, const void *dout, void *dqkv) {
  (void)ops, (void)causal, (void)batch, (void)tokens, (void)heads, (void)head_width, (void)qkv, (void)out, (void)lse;
  (void)dout, (void)dqkv;
  return absent();
}
#endif
