/* The probe's pooling against float64, its gradient against finite differences, and how exact both are. */
#include "ops_harness.h"

/* ---- values and gradient ---- */

typedef struct pool {
  int batch, tokens, heads, width;
  const double *x, *dpooled;
  double *weight, *pooled;
} pool;

/* Σ pooled·dpooled as a function of u. */
static double pool_reference(const double *u, void *context) {
  const pool *p = context;
  double sum = 0.0;
  for (int b = 0; b < p->batch; b++)
    for (int i = 0; i < p->heads; i++) {
      double *w = p->weight + ((int64_t)b * p->heads + i) * p->tokens, total = 0.0, top = -INFINITY;
      double *o = p->pooled + ((int64_t)b * p->heads + i) * p->width;
      const double *d = p->dpooled + (o - p->pooled);
      for (int n = 0; n < p->tokens; n++) {
        const double *x = p->x + ((int64_t)b * p->tokens + n) * p->width;
        w[n] = 0.0;
        for (int j = 0; j < p->width; j++) w[n] += x[j] * u[i * p->width + j];
        top = fmax(top, w[n]);
      }
      for (int n = 0; n < p->tokens; n++) total += w[n] = exp(w[n] - top);
      for (int n = 0; n < p->tokens; n++) w[n] /= total;
      for (int j = 0; j < p->width; j++) {
        o[j] = 0.0;
        for (int n = 0; n < p->tokens; n++) o[j] += w[n] * p->x[((int64_t)b * p->tokens + n) * p->width + j];
        sum += o[j] * d[j];
      }
    }
  return sum;
}

/* odd: x begins a float behind what is aligned. */
static void pool_case(harness *h, int batch, int tokens, int heads, int width, int odd) {
  int64_t rows = (int64_t)batch * tokens, weights = rows * heads, pooleds = (int64_t)batch * heads * width;
  int us = heads * width;
  double *x64, *u64, *dpooled64, *du64 = h_take_f64(h, us);
  float *x = h_normal_f32(h, rows * width + odd, 1.0, &x64) + odd, *u = h_normal_f32(h, us, 1.0 / sqrt(width), &u64);
  float *dpooled = h_normal_f32(h, pooleds, 1.0, &dpooled64), *weight = h_take_f32(h, weights);
  float *pooled = h_take_f32(h, pooleds), *du = h_take_f32(h, us), *twice = h_take_f32(h, us);
  pool p = {batch, tokens, heads, width, x64 + odd, dpooled64, h_take_f64(h, weights), h_take_f64(h, pooleds)};
  h_case(h, "B%d N%d h%d D%d", batch, tokens, heads, width);
  for (int i = 0; i < us; i++) du64[i] = h_slope(pool_reference, u64, i, &p);
  pool_reference(u64, &p);
  H_OK(h->ops->pool_forward(h->ops, batch, tokens, heads, width, x, u, weight, pooled));
  h_close_f32(h, "weight", weights, weight, p.weight, 3e-6);
  h_close_f32(h, "pooled", pooleds, pooled, p.pooled, 3e-6);
  H_OK(h->ops->pool_backward(h->ops, batch, tokens, heads, width, x, weight, dpooled, du, false));
  H_OK(h->ops->pool_backward(h->ops, batch, tokens, heads, width, x, weight, dpooled, twice, false));
  h_close_f32(h, "du", us, du, du64, 1e-5);
  assert_memory_equal(du, twice, (size_t)us * sizeof *du);
  H_OK(h->ops->pool_backward(h->ops, batch, tokens, heads, width, x, weight, dpooled, twice, true));
  for (int i = 0; i < us; i++) assert_true(twice[i] == 2.0f * du[i]);
  h_finish(h);
}

static void pools(harness *h) {
  static const int shapes[][4] = {
      {1, 1, 1, 8},
      {3, 7, 2, 24},
      {2, 65, 3, 48},
      {5, 10, 5, 40},
      {2, 6, 16, 64},
      {3, 3, 8, 36},
      /* a GPU takes rows of whole 16 bytes and others differently, 64 or 256 columns at a time, */
      {2, 4, 17, 34},
      {1, 1, 2, 1},
      {2, 9, 3, 260},
      {2, 5, 12, 132},
      /* 32 heads, in eights, and 128 or 256 tokens */
      {1, 9, 24, 24},
      {1, 4, 33, 12},
      {1, 3, 72, 4},
      {3, 130, 2, 20},
      {1, 300, 3, 12},
  };
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
    pool_case(h, shapes[k][0], shapes[k][1], shapes[k][2], shapes[k][3], 0);
  pool_case(h, 2, 7, 3, 16, 1);
}

/* ---- how exact it is ----
 *
 * Sums of products are judged by the sum of their magnitudes: what a rounding of float32, 2^-24, of that makes is one
 * unit. A chain of float32 FMAs over n products is off by up to n units, and by a few where signs and sizes are mixed;
 * products of which the factors were rounded to tf32 or bfloat16 are off by hundreds. */

typedef enum pool_values { POOL_NORMAL, POOL_WIDE, POOL_CANCELLING, POOL_VALUES } pool_values;
typedef struct pool_errors {
  double weight, pooled, du;
} pool_errors;

static double units(double got, double want, double magnitude) {
  return got == want ? 0.0 : fabs(got - want) / (0x1p-24 * magnitude);
}
static void worst(double *of, double error) {
  if (!(error <= *of)) *of = error; /* NaN stays */
}

/* Units by which weights, pooled (of these very weights) and du (of these, too) are off. */
static pool_errors pool_off(harness *h, int tokens, int heads, int width, int batch, const float *x, const float *u,
                            const float *dpooled, const float *weight, const float *pooled, const float *du) {
  pool_errors e = {0.0, 0.0, 0.0};
  double *score = h_take_f64(h, tokens), *slope = h_take_f64(h, tokens), *steep = h_take_f64(h, tokens);
  double *want = h_take_f64(h, (int64_t)heads * width), *sum = h_take_f64(h, (int64_t)heads * width);
  for (int i = 0; i < heads * width; i++) want[i] = sum[i] = 0.0;
  for (int b = 0; b < batch; b++)
    for (int i = 0; i < heads; i++) {
      const float *image = x + (int64_t)b * tokens * width, *w = weight + ((int64_t)b * heads + i) * tokens;
      const float *query = u + (int64_t)i * width, *d = dpooled + ((int64_t)b * heads + i) * width;
      double top = -INFINITY, total = 0.0, most = 0.0, mean = 0.0, mean_steep = 0.0;
      for (int n = 0; n < tokens; n++) {
        double magnitude = 0.0;
        score[n] = slope[n] = steep[n] = 0.0;
        for (int j = 0; j < width; j++) {
          const double value = (double)image[(int64_t)n * width + j];
          score[n] += value * (double)query[j];
          magnitude += fabs(value * (double)query[j]);
          slope[n] += value * (double)d[j];
          steep[n] += fabs(value * (double)d[j]);
        }
        most = fmax(most, magnitude);
        top = fmax(top, score[n]);
        mean += (double)w[n] * slope[n];
        mean_steep += (double)w[n] * steep[n];
      }
      for (int n = 0; n < tokens; n++) total += exp(score[n] - top);
      for (int n = 0; n < tokens; n++) { /* the exponential takes its share: of a weight 2^-23 and of score - top */
        if (score[n] - top < -60.0) continue;
        const double exact = exp(score[n] - top) / total;
        worst(&e.weight, units((double)w[n], exact, exact * (most + 8.0 + top - score[n])));
      }
      for (int j = 0; j < width; j++) {
        double exact = 0.0, magnitude = 0.0;
        for (int n = 0; n < tokens; n++) {
          const double value = (double)image[(int64_t)n * width + j];
          exact += (double)w[n] * value;
          magnitude += fabs((double)w[n] * value);
          want[i * width + j] += (double)w[n] * (slope[n] - mean) * value;
          sum[i * width + j] += (double)w[n] * (steep[n] + mean_steep) * fabs(value);
        }
        worst(&e.pooled, units((double)pooled[((int64_t)b * heads + i) * width + j], exact, magnitude));
      }
    }
  for (int i = 0; i < heads * width; i++) worst(&e.du, units((double)du[i], want[i], sum[i]));
  return e;
}

/* The same operator as chains of float32 FMAs; softmax and its gradient in float64, of which the weights it is given
 * are kept. */
static void pool_chains(int tokens, int heads, int width, int batch, const float *x, const float *u,
                        const float *dpooled, double *score, float *weight, float *pooled, float *du) {
  for (int i = 0; i < heads * width; i++) du[i] = 0.0f;
  for (int b = 0; b < batch; b++)
    for (int i = 0; i < heads; i++) {
      const float *image = x + (int64_t)b * tokens * width, *query = u + (int64_t)i * width;
      const float *d = dpooled + ((int64_t)b * heads + i) * width;
      float *w = weight + ((int64_t)b * heads + i) * tokens, *out = pooled + ((int64_t)b * heads + i) * width;
      double top = -INFINITY, total = 0.0, mean = 0.0;
      for (int n = 0; n < tokens; n++) {
        float sum = 0.0f;
        for (int j = 0; j < width; j++) sum = fmaf(image[(int64_t)n * width + j], query[j], sum);
        score[n] = (double)sum;
        top = fmax(top, score[n]);
      }
      for (int n = 0; n < tokens; n++) total += exp(score[n] - top);
      for (int n = 0; n < tokens; n++) {
        float sum = 0.0f;
        w[n] = (float)(exp(score[n] - top) / total);
        for (int j = 0; j < width; j++) sum = fmaf(image[(int64_t)n * width + j], d[j], sum);
        score[n] = (double)sum;
        mean += (double)w[n] * score[n];
      }
      for (int j = 0; j < width; j++) {
        float gather = 0.0f, gradient = 0.0f;
        for (int n = 0; n < tokens; n++) {
          const float value = image[(int64_t)n * width + j];
          gather = fmaf(w[n], value, gather);
          gradient = fmaf((float)((double)w[n] * (score[n] - mean)), value, gradient);
        }
        out[j] = gather;
        du[i * width + j] += gradient;
      }
    }
}

/* At most twice what chains are off, and some units: short chains are exact, and tensor cores, to which a float32 is
 * two tf32, take their products to 2^-21. */
static void pool_within(const harness *h, const char *what, double is, double chain, double floor) {
  if (!(is <= 2.0 * chain + floor))
    fail_msg("%s: %s is off by %.1f units, chains of FMAs by %.1f", h->name, what, is, chain);
}

static void pool_exact_case(harness *h, int batch, int tokens, int heads, int width, pool_values values) {
  static const char *const names[] = {"normal", "wide", "cancelling"};
  const int64_t rows = (int64_t)batch * tokens, pooleds = (int64_t)batch * heads * width;
  double *ignored;
  float *x = h_normal_f32(h, rows * width, 1.0, &ignored), *u = h_normal_f32(h, (int64_t)heads * width, 1.0, &ignored);
  float *dpooled = h_normal_f32(h, pooleds, 1.0, &ignored), *weight = h_take_f32(h, rows * heads);
  float *pooled = h_take_f32(h, pooleds), *du = h_take_f32(h, (int64_t)heads * width);
  float *chain_weight = h_take_f32(h, rows * heads), *chain_pooled = h_take_f32(h, pooleds);
  float *chain_du = h_take_f32(h, (int64_t)heads * width);
  h_case(h, "B%d N%d h%d D%d, %s values", batch, tokens, heads, width, names[values]);
  for (int j = 0; j < width; j++) {
    /* wide: columns of 2^-30 to 2^30, queries the other way round, tokens of 2^-12 to 2^12, which gradients then have;
     * cancelling: neighbouring columns nearly the same, queries of opposite signs */
    const double scale = values == POOL_WIDE ? exp2(floor(61.0 * h_uniform(h)) - 30.0) : 1.0, even = 4.0 * h_normal(h);
    for (int64_t r = 0; r < rows; r++) {
      float *at = x + r * width + j;
      if (values == POOL_WIDE) *at *= (float)(scale * exp2((double)(r * 7 % 25) - 12.0));
      if (values == POOL_CANCELLING) *at = j % 2 ? at[-1] + 0.01f * *at : (float)(even + 8.0) + *at;
    }
    for (int i = 0; i < heads; i++) {
      float *at = u + i * width + j;
      *at = (float)((double)*at / scale * (values == POOL_WIDE ? 0x1p-12 : 1.0) * 4.0 / sqrt(width));
      if (values == POOL_CANCELLING) *at = j % 2 ? -at[-1] * (1.0f + 0.001f * *at) : 16.0f * *at;
      for (int b = 0; b < batch; b++) {
        float *slope = dpooled + ((int64_t)b * heads + i) * width + j;
        *slope = (float)((double)*slope / scale);
        if (values == POOL_CANCELLING && j % 2) *slope = -slope[-1];
      }
    }
  }
  H_OK(h->ops->pool_forward(h->ops, batch, tokens, heads, width, x, u, weight, pooled));
  H_OK(h->ops->pool_backward(h->ops, batch, tokens, heads, width, x, weight, dpooled, du, false));
  pool_chains(tokens, heads, width, batch, x, u, dpooled, h_take_f64(h, tokens), chain_weight, chain_pooled, chain_du);
  const pool_errors is = pool_off(h, tokens, heads, width, batch, x, u, dpooled, weight, pooled, du);
  const pool_errors chain =
      pool_off(h, tokens, heads, width, batch, x, u, dpooled, chain_weight, chain_pooled, chain_du);
  pool_within(h, "weight", is.weight, chain.weight, 2.0);
  pool_within(h, "pooled", is.pooled, chain.pooled, 8.0);
  pool_within(h, "du", is.du, chain.du, 2.0);
  h_finish(h);
}

static void pool_exact(harness *h) {
  for (pool_values values = 0; values < POOL_VALUES; values++) {
    pool_exact_case(h, 2, 40, 12, 512, values);
    pool_exact_case(h, 1, 300, 24, 64, values);
    pool_exact_case(h, 1, 17, 5, 2048, values);
    pool_exact_case(h, 3, 7, 40, 132, values);
  }
}

/* A NaN, also the one that rounding as an integer would take for a small number, spoils its image and no other. */
static void pool_spoilt(harness *h) {
  enum { BATCH = 3, TOKENS = 21, HEADS = 9, WIDTH = 68, IMAGE = TOKENS * WIDTH, POOLED = HEADS * WIDTH };
  static const uint32_t nans[] = {0x7fc00000u, 0x7fffffffu, 0xffffffffu, 0x7f800001u};
  double *ignored;
  float *x = h_normal_f32(h, BATCH * IMAGE, 1.0, &ignored), *u = h_normal_f32(h, POOLED, 0.1, &ignored);
  float *weight = h_take_f32(h, BATCH * HEADS * TOKENS), *pooled = h_take_f32(h, BATCH * POOLED);
  for (size_t k = 0; k < sizeof nans / sizeof *nans; k++) {
    h_case(h, "x with a NaN %08x", nans[k]);
    memcpy(x + IMAGE + 5 * WIDTH + 66, nans + k, sizeof *nans);
    H_OK(h->ops->pool_forward(h->ops, BATCH, TOKENS, HEADS, WIDTH, x, u, weight, pooled));
    for (int i = 0; i < BATCH * POOLED; i++) assert_int_equal(isnan(pooled[i]) != 0, i / POOLED == 1);
  }
}

H_TEST(test_pool, pools)
H_TEST(test_pool_exact, pool_exact)
H_TEST(test_pool_spoilt, pool_spoilt)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pool), cmocka_unit_test(test_pool_exact),
                                     cmocka_unit_test(test_pool_spoilt)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
