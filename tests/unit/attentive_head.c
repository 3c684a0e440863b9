/* The folded attentive head against the head as published, written out naively in float64 with full keys and values:
 * logits, loss, and every gradient by central differences of that reference. */
#include "model/attentive_head.h"
#include "util/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { B = 4, N = 7, D = 24, H = 3, WIDE = D / H, CLASSES = 5, GRID = 2 };

typedef struct fixture {
  np_ops *ops;
  np_heads *heads;
  const np_params *table;
  float *host[GRID]; /* each [total] */
  float *x, *device; /* [B, N, D] before normalisation; the same on the device */
  int32_t labels[B];
} fixture;

/* BatchNorm of `count` images in float64: y [count, N, D], mean and biased variance [D]. */
static void reference_norm(const float *x, int count, double *y, double *mean, double *variance) {
  const int rows = count * N;
  for (int j = 0; j < D; j++) {
    mean[j] = variance[j] = 0;
    for (int r = 0; r < rows; r++) mean[j] += (double)x[r * D + j] / rows;
    for (int r = 0; r < rows; r++) variance[j] += pow((double)x[r * D + j] - mean[j], 2) / rows;
    for (int r = 0; r < rows; r++) y[r * D + j] = ((double)x[r * D + j] - mean[j]) / sqrt(variance[j] + 1e-6);
  }
}

/* out[n, :] = W x[n, :] for all tokens of one image: the product the folded form never makes. */
static void project(const double *w, const double *x, double *out) {
  for (int n = 0; n < N; n++)
    for (int i = 0; i < D; i++) {
      out[n * D + i] = 0;
      for (int j = 0; j < D; j++) out[n * D + i] += w[i * D + j] * x[n * D + j];
    }
}

/* Mean cross-entropy; logits [count, CLASSES] when not NULL. */
static double reference_loss(const np_params *table, const double *w, const double *y, int count, const int32_t *labels,
                             double *logits) {
  const double *query = w + np_params_find(table, "head.cls_token")->offset,
               *key = w + np_params_find(table, "head.k.weight")->offset;
  const double *value = w + np_params_find(table, "head.v.weight")->offset;
  const double *linear = w + np_params_find(table, "head.linear.weight")->offset;
  double loss = 0, k[N * D], v[N * D], out[D], scores[N], row[CLASSES];
  for (int b = 0; b < count; b++) {
    project(key, y + b * N * D, k);
    project(value, y + b * N * D, v);
    for (int i = 0; i < H; i++) {
      double sum = 0;
      for (int n = 0; n < N; n++) {
        scores[n] = 0;
        for (int j = i * WIDE; j < (i + 1) * WIDE; j++) scores[n] += query[j] * k[n * D + j] / sqrt(WIDE);
        sum += scores[n] = exp(scores[n]);
      }
      for (int j = i * WIDE; j < (i + 1) * WIDE; j++) {
        out[j] = 0;
        for (int n = 0; n < N; n++) out[j] += scores[n] / sum * v[n * D + j];
      }
    }
    double sum = 0;
    for (int c = 0; c < CLASSES; c++) {
      row[c] = 0;
      for (int j = 0; j < D; j++) row[c] += linear[c * D + j] * out[j];
      sum += exp(row[c]);
    }
    if (logits) memcpy(logits + b * CLASSES, row, sizeof row);
    loss += (log(sum) - row[labels[b]]) / count;
  }
  return loss;
}

static int setup(void **state) {
  fixture *f = calloc(1, sizeof *f);
  const np_heads_shape shape = {.width = D, .heads = H, .classes = CLASSES, .tokens = N, .batch = B, .count = GRID};
  void *device;
  assert_int_equal(np_ops_cpu(NP_F32, 2, &f->ops), NP_OK);
  assert_int_equal(np_heads_create(f->ops, &shape, true, &f->heads), NP_OK);
  f->table = np_heads_params(f->heads);
  assert_int_equal(f->ops->alloc(f->ops, B * N * D * sizeof(float), &device), NP_OK);
  f->device = device;
  f->x = malloc(B * N * D * sizeof *f->x);
  np_rng rng = np_rng_make(5, NP_PURPOSE_PROBE, 0, 99);
  for (int i = 0; i < B * N * D; i++) f->x[i] = (float)(np_rng_normal(&rng) * (1 + i % D) / D + i % 3);
  for (int b = 0; b < B; b++) f->labels[b] = b % CLASSES;
  for (int g = 0; g < GRID; g++) {
    f->host[g] = malloc((size_t)f->table->total * sizeof(float));
    np_heads_init(f->table, 7 + (uint64_t)g, f->host[g]);
    /* A query large enough that attention is far from uniform: else half of the gradients are nearly zero. */
    for (int j = 0; j < D; j++) f->host[g][np_params_find(f->table, "head.cls_token")->offset + j] *= 100;
    assert_int_equal(np_heads_set(f->heads, g, f->host[g]), NP_OK);
  }
  *state = f;
  return 0;
}

static int teardown(void **state) {
  fixture *f = *state;
  f->ops->release(f->ops, f->device);
  np_heads_destroy(f->heads);
  f->ops->destroy(f->ops);
  for (int g = 0; g < GRID; g++) free(f->host[g]);
  free(f->x);
  free(f);
  return 0;
}

static void normalise(fixture *f, int count, bool train) {
  assert_int_equal(f->ops->upload(f->ops, f->device, f->x, (size_t)count * N * D * sizeof(float)), NP_OK);
  double *moments;
  int64_t size;
  if (train) assert_int_equal(np_heads_moments(f->heads, count, f->device, &moments, &size), NP_OK);
  assert_int_equal(np_heads_normalise(f->heads, count, train ? count : 0, f->device), NP_OK);
}

static double *widen(const float *from, int64_t count) {
  double *to = malloc((size_t)count * sizeof *to);
  for (int64_t i = 0; i < count; i++) to[i] = from[i];
  return to;
}

static void logits_agree(void **state) {
  fixture *f = *state;
  double y[B * N * D], mean[D], variance[D], expect[B * CLASSES];
  float logits[B * CLASSES];
  const int counts[] = {B, 1, 3, B}; /* a short batch after a full one, and back */
  for (int t = 0; t < 4; t++)
    for (int g = 0; g < GRID; g++) {
      double *w = widen(f->host[g], f->table->total);
      reference_norm(f->x, counts[t], y, mean, variance);
      normalise(f, counts[t], true);
      reference_loss(f->table, w, y, counts[t], f->labels, expect);
      assert_int_equal(np_heads_forward(f->heads, g, counts[t], f->device, logits), NP_OK);
      for (int i = 0; i < counts[t] * CLASSES; i++)
        if (!(fabs(logits[i] - expect[i]) <= 2e-5)) fail_msg("logit %d: %g, expected %g", i, logits[i], expect[i]);
      free(w);
    }
}

/* Every gradient against (loss(w + e) - loss(w - e)) / 2e of the naive head. */
static void gradients_agree(void **state) {
  fixture *f = *state;
  const np_params *learnt = np_heads_learnt(f->heads);
  double y[B * N * D], mean[D], variance[D], loss;
  float *gradients = malloc((size_t)learnt->total * sizeof *gradients);
  reference_norm(f->x, B, y, mean, variance);
  for (int g = 0; g < GRID; g++) {
    double *w = widen(f->host[g], f->table->total);
    normalise(f, B, true);
    assert_int_equal(np_heads_forward(f->heads, g, B, f->device, NULL), NP_OK);
    assert_int_equal(np_heads_backward(f->heads, g, B, B, f->device, f->labels, &loss), NP_OK);
    assert_true(fabs(loss - reference_loss(f->table, w, y, B, f->labels, NULL)) <= 1e-5);
    assert_int_equal(
        f->ops->download(f->ops, gradients, np_heads_gradients(f->heads), (size_t)learnt->total * sizeof(float)),
        NP_OK);
    assert_int_equal(learnt->count, 4);
    for (int p = 0; p < learnt->count; p++) {
      const np_param *param = &learnt->items[p];
      double error = 0, norm = 0;
      for (int64_t i = param->offset; i < param->offset + param->count; i++) {
        const double kept = w[i], step = 1e-5;
        w[i] = kept + step;
        const double above = reference_loss(f->table, w, y, B, f->labels, NULL);
        w[i] = kept - step;
        const double slope = (above - reference_loss(f->table, w, y, B, f->labels, NULL)) / (2 * step);
        w[i] = kept;
        error += pow(gradients[i] - slope, 2);
        norm += slope * slope;
      }
      assert_true(norm > 1e-6);
      if (!(sqrt(error) <= 2e-5 * sqrt(norm)))
        fail_msg("gradient of %s: error %g of norm %g", param->name, sqrt(error), sqrt(norm));
    }
    free(w);
  }
  free(gradients);
}

/* Training moves the running statistics by momentum 0.1 with the unbiased variance; evaluation uses and leaves them. */
static void batch_norm_modes(void **state) {
  fixture *f = *state;
  double y[B * N * D], mean[D], variance[D], rows = B * N;
  float got[B * N * D], *host = malloc((size_t)f->table->total * sizeof *host);
  reference_norm(f->x, B, y, mean, variance);
  assert_int_equal(np_heads_set(f->heads, 1, f->host[1]), NP_OK); /* running statistics back to 0 and 1 */
  normalise(f, B, true);
  assert_int_equal(f->ops->download(f->ops, got, f->device, sizeof got), NP_OK);
  for (int i = 0; i < B * N * D; i++) assert_true(fabs(got[i] - y[i]) <= 1e-5);
  for (int g = 0; g < GRID; g++) {
    assert_int_equal(np_heads_get(f->heads, g, host), NP_OK);
    const float *running = host + np_params_find(f->table, "head.bn.running_mean")->offset;
    const float *running_var = host + np_params_find(f->table, "head.bn.running_var")->offset;
    for (int j = 0; j < D; j++) {
      assert_true(fabs(running[j] - 0.1 * mean[j]) <= 1e-6);
      assert_true(fabs(running_var[j] - (0.9 + 0.1 * variance[j] * rows / (rows - 1))) <= 1e-6);
    }
    assert_memory_equal(host, f->host[g], (size_t)np_heads_learnt(f->heads)->total * sizeof(float));
  }
  normalise(f, 2, false);
  assert_int_equal(f->ops->download(f->ops, got, f->device, 2 * N * D * sizeof(float)), NP_OK);
  for (int i = 0; i < 2 * N * D; i++) {
    const int j = i % D;
    const double expect = (f->x[i] - 0.1 * mean[j]) / sqrt(0.9 + 0.1 * variance[j] * rows / (rows - 1) + 1e-6);
    assert_true(fabs(got[i] - expect) <= 1e-5);
  }
  free(host);
}

static void init_is_a_function_of_the_seed(void **state) {
  fixture *f = *state;
  const size_t bytes = (size_t)f->table->total * sizeof(float);
  float *a = malloc(bytes), *b = malloc(bytes);
  np_heads_init(f->table, 3, a);
  np_heads_init(f->table, 3, b);
  assert_memory_equal(a, b, bytes);
  np_heads_init(f->table, 4, b);
  assert_memory_not_equal(a, b, bytes);
  const np_param *key = np_params_find(f->table, "head.k.weight");
  float most = 0;
  for (int64_t i = 0; i < key->count; i++) most = fmaxf(most, fabsf(a[key->offset + i]));
  assert_true(most <= 1 / sqrtf(D) && most >= 0.9f / sqrtf(D));
  free(a);
  free(b);
}

static void refusals(void **state) {
  fixture *f = *state;
  np_heads *heads;
  double loss;
  const int32_t wrong[B] = {0, 1, CLASSES, 2};
  assert_int_equal(np_heads_backward(f->heads, 0, B, B, f->device, wrong, &loss), NP_ERR_ARGUMENT);
  assert_non_null(strstr(np_error_message(), "label 5"));
  const np_heads_shape shape = {.width = D, .heads = 5, .classes = CLASSES, .tokens = N, .batch = B, .count = 1};
  assert_int_equal(np_heads_create(f->ops, &shape, true, &heads), NP_ERR_ARGUMENT);
  assert_null(heads);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(logits_agree, setup, teardown),
      cmocka_unit_test_setup_teardown(gradients_agree, setup, teardown),
      cmocka_unit_test_setup_teardown(batch_norm_modes, setup, teardown),
      cmocka_unit_test_setup_teardown(init_is_a_function_of_the_seed, setup, teardown),
      cmocka_unit_test_setup_teardown(refusals, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
