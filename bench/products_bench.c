/* products_bench: cuBLASLt's matrix products of an AIM-0.6B step at batch 256, every algorithm that its heuristic
 * offers, and its fused GELU beside them. A JSON line an algorithm, with TFLOP/s, the best of ROUNDS turns of TURNS
 * products each, in which all algorithms of a shape take turns: one after the other they keep the GPU at its power
 * limit, as a training step does. What csrc/ops/cuda/matmul.c prefers, and why GELU is a kernel of its own, was read
 * from this.
 *
 * The last line: how far the fused GELU is from the exact one. */
#include "util/dtype.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { OFFERS = 8, ROUNDS = 4, TURNS = 4, WORKSPACE = 64 << 20, SIDE = 512 };
static const size_t LARGEST = (size_t)65536 * 6144;

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    int code = (int)(call);                                                                                            \
    if (code != 0) {                                                                                                   \
      fprintf(stderr, "error: products_bench: %s: code %d\n", #call, code);                                            \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

typedef struct shape {
  int64_t m, n, k;        /* row-major C[m, n] = op(A)·op(B) */
  int turned_a, turned_b; /* A stored [k, m]; B stored [n, k] */
  cudaDataType_t c_type;
  cublasLtEpilogue_t epilogue;
} shape;

static struct {
  cublasLtHandle_t handle;
  void *a, *b, *c, *aux, *workspace;
  cudaEvent_t start, end;
} gpu;

/* ---- values ---- */

/* `count` bfloat16 values, uniform in ±0.5; never zeros, which take less power. */
static void fill(void *device, size_t count, uint32_t seed) {
  enum { CHUNK = 1 << 22 };
  np_bf16 *values = malloc(CHUNK * sizeof *values);
  if (!values) exit(1);
  for (size_t i = 0; i < CHUNK; i++) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = np_bf16_from_f32((float)(seed >> 8) * 0x1p-24f - 0.5f);
  }
  for (size_t at = 0; at < count; at += CHUNK) {
    size_t part = count - at < CHUNK ? count - at : CHUNK;
    TRY(cudaMemcpy((np_bf16 *)device + at, values, part * sizeof *values, cudaMemcpyHostToDevice));
  }
  free(values);
}

static void prepare(void) {
  TRY(cublasLtCreate(&gpu.handle));
  TRY(cudaMalloc(&gpu.a, LARGEST * sizeof(np_bf16)));
  TRY(cudaMalloc(&gpu.b, LARGEST * sizeof(np_bf16)));
  TRY(cudaMalloc(&gpu.c, LARGEST * sizeof(float)));
  TRY(cudaMalloc(&gpu.aux, LARGEST * sizeof(np_bf16)));
  TRY(cudaMalloc(&gpu.workspace, WORKSPACE));
  TRY(cudaEventCreate(&gpu.start));
  TRY(cudaEventCreate(&gpu.end));
  fill(gpu.a, LARGEST, 1);
  fill(gpu.b, LARGEST, 2);
  fill(gpu.aux, LARGEST, 3);
}

/* ---- one shape ---- */

typedef struct product {
  cublasLtMatmulDesc_t how;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulHeuristicResult_t offer[OFFERS];
  int offers;
} product;

static void set(product *p, cublasLtMatmulDescAttributes_t name, const void *value, size_t size) {
  TRY(cublasLtMatmulDescSetAttribute(p->how, name, value, size));
}

/* As csrc/ops/cuda/matmul.c: cuBLASLt's first matrix is our B. */
static product describe(const shape *s) {
  product p = {0};
  const cublasOperation_t first = s->turned_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = s->turned_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  TRY(cublasLtMatmulDescCreate(&p.how, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(&p, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
  set(&p, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
  set(&p, CUBLASLT_MATMUL_DESC_EPILOGUE, &s->epilogue, sizeof s->epilogue);
  if (s->epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
    const cudaDataType_t type = CUDA_R_16BF;
    set(&p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &gpu.aux, sizeof gpu.aux);
    set(&p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &s->n, sizeof s->n);
    set(&p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, &type, sizeof type);
  }
  uint64_t m = (uint64_t)s->m, n = (uint64_t)s->n, k = (uint64_t)s->k;
  TRY(cublasLtMatrixLayoutCreate(&p.a, CUDA_R_16BF, s->turned_a ? m : k, s->turned_a ? k : m,
                                 s->turned_a ? s->m : s->k));
  TRY(cublasLtMatrixLayoutCreate(&p.b, CUDA_R_16BF, s->turned_b ? k : n, s->turned_b ? n : k,
                                 s->turned_b ? s->k : s->n));
  TRY(cublasLtMatrixLayoutCreate(&p.c, s->c_type, n, m, s->n));
  cublasLtMatmulPreference_t wish;
  const size_t workspace = WORKSPACE;
  const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  TRY(cublasLtMatmulPreferenceCreate(&wish));
  TRY(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                           sizeof workspace));
  TRY(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
  TRY(cublasLtMatmulAlgoGetHeuristic(gpu.handle, p.how, p.b, p.a, p.c, p.c, wish, OFFERS, p.offer, &p.offers));
  TRY(cublasLtMatmulPreferenceDestroy(wish));
  return p;
}

static void forget(product *p) {
  TRY(cublasLtMatmulDescDestroy(p->how));
  TRY(cublasLtMatrixLayoutDestroy(p->a));
  TRY(cublasLtMatrixLayoutDestroy(p->b));
  TRY(cublasLtMatrixLayoutDestroy(p->c));
}

static void multiply(const product *p, int offer) {
  const float one = 1.0f, zero = 0.0f;
  TRY(cublasLtMatmul(gpu.handle, p->how, &one, gpu.b, p->b, gpu.a, p->a, &zero, gpu.c, p->c, gpu.c, p->c,
                     &p->offer[offer].algo, gpu.workspace, WORKSPACE, 0));
}

static double seconds(const product *p, int offer) {
  float milliseconds;
  TRY(cudaEventRecord(gpu.start, 0));
  for (int i = 0; i < TURNS; i++) multiply(p, offer);
  TRY(cudaEventRecord(gpu.end, 0));
  TRY(cudaEventSynchronize(gpu.end));
  TRY(cudaEventElapsedTime(&milliseconds, gpu.start, gpu.end));
  return 1e-3 * (double)milliseconds / TURNS;
}

static int setting(const product *p, int offer, cublasLtMatmulAlgoConfigAttributes_t name, size_t size) {
  uint32_t value = 0;
  size_t written;
  TRY(cublasLtMatmulAlgoConfigGetAttribute(&p->offer[offer].algo, name, &value, size, &written));
  return (int)value;
}

static void time_shape(const shape *s) {
  product p = describe(s);
  double best[OFFERS];
  for (int round = 0; round < ROUNDS; round++) /* the first warms up */
    for (int i = 0; i < p.offers; i++) {
      double taken = seconds(&p, i);
      if (round <= 1 || taken < best[i]) best[i] = taken;
    }
  const char *what = s->epilogue == CUBLASLT_EPILOGUE_GELU_AUX ? "gelu"
                     : s->epilogue == CUBLASLT_EPILOGUE_DGELU  ? "gelu gradient"
                                                               : "";
  for (int i = 0; i < p.offers; i++)
    printf("{\"m\": %lld, \"n\": %lld, \"k\": %lld, \"turned\": \"%s%s\", \"to\": \"%s\", \"fused\": \"%s\", "
           "\"offer\": %d, "
           "\"algorithm\": %d, \"tile\": %d, \"cluster\": %d, \"split_k\": %d, \"tflops_per_s\": %.1f}\n",
           (long long)s->m, (long long)s->n, (long long)s->k, s->turned_a ? "A" : "", s->turned_b ? "B" : "",
           s->c_type == CUDA_R_32F ? "f32" : "bf16", what, i, setting(&p, i, CUBLASLT_ALGO_CONFIG_ID, sizeof(int32_t)),
           setting(&p, i, CUBLASLT_ALGO_CONFIG_TILE_ID, sizeof(uint32_t)),
           setting(&p, i, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, sizeof(uint16_t)),
           setting(&p, i, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, sizeof(int32_t)),
           2e-12 * (double)s->m * (double)s->n * (double)s->k / best[i]);
  fflush(stdout);
  forget(&p);
}

/* ---- the fused GELU ---- */

/* The largest difference of the fused GELU from x·Φ(x) where the product x is within ±4, and what rounding the exact
 * value to bfloat16 makes there at most. */
static void compare_gelu(void) {
  const shape s = {SIDE, SIDE, SIDE / 8, 0, 1, CUDA_R_16BF, CUBLASLT_EPILOGUE_GELU_AUX};
  static np_bf16 x[SIDE * SIDE], y[SIDE * SIDE];
  product p = describe(&s);
  if (p.offers == 0) return;
  multiply(&p, 0);
  TRY(cudaMemcpy(x, gpu.aux, sizeof x, cudaMemcpyDeviceToHost));
  TRY(cudaMemcpy(y, gpu.c, sizeof y, cudaMemcpyDeviceToHost));
  double off = 0.0, rounding = 0.0;
  for (size_t i = 0; i < sizeof x / sizeof *x; i++) {
    double at = (double)np_bf16_to_f32(x[i]), exact = 0.5 * at * erfc(-at * sqrt(0.5));
    if (fabs(at) > 4.0) continue;
    off = fmax(off, fabs((double)np_bf16_to_f32(y[i]) - exact) / fmax(fabs(exact), 1e-2));
    rounding =
        fmax(rounding, fabs((double)np_bf16_to_f32(np_bf16_from_f32((float)exact)) - exact) / fmax(fabs(exact), 1e-2));
  }
  printf("{\"fused_gelu_largest_relative_difference\": %.3g, \"of_rounding_to_bf16\": %.3g}\n", off, rounding);
  forget(&p);
}

int main(void) {
  enum { TOKENS = 65536, LOSS = 32768, D = 1536, H = 2048, PATCH = 588 };
  const cublasLtEpilogue_t plain = CUBLASLT_EPILOGUE_DEFAULT;
  const cudaDataType_t f32 = CUDA_R_32F, bf16 = CUDA_R_16BF;
  const shape shapes[] = {
      {TOKENS, 3 * D, D, 0, 1, bf16, plain},
      {TOKENS, D, D, 0, 1, bf16, plain},
      {TOKENS, 4 * D, D, 0, 1, bf16, plain},
      {TOKENS, D, 4 * D, 0, 1, bf16, plain},
      {LOSS, 4 * H, H, 0, 1, bf16, plain},
      {LOSS, H, 4 * H, 0, 1, bf16, plain},
      {TOKENS, D, 3 * D, 0, 0, bf16, plain},
      {TOKENS, D, D, 0, 0, bf16, plain},
      {TOKENS, D, 4 * D, 0, 0, bf16, plain},
      {TOKENS, 4 * D, D, 0, 0, bf16, plain},
      {LOSS, H, 4 * H, 0, 0, bf16, plain},
      {LOSS, 4 * H, H, 0, 0, bf16, plain},
      {3 * D, D, TOKENS, 1, 0, f32, plain},
      {D, D, TOKENS, 1, 0, f32, plain},
      {4 * D, D, TOKENS, 1, 0, f32, plain},
      {D, 4 * D, TOKENS, 1, 0, f32, plain},
      {4 * H, H, LOSS, 1, 0, f32, plain},
      {H, 4 * H, LOSS, 1, 0, f32, plain},
      {TOKENS, D, PATCH, 0, 1, bf16, plain},
      {D, PATCH, TOKENS, 1, 0, f32, plain},
      {LOSS, PATCH, H, 0, 1, bf16, plain},
      {LOSS, H, PATCH, 0, 0, bf16, plain},
      {TOKENS, 4 * D, D, 0, 1, bf16, CUBLASLT_EPILOGUE_GELU_AUX},
      {TOKENS, 4 * D, D, 0, 0, bf16, CUBLASLT_EPILOGUE_DGELU},
  };
  prepare();
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) time_shape(&shapes[i]);
  compare_gelu();
  return 0;
}
