/* The Hopper form of attention on the emulated GPU against float64, with bounds that follow from its arithmetic: what
 * is rounded to bfloat16 on the way (probabilities, score gradients) may each be off by 2^-8 of itself, results besides
 * by 2^-8 of themselves, and float32 sums by a little. */
#include "kernels/device.cuh"
#include "kernels/kernels.h"

#include <cmath>
#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <vector>

extern "C" {
#include <cmocka.h>
}

static const np_gpu GPU = {nullptr, 0, 3, 9, 0, 227 * 1024, "emulated"};    /* few blocks: each takes several items */
static const np_gpu LITTLE = {nullptr, 0, 1, 9, 0, 227 * 1024, "emulated"}; /* one: it takes all, in another order */

typedef struct shape {
  int batch, tokens, heads, width;
  int prefix[5];
  bool prefixed;
  bool steep = false; /* all scores far below zero, so that exp(0 - lse) overflows where it must not be used */
} shape;

static bool sees(const shape *s, int b, int i, int j) { return !s->prefixed || j <= i || j < s->prefix[b]; }

/* ---- values ---- */

static uint64_t seed;
static double uniform() { /* splitmix64 */
  uint64_t z = seed += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}
static double normal() { return sqrt(-2.0 * log(1.0 - uniform())) * cos(6.283185307179586 * uniform()); }

/* Device memory with a guard zone on both sides. */
template <class T> struct buffer {
  enum { ZONE = 64 };
  std::vector<uint64_t> memory; /* 8-byte aligned; rows start at 16 */
  size_t count;
  T *at;
  buffer(size_t n, bool random) : memory((n * sizeof(T) + 2 * ZONE) / 8 + 4, 0xa5a5a5a5a5a5a5a5u), count(n) {
    uintptr_t start = reinterpret_cast<uintptr_t>(memory.data()) + ZONE;
    at = reinterpret_cast<T *>((start + 15) / 16 * 16);
    if (!random) memset(static_cast<void *>(at), 0xff, n * sizeof(T));
    for (size_t i = 0; random && i < n; i++) at[i] = np_bf16_from_f32(static_cast<float>(normal()));
  }
  void check(const char *what) const {
    const unsigned char *first = reinterpret_cast<const unsigned char *>(at);
    for (int i = 1; i <= ZONE / 2; i++)
      if (first[-i] != 0xa5 || first[count * sizeof(T) + static_cast<size_t>(i) - 1] != 0xa5)
        fail_msg("%s was written outside", what);
  }
};
typedef buffer<np_bf16> tensor;

/* A result of the reference: values, and how far a kernel may be from them. */
typedef struct expected {
  std::vector<double> value, off;
  explicit expected(size_t n) : value(n, 0.0), off(n, 0.0) {}
} expected;

static void near(const char *what, const shape *s, const np_bf16 *got, const expected &want) {
  double error2 = 0.0, bound2 = 0.0;
  for (size_t i = 0; i < want.value.size(); i++) {
    double value = static_cast<double>(np_bf16_to_f32(got[i])), error = fabs(value - want.value[i]);
    double bound = want.off[i] + 0x1p-8 * fabs(want.value[i]) + 1e-6;
    if (!(error <= bound))
      fail_msg("B%d N%d h%d d%d S%d: %s[%zu] is %.7g, expected %.7g within %.2g", s->batch, s->tokens, s->heads,
               s->width, s->prefixed ? s->prefix[0] : -1, what, i, value, want.value[i], bound);
    error2 += error * error;
    bound2 += bound * bound;
  }
  /* Roundings go either way, so that all in all much less than the bounds is left. */
  if (!(error2 <= 0.09 * bound2))
    fail_msg("N%d d%d: r.m.s. error of %s is %.2g of its bound", s->tokens, s->width, what, sqrt(error2 / bound2));
}

/* Queries about 4, keys about -4. */
static void make_steep(const shape *s, np_bf16 *qkv) {
  size_t half = static_cast<size_t>(s->heads * s->width);
  for (size_t n = 0; n < static_cast<size_t>(s->batch * s->tokens); n++)
    for (size_t i = 0; i < 2 * half; i++) {
      np_bf16 *value = qkv + 3 * half * n + i;
      *value = np_bf16_from_f32((i < half ? 4.0f : -4.0f) + 0.25f * np_bf16_to_f32(*value));
    }
}

/* ---- the reference ---- */

static size_t token(const shape *s, int b, int n, int which, int head) {
  return static_cast<size_t>((((b * s->tokens + n) * 3 + which) * s->heads + head) * s->width);
}
static size_t row(const shape *s, int b, int n, int head) {
  return static_cast<size_t>(((b * s->tokens + n) * s->heads + head) * s->width);
}
static double dot(const np_bf16 *a, const np_bf16 *b, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; i++)
    sum += static_cast<double>(np_bf16_to_f32(a[i])) * static_cast<double>(np_bf16_to_f32(b[i]));
  return sum;
}

static double probabilities(const shape *s, const np_bf16 *qkv, int b, int head, int i, double *p) {
  double top = -INFINITY, sum = 0.0;
  for (int j = 0; j < s->tokens; j++) {
    p[j] = -INFINITY;
    if (!sees(s, b, i, j)) continue;
    p[j] = dot(qkv + token(s, b, i, 0, head), qkv + token(s, b, j, 1, head), s->width) / sqrt(s->width);
    top = fmax(top, p[j]);
  }
  for (int j = 0; j < s->tokens; j++) sum += p[j] = exp(p[j] - top);
  for (int j = 0; j < s->tokens; j++) p[j] /= sum;
  return top + log(sum);
}

/* to += factor · from, where the factor was rounded to bfloat16 and is besides off by `loose`. */
static void add(const shape *s, expected *to, size_t at, double factor, double loose, const np_bf16 *from) {
  for (int c = 0; c < s->width; c++) {
    double value = static_cast<double>(np_bf16_to_f32(from[c]));
    to->value[at + static_cast<size_t>(c)] += factor * value;
    to->off[at + static_cast<size_t>(c)] += (fabs(factor) * 0x1.1p-8 + loose) * fabs(value);
  }
}

static void reference_forward(const shape *s, const np_bf16 *qkv, expected *out, std::vector<double> *lse) {
  std::vector<double> p(static_cast<size_t>(s->tokens));
  for (int b = 0; b < s->batch; b++)
    for (int head = 0; head < s->heads; head++)
      for (int i = 0; i < s->tokens; i++) {
        (*lse)[static_cast<size_t>((b * s->heads + head) * s->tokens + i)] =
            probabilities(s, qkv, b, head, i, p.data());
        for (int j = 0; j < s->tokens; j++)
          if (p[static_cast<size_t>(j)] > 0.0)
            add(s, out, row(s, b, i, head), p[static_cast<size_t>(j)], 0.0, qkv + token(s, b, j, 2, head));
      }
}

/* As in the operator, Σ p·dp is taken as Σ dout·out from the stored out. */
static void reference_backward(const shape *s, const np_bf16 *qkv, const np_bf16 *out, const np_bf16 *dout,
                               expected *dqkv) {
  std::vector<double> p(static_cast<size_t>(s->tokens));
  for (int b = 0; b < s->batch; b++)
    for (int head = 0; head < s->heads; head++)
      for (int i = 0; i < s->tokens; i++) {
        const np_bf16 *d = dout + row(s, b, i, head);
        double mean = dot(d, out + row(s, b, i, head), s->width);
        probabilities(s, qkv, b, head, i, p.data());
        for (int j = 0; j < s->tokens; j++) {
          double pj = p[static_cast<size_t>(j)];
          if (!(pj > 0.0)) continue;
          size_t q = token(s, b, i, 0, head), k = token(s, b, j, 1, head), v = token(s, b, j, 2, head);
          double dp = dot(d, qkv + v, s->width), ds = pj * (dp - mean) / sqrt(s->width);
          double loose = 1e-5 * pj * (fabs(dp) + fabs(mean) + 1.0) / sqrt(s->width);
          add(s, dqkv, q, ds, loose, qkv + k);
          add(s, dqkv, k, ds, loose, qkv + q);
          add(s, dqkv, v, pj, 1e-5 * pj, d);
        }
      }
}

/* ---- cases ---- */

static const shape ODD[] = {{5, 7, 2, 64, {0, 1, 3, 6, 7}, true}, {3, 1, 3, 64, {1, 0, 1}, true},
                            {1, 256, 2, 64, {130}, true},         {1, 256, 2, 32, {130}, true},
                            {2, 130, 1, 128, {0}, false},         {2, 130, 1, 32, {0}, false},
                            {2, 70, 1, 64, {0, 70}, true, true},  {2, 70, 1, 96, {0, 70}, true, true}};

/* Those, and every token count × head width that the kernels are promised for. Of the large ones three images are
 * enough here: unit/ops_attention_shapes.c has all five through the operator. */
static std::vector<shape> all_shapes() {
  std::vector<shape> all(std::begin(ODD), std::end(ODD));
  for (int n : {1, 7, 64, 65, 196, 256, 300})
    for (int width : {32, 64, 96, 128})
      all.push_back(n < 100 ? shape{5, n, 1, width, {n * 2 / 5, 0, 1, n - 1, n}, true}
                            : shape{3, n, 1, width, {1, n * 2 / 5, n - 1}, true});
  return all;
}

static void test_forward(void **) {
  for (const shape &s : all_shapes()) {
    seed = 20240108;
    size_t outs = static_cast<size_t>(s.batch * s.tokens * s.heads * s.width),
           rows = outs / static_cast<size_t>(s.width);
    tensor qkv(3 * outs, true), out(outs, false), again(outs, false);
    buffer<float> lse(rows, false);
    if (s.steep) make_steep(&s, qkv.at);
    expected want(outs);
    std::vector<double> want_lse(rows);
    reference_forward(&s, qkv.at, &want, &want_lse);
    np_kernel_attention a = {};
    a.batch = s.batch;
    a.tokens = s.tokens;
    a.heads = s.heads;
    a.head_width = s.width;
    a.act = NP_BF16;
    a.prefix = s.prefixed ? s.prefix : nullptr;
    a.qkv = qkv.at;
    a.out = out.at;
    a.lse = lse.at;
    if (np_kernel_attention_hopper_forward(&GPU, &a) != NP_OK) fail_msg("N%d: %s", s.tokens, np_error_message());
    near("out", &s, out.at, want);
    for (size_t i = 0; i < rows; i++)
      if (!(fabs(static_cast<double>(lse.at[i]) - want_lse[i]) <= 2e-6 * (1.0 + fabs(want_lse[i]))))
        fail_msg("N%d S%d: lse[%zu] is %.8g, expected %.8g", s.tokens, s.prefix[0], i, static_cast<double>(lse.at[i]),
                 want_lse[i]);
    a.out = again.at;
    a.lse = nullptr;
    assert_int_equal(np_kernel_attention_hopper_forward(&LITTLE, &a), NP_OK);
    assert_memory_equal(out.at, again.at, outs * sizeof(np_bf16));
    out.check("out");
    lse.check("lse");
    again.check("out");
  }
}

static void test_backward(void **) {
  for (const shape &s : all_shapes()) {
    seed = 20240108;
    size_t outs = static_cast<size_t>(s.batch * s.tokens * s.heads * s.width),
           rows = outs / static_cast<size_t>(s.width);
    tensor qkv(3 * outs, true), dout(outs, true), out(outs, false), dqkv(3 * outs, false), again(3 * outs, false);
    size_t bytes = np_kernel_attention_hopper_backward_scratch(&GPU, s.batch, s.tokens, s.heads, s.width);
    buffer<float> lse(rows, false), scratch(bytes / sizeof(float), false);
    if (s.steep) make_steep(&s, qkv.at);
    expected want(outs), want_dqkv(3 * outs);
    std::vector<double> want_lse(rows);
    reference_forward(&s, qkv.at, &want, &want_lse);
    for (size_t i = 0; i < outs; i++) out.at[i] = np_bf16_from_f32(static_cast<float>(want.value[i]));
    for (size_t i = 0; i < rows; i++) lse.at[i] = static_cast<float>(want_lse[i]);
    reference_backward(&s, qkv.at, out.at, dout.at, &want_dqkv);
    np_kernel_attention a = {};
    a.batch = s.batch;
    a.tokens = s.tokens;
    a.heads = s.heads;
    a.head_width = s.width;
    a.act = NP_BF16;
    a.prefix = s.prefixed ? s.prefix : nullptr;
    a.qkv = qkv.at;
    a.out = out.at;
    a.lse = lse.at;
    a.dout = dout.at;
    a.dqkv = dqkv.at;
    a.scratch = scratch.at;
    if (np_kernel_attention_hopper_backward(&GPU, &a) != NP_OK)
      fail_msg("N%d d%d: %s", s.tokens, s.width, np_error_message());
    near("dqkv", &s, dqkv.at, want_dqkv);
    a.dqkv = again.at;
    assert_int_equal(np_kernel_attention_hopper_backward(&GPU, &a), NP_OK);
    assert_memory_equal(dqkv.at, again.at, 3 * outs * sizeof(np_bf16));
    dqkv.check("dqkv");
    scratch.check("scratch");
  }
}

/* ---- hidden tiles ---- */

/* N 200, S 70, tiles of 64 queries and keys: queries 0-63 see keys 0-69, queries 64-127 keys 0-127. What is not a
 * number in key 130, or in query 60, changes no bit where the tile is hidden. */
static void test_hidden(void **) {
  const shape s = {1, 200, 1, 128, {70}, true};
  const size_t width = 128, outs = 200 * width;
  const np_bf16 nan = 0x7fc0;
  tensor qkv(3 * outs, true), dout(outs, true), out(outs, false), dqkv(3 * outs, false);
  tensor out_hurt(outs, false), dqkv_hurt(3 * outs, false);
  buffer<float> lse(200, false);
  size_t bytes = np_kernel_attention_hopper_backward_scratch(&GPU, 1, 200, 1, 128);
  buffer<float> scratch(bytes / sizeof(float), false);
  np_kernel_attention a = {};
  a.batch = a.heads = 1;
  a.tokens = 200;
  a.head_width = 128;
  a.act = NP_BF16;
  a.prefix = s.prefix;
  a.qkv = qkv.at;
  a.out = out.at;
  a.lse = lse.at;
  a.dout = dout.at;
  a.dqkv = dqkv.at;
  a.scratch = scratch.at;
  assert_int_equal(np_kernel_attention_hopper_forward(&GPU, &a), NP_OK);
  assert_int_equal(np_kernel_attention_hopper_backward(&GPU, &a), NP_OK);

  np_bf16 *key = qkv.at + token(&s, 0, 130, 1, 0), keep[256];
  memcpy(keep, key, sizeof keep); /* key and value are neighbours */
  for (size_t c = 0; c < 2 * width; c++) key[c] = nan;
  a.out = out_hurt.at;
  a.lse = nullptr;
  assert_int_equal(np_kernel_attention_hopper_forward(&GPU, &a), NP_OK);
  assert_memory_equal(out.at, out_hurt.at, 128 * width * sizeof(np_bf16));
  assert_true(std::isnan(np_bf16_to_f32(out_hurt.at[130 * width])));
  memcpy(key, keep, sizeof keep);

  for (size_t c = 0; c < width; c++) qkv.at[token(&s, 0, 60, 0, 0) + c] = dout.at[60 * width + c] = nan;
  a.out = out.at;
  a.lse = lse.at;
  a.dqkv = dqkv_hurt.at;
  assert_int_equal(np_kernel_attention_hopper_backward(&GPU, &a), NP_OK);
  size_t second = token(&s, 0, 64, 0, 0), third = token(&s, 0, 128, 0, 0);
  for (size_t i = second; i < 3 * outs;
       i++) /* later queries, and keys from 128 on, which query 60's tile does not see */
    if (i >= third || i % (3 * width) < width) assert_int_equal(dqkv.at[i], dqkv_hurt.at[i]);
  assert_true(std::isnan(np_bf16_to_f32(dqkv_hurt.at[token(&s, 0, 60, 0, 0)])));
  assert_true(std::isnan(np_bf16_to_f32(dqkv_hurt.at[token(&s, 0, 0, 2, 0)])));
}

static void test_takes(void **) {
  np_gpu other = GPU;
  assert_true(np_kernel_attention_hopper_takes(&GPU, 256, 128));
  assert_true(np_kernel_attention_hopper_takes(&GPU, 1, 64));
  assert_true(np_kernel_attention_hopper_takes(&GPU, 1, 32) && np_kernel_attention_hopper_takes(&GPU, 1, 96));
  assert_false(np_kernel_attention_hopper_takes(&GPU, 1, 80) || np_kernel_attention_hopper_takes(&GPU, 1, 160));
  other.major = 8;
  assert_false(np_kernel_attention_hopper_takes(&other, 256, 128));
  other.major = 10;
  assert_false(np_kernel_attention_hopper_takes(&other, 256, 128));
}

int main() {
  const CMUnitTest tests[] = {cmocka_unit_test(test_takes), cmocka_unit_test(test_forward),
                              cmocka_unit_test(test_backward), cmocka_unit_test(test_hidden)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
