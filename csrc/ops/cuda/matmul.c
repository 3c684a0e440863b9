/* Matrix products by cuBLASLt.
 *
 * cuBLASLt's matrices are column-major, ours row-major, and a row-major matrix is the column-major one of its
 * transpose: so C = op(A)·op(B) is asked for as Cᵀ = op(B)ᵀ·op(A)ᵀ, with the operands swapped and nothing moved.
 *
 *   ours            stored     cuBLASLt sees   wants          so
 *   B               [k, n]     n × k, ld n     op(B)ᵀ n × k   as it is
 *   B, transposed   [n, k]     k × n, ld k     op(B)ᵀ n × k   transposed
 *   A               [m, k]     k × m, ld k     op(A)ᵀ k × m   as it is
 *   A, transposed   [k, m]     m × k, ld m     op(A)ᵀ k × m   transposed
 *   C               [m, n]     n × m, ld n
 *
 * The heuristic is asked once a shape, and what a rule picks of its offers is kept, so that a shape always gives the
 * same bits. That is the host's work alone, and may be done while a recording is made. Algorithms that split k are
 * welcome when the parts are summed in a step of their own, in float32; those that add them up in the output as they
 * come are not. */
#include "ops/cuda/cuda.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum {
  BUCKETS = 256,
  OFFERS = 8,    /* of the heuristic */
  ALIGNMENT = 64 /* what alloc and the arenas give; a smaller one is looked at, a larger one is luck */
};

/* All that an algorithm may depend on. Compared and hashed by its bytes. */
typedef struct key {
  int64_t m, n, k;
  int32_t transpose_a, transpose_b, a_type, b_type, c_type, accumulate, bias;
  int32_t align_a, align_b, align_c; /* bytes */
} key;
_Static_assert(sizeof(key) == 3 * sizeof(int64_t) + 10 * sizeof(int32_t), "the key has no padding");

typedef struct product {
  struct product *next;
  key key;
  cublasLtMatmulDesc_t how;
  cublasLtMatrixLayout_t a, b, c; /* of our operands */
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace;
} product;

typedef struct matmul {
  cublasLtHandle_t handle;
  product *bucket[BUCKETS];
} matmul;

static np_status failed(const np_cuda_core *core, const char *call, cublasStatus_t code) {
  np_failure why = NP_FAILURE_OTHER;
  if (code == CUBLAS_STATUS_ALLOC_FAILED) why = NP_FAILURE_MEMORY;
  if (code == CUBLAS_STATUS_EXECUTION_FAILED) why = NP_FAILURE_LATE;
  if (code == CUBLAS_STATUS_ARCH_MISMATCH || code == CUBLAS_STATUS_NOT_SUPPORTED) why = NP_FAILURE_LIBRARY;
  if (code == CUBLAS_STATUS_NOT_INITIALIZED) why = NP_FAILURE_LIBRARY; /* it is there, and does not start */
  return np_cuda_failed(&core->gpu, call, why, cublasLtGetStatusString(code));
}

#define LT_TRY(call)                                                                                                   \
  do {                                                                                                                 \
    cublasStatus_t lt_code = (call);                                                                                   \
    if (lt_code != CUBLAS_STATUS_SUCCESS) {                                                                            \
      st = failed(core, #call, lt_code);                                                                               \
      goto out;                                                                                                        \
    }                                                                                                                  \
  } while (0)

size_t np_cuda_matmul_version(void) { return cublasLtGetVersion(); }

np_status np_cuda_matmul_open(np_cuda_core *core) {
  np_status st = NP_OK;
  matmul *state = calloc(1, sizeof *state);
  if (!state) return np_error(NP_ERR_MEMORY, "not enough memory for matrix products");
  core->matmul = state;
  LT_TRY(cublasLtCreate(&state->handle));
out:
  return st;
}

static void forget(product *p) {
  if (!p) return;
  if (p->how) (void)cublasLtMatmulDescDestroy(p->how);
  if (p->a) (void)cublasLtMatrixLayoutDestroy(p->a);
  if (p->b) (void)cublasLtMatrixLayoutDestroy(p->b);
  if (p->c) (void)cublasLtMatrixLayoutDestroy(p->c);
  free(p);
}

void np_cuda_matmul_close(np_cuda_core *core) {
  matmul *state = core->matmul;
  if (!state) return;
  for (int i = 0; i < BUCKETS; i++)
    for (product *p = state->bucket[i], *next; p; p = next) {
      next = p->next;
      forget(p);
    }
  if (state->handle) (void)cublasLtDestroy(state->handle);
  free(state);
}

/* ---- a shape's product ---- */

static cudaDataType_t cuda_type(int type) { return type == NP_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

static int32_t alignment(const void *memory) {
  uintptr_t lowest = (uintptr_t)memory & (~(uintptr_t)memory + 1);
  return lowest == 0 || lowest > ALIGNMENT ? ALIGNMENT : (int32_t)lowest;
}

static np_status check_types(const np_matmul *s) {
  bool f32 = s->a_type == NP_F32 && s->b_type == NP_F32 && s->c_type == NP_F32;
  bool bf16 = s->a_type == NP_BF16 && s->b_type == NP_BF16 && (s->c_type == NP_BF16 || s->c_type == NP_F32);
  if (f32 || bf16) return NP_OK;
  return np_error(NP_ERR_ARGUMENT, "matrix product: expected F32·F32 → F32 or BF16·BF16 → BF16 or F32");
}

static unsigned hash(const key *of) {
  const unsigned char *bytes = (const unsigned char *)of;
  uint32_t h = 2166136261u; /* FNV-1a */
  for (size_t i = 0; i < sizeof *of; i++) h = (h ^ bytes[i]) * 16777619u;
  return (h ^ h >> 16) % BUCKETS;
}

/* A row-major matrix [rows, columns] as cuBLASLt sees it. */
static cublasStatus_t layout(cublasLtMatrixLayout_t *out, int type, int64_t rows, int64_t columns) {
  return cublasLtMatrixLayoutCreate(out, cuda_type(type), (uint64_t)columns, (uint64_t)rows, columns);
}

static np_status describe(const np_cuda_core *core, product *p, const void *bias) {
  np_status st = NP_OK;
  const key *s = &p->key;
  /* The compute type that may not round float32 to TF32. cuBLASLt's A is our B. */
  LT_TRY(cublasLtMatmulDescCreate(&p->how, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t first = s->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = s->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  LT_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
  LT_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
  if (s->bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const int32_t type = cuda_type(s->c_type);
    LT_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    LT_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type));
    LT_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
  }
  LT_TRY(s->transpose_a ? layout(&p->a, s->a_type, s->k, s->m) : layout(&p->a, s->a_type, s->m, s->k));
  LT_TRY(s->transpose_b ? layout(&p->b, s->b_type, s->n, s->k) : layout(&p->b, s->b_type, s->k, s->n));
  LT_TRY(layout(&p->c, s->c_type, s->m, s->n));
out:
  return st;
}

/* An algorithm's setting; -1 where this version of cuBLASLt does not tell. */
static int setting(const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulAlgoConfigAttributes_t name, size_t size) {
  uint32_t value = 0;
  size_t written;
  if (cublasLtMatmulAlgoConfigGetAttribute(algorithm, name, &value, size, &written) != CUBLAS_STATUS_SUCCESS) return -1;
  return (int)value;
}

/* Which of the offers: the heuristic's first, but for large products of a short k to bfloat16. Those write much for
 * what they compute, and small tiles, whose results go out while the next tile is computed, are the faster ones of the
 * first offers when the GPU runs at its power limit, as it does in training (docs/benchmarks.md, "Matrix products").
 * A rule and no timing, so that the same shape is computed alike in every run. */
static int preferred(const key *s, int processors, const cublasLtMatmulHeuristicResult_t *offered, int count) {
  static const uint32_t tiles[] = {CUBLASLT_MATMUL_TILE_128x160, CUBLASLT_MATMUL_TILE_176x128};
  enum { SHORT = 8192, TILE = 128 * 160, ROUNDS = 8 };
  if (s->c_type != NP_BF16 || s->k >= SHORT || s->m * s->n < (int64_t)ROUNDS * processors * TILE) return 0;
  for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++)
    for (int i = 0; i < count; i++)
      if (offered[i].state == CUBLAS_STATUS_SUCCESS &&
          (uint32_t)setting(&offered[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID, sizeof(uint32_t)) == tiles[t])
        return i;
  return 0;
}

static np_status choose_algorithm(const np_cuda_core *core, product *p) {
  np_status st = NP_OK;
  const matmul *state = core->matmul;
  const size_t workspace = NP_CUDA_WORKSPACE;
  const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* besides none */
  const uint32_t align_a = (uint32_t)p->key.align_b, align_b = (uint32_t)p->key.align_a,
                 align_c = (uint32_t)p->key.align_c;
  const struct {
    cublasLtMatmulPreferenceAttributes_t name;
    const void *value;
    size_t size;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
                {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_a, sizeof align_a},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_b, sizeof align_b},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof align_c},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof align_c}};
  cublasLtMatmulPreference_t preference = NULL;
  cublasLtMatmulHeuristicResult_t offered[OFFERS];
  int found = 0;
  LT_TRY(cublasLtMatmulPreferenceCreate(&preference));
  for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
    LT_TRY(cublasLtMatmulPreferenceSetAttribute(preference, wishes[i].name, wishes[i].value, wishes[i].size));
  LT_TRY(cublasLtMatmulAlgoGetHeuristic(state->handle, p->how, p->b, p->a, p->c, p->c, preference, OFFERS, offered,
                                        &found));
  if (found == 0) {
    st = failed(core, "cublasLtMatmulAlgoGetHeuristic", CUBLAS_STATUS_NOT_SUPPORTED);
    goto out;
  }
  const cublasLtMatmulHeuristicResult_t *best = &offered[preferred(&p->key, core->gpu.processors, offered, found)];
  LT_TRY(best->state);
  p->algorithm = best->algo;
  p->workspace = best->workspaceSize;
out:
  if (preference) (void)cublasLtMatmulPreferenceDestroy(preference);
  return st;
}

static np_status find(np_cuda_core *core, const key *wanted, const void *bias, product **out) {
  np_status st = NP_OK;
  matmul *state = core->matmul;
  product **bucket = &state->bucket[hash(wanted)], *p = NULL;
  for (*out = *bucket; *out; *out = (*out)->next)
    if (!memcmp(&(*out)->key, wanted, sizeof *wanted)) return NP_OK;
  p = calloc(1, sizeof *p);
  if (!p) return np_error(NP_ERR_MEMORY, "not enough memory for a matrix product's plan");
  p->key = *wanted;
  NP_TRY(describe(core, p, bias));
  NP_TRY(choose_algorithm(core, p));
  p->next = *bucket;
  *out = *bucket = p;
  p = NULL;
out:
  forget(p);
  if (st != NP_OK)
    np_error_context(st, "matrix product %lld × %lld × %lld", (long long)wanted->m, (long long)wanted->n,
                     (long long)wanted->k);
  return st;
}

/* ---- the operation ---- */

/* The bias in C's type: cuBLASLt's epilogue adds no other. */
static np_status bias_of_type(np_cuda_core *core, const np_matmul *shape, const float *bias, const void **out) {
  np_status st = NP_OK;
  void *low;
  *out = bias;
  if (!bias || shape->c_type == NP_F32) return NP_OK;
  NP_TRY(np_cuda_scratch(core, (size_t)shape->n * sizeof(np_bf16), &low));
  NP_TRY(np_kernel_to_act(&core->gpu, NP_BF16, shape->n, bias, low));
  *out = low;
out:
  return st;
}

np_status np_cuda_matmul(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias,
                         void *c) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  const matmul *state = core->matmul;
  const float one = 1.0f, beta = shape->accumulate ? 1.0f : 0.0f;
  const void *typed_bias;
  product *p;
  NP_TRY(check_types(shape));
  if (shape->m == 0 || shape->n == 0) goto out;
  NP_TRY(bias_of_type(core, shape, bias, &typed_bias));
  const key wanted = {.m = shape->m,
                      .n = shape->n,
                      .k = shape->k,
                      .transpose_a = shape->transpose_a,
                      .transpose_b = shape->transpose_b,
                      .a_type = shape->a_type,
                      .b_type = shape->b_type,
                      .c_type = shape->c_type,
                      .accumulate = shape->accumulate,
                      .bias = bias ? alignment(typed_bias) : 0,
                      .align_a = alignment(a),
                      .align_b = alignment(b),
                      .align_c = alignment(c)};
  NP_TRY(find(core, &wanted, typed_bias, &p));
  if (bias)
    LT_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &typed_bias, sizeof typed_bias));
  LT_TRY(cublasLtMatmul(state->handle, p->how, &one, b, p->b, a, p->a, &beta, c, p->c, c, p->c, &p->algorithm,
                        core->workspace, NP_CUDA_WORKSPACE, core->gpu.stream));
out:
  return st;
}

/* ---- printing ---- */

static void print(const product *p, FILE *to) {
  const key *k = &p->key;
  fprintf(to, "%8lld × %6lld × %6lld  %s%s  %s → %s%s%s  algorithm %d, tile %d, stages %d, cluster %d, split-k %d",
          (long long)k->m, (long long)k->n, (long long)k->k, k->transpose_a ? "Aᵀ" : "A ", k->transpose_b ? "Bᵀ" : "B ",
          k->a_type == NP_BF16 ? "bf16" : "f32", k->c_type == NP_BF16 ? "bf16" : "f32", k->accumulate ? " +=" : "",
          k->bias ? " + bias" : "", setting(&p->algorithm, CUBLASLT_ALGO_CONFIG_ID, sizeof(int32_t)),
          setting(&p->algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, sizeof(uint32_t)),
          setting(&p->algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID, sizeof(uint32_t)),
          setting(&p->algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, sizeof(uint16_t)),
          setting(&p->algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, sizeof(int32_t)));
  fprintf(to, ", workspace %.1f MiB\n", (double)p->workspace / (1 << 20));
}

void np_cuda_matmul_print(np_ops *ops, FILE *to) {
  const matmul *state = np_cuda_of(ops)->core->matmul;
  for (int i = 0; i < BUCKETS; i++)
    for (const product *p = state->bucket[i]; p; p = p->next) print(p, to);
}
