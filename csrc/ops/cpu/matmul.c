/* Matrix products of the CPU backend: oneDNN primitives, made once a shape and kept. */
#include "ops/cpu/cpu.h"
#include "ops/cpu/onednn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* A primitive belongs to one shape. A run meets a few dozen (the loss-token count is rounded up to a few sizes by the
 * pixel head), so a small open-addressed table holds them all; should it ever fill, it is emptied and begins again. */
enum { SLOTS = 1024, FILL_LIMIT = 768 };

typedef struct key {
  np_matmul shape; /* of a product, or of a piece of one: */
  int64_t columns; /* of the whole B and C, whose rows it reads and writes in part */
  bool bias;
} key;

typedef struct entry {
  bool used;
  key key;
  dnnl_primitive_t primitive;
  dnnl_memory_t a, b, c, bias; /* descriptors without data: handles are set at each call */
  dnnl_primitive_t pack;       /* b → packed, where the product reads a layout of oneDNN's own; else NULL */
  dnnl_memory_t packed;
  size_t packed_bytes;
} entry;

typedef struct cache {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  bool amx;     /* bfloat16 products run on AMX tiles */
  void *packed; /* [packed_bytes] the packed B of the product at hand; grows to the largest and stays */
  size_t packed_bytes;
  int count;
  entry slots[SLOTS];
} cache;

#define TRY_DNNL(call)                                                                                                 \
  do {                                                                                                                 \
    dnnl_status_t dnnl_result = (call);                                                                                \
    if (dnnl_result != dnnl_success) {                                                                                 \
      st = np_error(dnnl_result == dnnl_out_of_memory ? NP_ERR_MEMORY : NP_ERR_LIBRARY, "oneDNN: %s: status %d",       \
                    #call, (int)dnnl_result);                                                                          \
      goto out;                                                                                                        \
    }                                                                                                                  \
  } while (0)

np_status np_cpu_matmul_open(void **out) {
  np_status st = NP_OK;
  *out = NULL;
  if (dnnl_version()->major != DNNL_VERSION_MAJOR)
    return np_error(NP_ERR_LIBRARY, "oneDNN: the library is version %d, the headers of this build are of version %d",
                    dnnl_version()->major, DNNL_VERSION_MAJOR);
  cache *state = calloc(1, sizeof *state);
  if (!state) return np_error(NP_ERR_MEMORY, "out of memory for the table of matrix products");
  TRY_DNNL(dnnl_engine_create(&state->engine, dnnl_cpu, 0));
  TRY_DNNL(dnnl_stream_create(&state->stream, state->engine, dnnl_stream_default_flags));
  state->amx = (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
  *out = state;
  return NP_OK;
out:
  np_cpu_matmul_close(state);
  return st;
}

static void entry_clear(entry *e) {
  if (e->primitive) dnnl_primitive_destroy(e->primitive);
  if (e->a) dnnl_memory_destroy(e->a);
  if (e->b) dnnl_memory_destroy(e->b);
  if (e->c) dnnl_memory_destroy(e->c);
  if (e->bias) dnnl_memory_destroy(e->bias);
  if (e->pack) dnnl_primitive_destroy(e->pack);
  if (e->packed) dnnl_memory_destroy(e->packed);
  memset(e, 0, sizeof *e);
}

void np_cpu_matmul_close(void *opened) {
  cache *state = opened;
  if (!state) return;
  for (int i = 0; i < SLOTS; i++) entry_clear(&state->slots[i]);
  free(state->packed);
  if (state->stream) dnnl_stream_destroy(state->stream);
  if (state->engine) dnnl_engine_destroy(state->engine);
  free(state);
}

static dnnl_data_type_t type_of(np_dtype type) { return type == NP_BF16 ? dnnl_bf16 : dnnl_f32; }

/* The layout of a logical [rows, columns] matrix that is stored so, in rows of `pitch` elements, or with its
 * dimensions swapped, in rows of `rows`. */
static dnnl_status_t describe(np_layout *layout, int64_t rows, int64_t columns, int64_t pitch, bool stored_transposed,
                              np_dtype type) {
  dnnl_dims_t dims = {rows, columns};
  dnnl_dims_t strides = {stored_transposed ? 1 : pitch, stored_transposed ? rows : 1};
  return dnnl_memory_desc_create_with_strides(layout, 2, dims, type_of(type), strides);
}

/* How oneDNN 2.6 takes a B stored [k, n], as operands of data and weight gradients are, can be bettered; a transposed B
 * it reads well. It copies or walks B whole, in strips of some columns; of half a B, whose rows are not neighbours, it
 * takes blocks instead. Rates in GFLOP/s of two cores of an AMD EPYC (Zen 5), in pages of 2 MiB:
 *
 *                                  float32: as it lies, packed, in halves     bfloat16: as it lies, packed, in halves
 *     data      512 x 1536 x 6144           393     435     461                        845               906
 *     gradients 512 x 6144 x 1536           386     432     475                        890     871       937
 *               320 x 8192 x 2048           436     388     444                        749               872
 *     weights'  6144 x 512 x 1536           435     493     449                        947     993
 *               1536 x 512 x 6144           430     471     497                        836               960
 *
 * With AMX tiles blocks are slow: a weight's gradient in halves ran at 270 to 740 where other products ran at 1000 (two
 * cores of an Intel Xeon, Sapphire Rapids). */
enum { WIDE_GRADIENT = 3072, WIDE = 4096, LARGE = 1 << 24, LARGE_F32 = 1 << 22, FEW_ROWS = 256 };

static bool wants_halves(const np_matmul *s, bool amx) {
  const int64_t size = s->k * s->n;
  if (s->transpose_b || s->n % 64 != 0) return false;
  if (s->transpose_a) return s->n >= WIDE_GRADIENT && !(amx && s->b_type == NP_BF16);
  return s->b_type == NP_F32 ? size >= LARGE_F32 : size >= LARGE || (s->n >= WIDE && s->m >= FEW_ROWS);
}

static bool wants_packed(const key *k) {
  const np_matmul *s = &k->shape;
  if (s->transpose_b || s->n != k->columns) return false;
  return s->b_type == NP_F32 ? s->n * (int64_t)sizeof(float) >= 4096 : s->transpose_a && s->n < WIDE_GRADIENT;
}

/* The reorder from B as stored to the layout the primitive asks for. */
static np_status pack_make(cache *state, const np_layout *stored, const_dnnl_primitive_desc_t product, entry *e) {
  np_status st = NP_OK;
  dnnl_primitive_desc_t desc = NULL;
  np_layout_ref packed = dnnl_primitive_desc_query_md(product, dnnl_query_weights_md, 0), from = np_layout_of(stored);
  if (dnnl_memory_desc_equal(packed, from)) return NP_OK;
  TRY_DNNL(dnnl_reorder_primitive_desc_create(&desc, from, state->engine, packed, state->engine, NULL));
  TRY_DNNL(dnnl_primitive_create(&e->pack, desc));
  TRY_DNNL(dnnl_memory_create(&e->packed, packed, state->engine, DNNL_MEMORY_NONE));
  e->packed_bytes = dnnl_memory_desc_get_size(packed);
out:
  if (desc) dnnl_primitive_desc_destroy(desc);
  return st;
}

/* The layouts of a product's operands; b as it is stored. */
typedef struct layouts {
  np_layout a, b, c, bias;
} layouts;

static np_status layouts_make(const key *k, layouts *of) {
  np_status st = NP_OK;
  const np_matmul *s = &k->shape;
  dnnl_dims_t bias_dims = {1, s->n};
  TRY_DNNL(describe(&of->a, s->m, s->k, s->k, s->transpose_a, s->a_type));
  TRY_DNNL(describe(&of->b, s->k, s->n, k->columns, s->transpose_b, s->b_type));
  TRY_DNNL(describe(&of->c, s->m, s->n, k->columns, false, s->c_type));
  TRY_DNNL(dnnl_memory_desc_create_with_tag(&of->bias, 2, bias_dims, dnnl_f32, dnnl_ab));
out:
  return st;
}

static void layouts_clear(layouts *of) {
  np_layout_clear(&of->a);
  np_layout_clear(&of->b);
  np_layout_clear(&of->c);
  np_layout_clear(&of->bias);
}

/* The product of these operands, of which it may choose the layout of B. */
static np_status product_describe(cache *state, const key *k, const layouts *of, dnnl_primitive_desc_t *out) {
  np_status st = NP_OK;
  const np_matmul *s = &k->shape;
  const bool packed = wants_packed(k);
  np_layout any = {0};
  dnnl_primitive_attr_t attr = NULL;
  dnnl_post_ops_t post = NULL;
  if (packed) {
    dnnl_dims_t dims = {s->k, s->n};
    TRY_DNNL(dnnl_memory_desc_create_with_tag(&any, 2, dims, type_of(s->b_type), dnnl_format_tag_any));
  }
  TRY_DNNL(dnnl_primitive_attr_create(&attr));
  if (s->accumulate) {
    TRY_DNNL(dnnl_post_ops_create(&post));
    TRY_DNNL(np_post_sum(post));
    TRY_DNNL(dnnl_primitive_attr_set_post_ops(attr, post));
  }
  TRY_DNNL(np_product_describe(out, state->engine, &of->a, packed ? &any : &of->b, k->bias ? &of->bias : NULL, &of->c,
                               attr));
out:
  if (post) dnnl_post_ops_destroy(post);
  if (attr) dnnl_primitive_attr_destroy(attr);
  np_layout_clear(&any);
  return st;
}

static np_status entry_make(cache *state, const key *k, entry *e) {
  np_status st = NP_OK;
  layouts of = {0};
  dnnl_primitive_desc_t desc = NULL;
  NP_TRY(layouts_make(k, &of));
  NP_TRY(product_describe(state, k, &of, &desc));
  TRY_DNNL(dnnl_primitive_create(&e->primitive, desc));
  NP_TRY(pack_make(state, &of.b, desc, e));
  TRY_DNNL(dnnl_memory_create(&e->a, np_layout_of(&of.a), state->engine, DNNL_MEMORY_NONE));
  TRY_DNNL(dnnl_memory_create(&e->b, np_layout_of(&of.b), state->engine, DNNL_MEMORY_NONE));
  TRY_DNNL(dnnl_memory_create(&e->c, np_layout_of(&of.c), state->engine, DNNL_MEMORY_NONE));
  if (k->bias) TRY_DNNL(dnnl_memory_create(&e->bias, np_layout_of(&of.bias), state->engine, DNNL_MEMORY_NONE));
  e->key = *k;
  e->used = true;
out:
  if (desc) dnnl_primitive_desc_destroy(desc);
  layouts_clear(&of);
  if (st != NP_OK) entry_clear(e);
  return st;
}

static bool key_equal(const key *x, const key *y) {
  const np_matmul *a = &x->shape, *b = &y->shape;
  return a->m == b->m && a->n == b->n && a->k == b->k && a->transpose_a == b->transpose_a &&
         a->transpose_b == b->transpose_b && a->a_type == b->a_type && a->b_type == b->b_type &&
         a->c_type == b->c_type && a->accumulate == b->accumulate && x->columns == y->columns && x->bias == y->bias;
}

static uint64_t key_hash(const key *k) {
  const np_matmul *s = &k->shape;
  uint64_t flags = (uint64_t)s->transpose_a | (uint64_t)s->transpose_b << 1 | (uint64_t)s->accumulate << 2 |
                   (uint64_t)k->bias << 3 | (uint64_t)s->a_type << 4 | (uint64_t)s->b_type << 8 |
                   (uint64_t)s->c_type << 12;
  uint64_t words[] = {(uint64_t)s->m, (uint64_t)s->n, (uint64_t)s->k, (uint64_t)k->columns, flags};
  uint64_t hash = 0x9e3779b97f4a7c15u;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    hash = (hash ^ words[i]) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
  }
  return hash;
}

static np_status find(cache *state, const key *k, entry **out) {
  if (state->count >= FILL_LIMIT) {
    for (int i = 0; i < SLOTS; i++) entry_clear(&state->slots[i]);
    state->count = 0;
  }
  size_t at = key_hash(k) % SLOTS;
  while (state->slots[at].used && !key_equal(&state->slots[at].key, k)) at = (at + 1) % SLOTS;
  *out = &state->slots[at];
  if ((*out)->used) return NP_OK;
  np_status st = entry_make(state, k, *out);
  if (st != NP_OK)
    return np_error_context(st, "matrix product %lld x %lld x %lld", (long long)k->shape.m, (long long)k->shape.n,
                            (long long)k->shape.k);
  state->count++;
  return NP_OK;
}

/* B into the state's packed buffer; *b is what the product reads. */
static np_status pack(cache *state, entry *e, dnnl_memory_t *b) {
  np_status st = NP_OK;
  *b = e->b;
  if (!e->pack) return NP_OK;
  if (state->packed_bytes < e->packed_bytes) {
    free(state->packed);
    state->packed_bytes = 0;
    state->packed = aligned_alloc(64, (e->packed_bytes + 63) / 64 * 64);
    if (!state->packed)
      return np_error(NP_ERR_MEMORY, "out of memory for a packed matrix of %zu bytes", e->packed_bytes);
    state->packed_bytes = e->packed_bytes;
  }
  TRY_DNNL(dnnl_memory_set_data_handle(e->packed, state->packed));
  dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, e->b}, {DNNL_ARG_TO, e->packed}};
  TRY_DNNL(dnnl_primitive_execute(e->pack, state->stream, 2, args));
  *b = e->packed;
out:
  return st;
}

static np_status multiply(cache *state, const key *k, const void *a, const void *b, const float *bias, void *c) {
  np_status st = NP_OK;
  entry *e;
  NP_TRY(find(state, k, &e));
  /* oneDNN takes inputs through void * but does not write to them. */
  TRY_DNNL(dnnl_memory_set_data_handle(e->a, (void *)(uintptr_t)a));
  TRY_DNNL(dnnl_memory_set_data_handle(e->b, (void *)(uintptr_t)b));
  TRY_DNNL(dnnl_memory_set_data_handle(e->c, c));
  if (bias) TRY_DNNL(dnnl_memory_set_data_handle(e->bias, (void *)(uintptr_t)bias));
  dnnl_memory_t b_read;
  NP_TRY(pack(state, e, &b_read));
  dnnl_exec_arg_t args[] = {
      {DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, b_read}, {DNNL_ARG_DST, e->c}, {DNNL_ARG_BIAS, e->bias}};
  TRY_DNNL(dnnl_primitive_execute(e->primitive, state->stream, bias ? 4 : 3, args));
  TRY_DNNL(dnnl_stream_wait(state->stream));
out:
  return st;
}

/* oneDNN takes as many threads as OpenMP would give the calling thread. Returns that number as it was. */
static int with_threads(int threads) {
#ifdef _OPENMP
  int before = omp_get_max_threads();
  if (before != threads) omp_set_num_threads(threads);
  return before;
#else
  return threads;
#endif
}

np_status np_cpu_matmul(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias, void *c) {
  np_status st = NP_OK;
  key k = {.shape = *shape, .columns = shape->n, .bias = bias != NULL};
  if (shape->m == 0 || shape->n == 0) return NP_OK;
  const int callers = with_threads(np_cpu_of(ops)->threads);
  if (wants_halves(shape, ((const cache *)np_cpu_of(ops)->matmul)->amx)) k.shape.n /= 2;
  for (int64_t column = 0; column < shape->n; column += k.shape.n)
    NP_TRY(multiply(np_cpu_of(ops)->matmul, &k, a, (const char *)b + (size_t)column * np_dtype_size(shape->b_type),
                    bias ? bias + column : NULL, (char *)c + (size_t)column * np_dtype_size(shape->c_type)));
out:
  (void)with_threads(callers);
  return st;
}

static const char *isa_name(void) {
  /* The strongest first: a set has the bits of those that it is made of, and newer ones than are named here. */
  static const struct {
    dnnl_cpu_isa_t bits;
    const char *name;
  } known[] = {{dnnl_cpu_isa_avx512_core_amx, "AVX-512 AMX"},
               {dnnl_cpu_isa_avx512_core_bf16, "AVX-512 BF16"},
               {dnnl_cpu_isa_avx512_core_vnni, "AVX-512 VNNI"},
               {dnnl_cpu_isa_avx512_core, "AVX-512"},
               {dnnl_cpu_isa_avx2_vnni, "AVX2-VNNI"},
               {dnnl_cpu_isa_avx2, "AVX2"},
               {dnnl_cpu_isa_avx, "AVX"},
               {dnnl_cpu_isa_sse41, "SSE4.1"}};
  const dnnl_cpu_isa_t has = dnnl_get_effective_cpu_isa();
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if ((has & known[i].bits) == known[i].bits) return known[i].name;
  return "generic";
}

bool np_cpu_products_take_bf16(void) {
  return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

void np_cpu_products_name(char text[NP_CPU_TEXT]) {
  const dnnl_version_t *v = dnnl_version();
  snprintf(text, NP_CPU_TEXT, "oneDNN %d.%d.%d %s", v->major, v->minor, v->patch, isa_name());
}
