/* The harness of the operator tests: opens the CPU backend in every form this machine has (instruction set × activation
 * type × threads), hands out buffers with guard zones, fills them from a fixed seed, and compares with float64
 * references.
 *
 * Bounds. Operators compute in float32 whatever their storage, so against a float64 reference an element of a float32
 * result may be off by `floor` of the tensor's largest value. A bfloat16 result may besides be off by what rounding to
 * bfloat16 costs any result, 2^-8 of the element, and its r.m.s. error by twice the r.m.s. error of the rounded
 * reference. */
#ifndef NP_TESTS_OPS_HARNESS_H
#define NP_TESTS_OPS_HARNESS_H

#include "ops/ops.h"
#ifdef NP_TEST_CUDA
#include "ops/cuda.h"
#endif

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { H_ZONE = 256, H_BUFFERS = 128, H_GUARD = 0xA5, H_SEED = 20240108 };

typedef struct harness {
  np_ops *ops;
  np_dtype act;
  char form[64], name[160]; /* the backend's form; the form and the case at hand */
  uint64_t random;
  int buffers;
  struct {
    unsigned char *memory;
    size_t bytes;
  } buffer[H_BUFFERS];
} harness;

/* ---- buffers ---- */

/* Memory that operators and this test both use: the host's, for the CUDA backend such as a GPU sees, too. Without a
 * backend (h->ops NULL) it is a reference's alone. */
static inline unsigned char *h_memory(harness *h, size_t bytes) {
  (void)h;
  void *memory;
#ifdef NP_TEST_CUDA
  if (h->ops) {
    if (np_cuda_mapped_alloc(h->ops, bytes, &memory) != NP_OK) fail_msg("%s: %s", h->name, np_error_message());
    return memory;
  }
#endif
  memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  assert_non_null(memory);
  return memory;
}

static inline void h_forget(harness *h, unsigned char *memory) {
  (void)h;
#ifdef NP_TEST_CUDA
  if (h->ops) {
    np_cuda_mapped_release(h->ops, memory);
    return;
  }
#endif
  free(memory);
}

/* `bytes` between two guard zones; every byte is set to a NaN pattern, so that what an operator forgets to write is
 * found. */
static inline void *h_take(harness *h, size_t bytes) {
  assert_true(h->buffers < H_BUFFERS);
  unsigned char *memory = h_memory(h, bytes + 2 * H_ZONE);
  memset(memory, H_GUARD, H_ZONE);
  memset(memory + H_ZONE, 0xff, bytes);
  memset(memory + H_ZONE + bytes, H_GUARD, H_ZONE);
  h->buffer[h->buffers].memory = memory;
  h->buffer[h->buffers++].bytes = bytes;
  return memory + H_ZONE;
}

/* Check all guard zones and give the buffers back. */
static inline void h_finish(harness *h) {
  for (int i = 0; i < h->buffers; i++) {
    const unsigned char *memory = h->buffer[i].memory, *after = memory + H_ZONE + h->buffer[i].bytes;
    for (int j = 0; j < H_ZONE; j++)
      if (memory[j] != H_GUARD || after[j] != H_GUARD) fail_msg("%s: buffer %d was written outside", h->name, i);
    h_forget(h, h->buffer[i].memory);
  }
  h->buffers = 0;
}

static inline size_t h_size(const harness *h) { return np_dtype_size(h->act); }
static inline void *h_take_act(harness *h, int64_t n) { return h_take(h, (size_t)n * h_size(h)); }
static inline float *h_take_f32(harness *h, int64_t n) { return h_take(h, (size_t)n * sizeof(float)); }
static inline double *h_take_f64(harness *h, int64_t n) { return h_take(h, (size_t)n * sizeof(double)); }

/* ---- values ---- */

static inline double h_uniform(harness *h) { /* splitmix64 */
  uint64_t z = h->random += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static inline double h_normal(harness *h) {
  return sqrt(-2.0 * log(1.0 - h_uniform(h))) * cos(6.283185307179586 * h_uniform(h));
}

static inline double h_round(const harness *h, double value) {
  return h->act == NP_BF16 ? (double)np_bf16_to_f32(np_bf16_from_f32((float)value)) : (double)(float)value;
}

static inline double h_get(const harness *h, const void *x, int64_t i) {
  return h->act == NP_BF16 ? (double)np_bf16_to_f32(((const np_bf16 *)x)[i]) : (double)((const float *)x)[i];
}

static inline void h_set(const harness *h, void *x, int64_t i, double value) {
  if (h->act == NP_BF16) ((np_bf16 *)x)[i] = np_bf16_from_f32((float)value);
  else ((float *)x)[i] = (float)value;
}

/* n normal values times `scale`: activations, and exactly the same values in float64. */
static inline void *h_normal_act(harness *h, int64_t n, double scale, double **reference) {
  void *x = h_take_act(h, n);
  *reference = h_take_f64(h, n);
  for (int64_t i = 0; i < n; i++) {
    h_set(h, x, i, scale * h_normal(h));
    (*reference)[i] = h_get(h, x, i);
  }
  return x;
}

static inline float *h_normal_f32(harness *h, int64_t n, double scale, double **reference) {
  float *x = h_take_f32(h, n);
  *reference = h_take_f64(h, n);
  for (int64_t i = 0; i < n; i++) (*reference)[i] = (double)(x[i] = (float)(scale * h_normal(h)));
  return x;
}

/* ---- comparisons ---- */

/* spread (NULL: nothing): what rounding numbers on the way to bfloat16 may do to each result. */
static inline void h_compare(const harness *h, const char *what, bool bf16, int64_t n, const void *got,
                             const double *want, double floor, const double *spread) {
  double largest = 0.0, error2 = 0.0, rounding2 = 0.0, spread2 = 0.0;
  for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
  for (int64_t i = 0; i < n; i++) {
    double value = bf16 ? (double)np_bf16_to_f32(((const np_bf16 *)got)[i]) : (double)((const float *)got)[i];
    double error = fabs(value - want[i]), bound = floor * largest + (bf16 ? 0x1p-8 * fabs(want[i]) : 0.0) + 1e-37;
    if (spread) bound += 4.0 * 0x1p-9 * spread[i];
    if (!(error <= bound))
      fail_msg("%s: %s[%lld] is %.9g, expected %.9g within %.3g", h->name, what, (long long)i, value, want[i], bound);
    double rounding = bf16 ? (double)np_bf16_to_f32(np_bf16_from_f32((float)want[i])) - want[i] : 0.0;
    error2 += error * error;
    rounding2 += rounding * rounding;
    if (spread) spread2 += 0x1p-18 * spread[i] * spread[i];
  }
  if (n > 0 && !(sqrt(error2 / (double)n) <=
                 2.0 * sqrt(rounding2 / (double)n) + sqrt(spread2 / (double)n) + floor * largest + 1e-37))
    fail_msg("%s: %s: r.m.s. error %.3g", h->name, what, sqrt(error2 / (double)n));
}

static inline void h_close_act(const harness *h, const char *what, int64_t n, const void *got, const double *want,
                               double floor) {
  h_compare(h, what, h->act == NP_BF16, n, got, want, floor, NULL);
}

/* The same for sums of products of which one factor was rounded to bfloat16 first, as tensor cores want it: spread is
 * the root of the sum of their squares. A rounding changes a product by up to 2^-9 of it, and roundings are
 * independent. */
static inline void h_close_products(const harness *h, const char *what, int64_t n, const void *got, const double *want,
                                    double floor, const double *spread) {
  h_compare(h, what, h->act == NP_BF16, n, got, want, floor, spread);
}

static inline void h_close_f32(const harness *h, const char *what, int64_t n, const float *got, const double *want,
                               double floor) {
  h_compare(h, what, false, n, got, want, floor, NULL);
}

static inline void h_near(const harness *h, const char *what, double got, double want, double tolerance) {
  if (!(fabs(got - want) <= tolerance))
    fail_msg("%s: %s is %.12g, expected %.12g within %.3g", h->name, what, got, want, tolerance);
}

/* Central difference of f(x, context) by x[i]. */
static inline double h_slope(double (*f)(const double *x, void *context), double *x, int64_t i, void *context) {
  const double step = 1e-5, keep = x[i];
  x[i] = keep + step;
  double up = f(x, context);
  x[i] = keep - step;
  double down = f(x, context);
  x[i] = keep;
  return (up - down) / (2.0 * step);
}

/* Run an operation and wait for it. */
#define H_OK(expr)                                                                                                     \
  do {                                                                                                                 \
    if ((expr) != NP_OK || h->ops->download(h->ops, NULL, NULL, 0) != NP_OK)                                           \
      fail_msg("%s: %s", h->name, np_error_message());                                                                 \
  } while (0)

/* Name the case at hand in messages. */
__attribute__((format(printf, 2, 3))) static inline void h_case(harness *h, const char *format, ...) {
  char text[80];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  snprintf(h->name, sizeof h->name, "%s %s", h->form, text);
}

/* ---- every form of the backend ---- */

static inline void h_run(harness *h, np_status opened, void (*test)(harness *h)) {
  h_case(h, "%s", "-");
  if (opened != NP_OK) {
    print_message("skipped %s: %s\n", h->name, np_error_message());
    return;
  }
  test(h);
  h_finish(h);
  h->ops->destroy(h->ops);
}

#ifdef NP_TEST_CUDA /* the CUDA backend: "gpu", or "simt" on the emulated GPU (tests/simt) */
static inline void h_each(void (*test)(harness *h)) {
  static const struct {
    const char *name;
    np_cuda_options options;
  } forms[] = {
      {"f32", {.act = NP_F32, .device = -1}},
      {"bf16 portable", {.act = NP_BF16, .device = -1, .attention = NP_ATTENTION_PORTABLE}},
      {"bf16", {.act = NP_BF16, .device = -1}}, /* Hopper's attention where it runs */
  };
  np_cuda_about about;
  if (np_cuda_look(-1, &about) != NP_OK) {
    print_message("skipped: %s\n", np_error_message());
    exit(77);
  }
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    harness h = {.act = forms[i].options.act, .random = H_SEED};
    snprintf(h.form, sizeof h.form, NP_TEST_CUDA " %s", forms[i].name);
    np_status st = np_ops_cuda(&forms[i].options, &h.ops);
    if (st != NP_OK) fail_msg("%s: %s", h.form, np_error_message());
    h_run(&h, st, test);
  }
}
#else
static inline void h_each(void (*test)(harness *h)) {
  static const char *const isas[] = {"generic", "avx2", "avx512"};
  static const np_dtype acts[] = {NP_F32, NP_BF16};
  print_message("seed %d\n", H_SEED);
  for (int i = 0; i < 3; i++)
    for (int a = 0; a < 2; a++) {
      setenv("NEXTPATCH_ISA", isas[i], 1);
      harness h = {.act = acts[a], .random = H_SEED};
      int threads = 1 + (i + a) % 3;
      snprintf(h.form, sizeof h.form, "%s %s %d threads", isas[i], a ? "bf16" : "f32", threads);
      h_run(&h, np_ops_cpu(acts[a], threads, &h.ops), test);
    }
  unsetenv("NEXTPATCH_ISA");
}
#endif

/* A CMocka test that runs `body` on every form. */
#define H_TEST(name, body)                                                                                             \
  static void name(void **state) {                                                                                     \
    (void)state;                                                                                                       \
    h_each(body);                                                                                                      \
  }

#endif
