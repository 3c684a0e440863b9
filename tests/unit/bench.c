/* What benches compute from what they time. */
#include "bench/attention.h"
#include "bench/ops.h"
#include "bench/peak.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void ok(np_status st) {
  if (st != NP_OK) fail_msg("%s", np_error_message());
}

static void times(void **state) {
  (void)state;
  double odd[] = {5, 1, 3}, one[] = {7}, many[200];
  for (int i = 0; i < 200; i++) many[i] = 200 - i;
  np_timing t = np_timing_of(odd, 3);
  assert_true(t.median == 3 && t.p99 == 5 && t.least == 1 && t.runs == 3);
  t = np_timing_of(one, 1);
  assert_true(t.median == 7 && t.p99 == 7 && t.least == 7);
  t = np_timing_of(many, 200);
  assert_true(t.least == 1 && t.p99 == 198 && fabs(t.median - 100.5) < 1);
}

static void rotation(void **state) {
  (void)state;
  assert_int_equal(np_bench_sets(0, 1e6), 2); /* never the buffers of the run before */
  assert_int_equal(np_bench_sets(10e6, 3e6), 4);
  assert_int_equal(np_bench_sets(1e12, 1), 64);
}

static void nominal_peaks(void **state) {
  (void)state;
  assert_true(np_nominal_peak("NVIDIA H200") == 989.4e12);
  assert_true(np_nominal_peak("NVIDIA H100 80GB HBM3") == 989.4e12);
  assert_true(np_nominal_peak("NVIDIA A100-SXM4-80GB") == 312e12);
  assert_true(np_nominal_peak("NVIDIA H200 NVL") == 0); /* other clocks: not claimed */
  assert_true(np_nominal_peak("NVIDIA H100 PCIe") == 0);
  assert_true(np_nominal_peak("AMD EPYC") == 0);
}

typedef struct seen {
  int rows;
  np_attention_row row[NP_MASKS * 2];
} seen;

static void keep(const np_attention_row *row, void *context) {
  seen *s = context;
  assert_true(s->rows < NP_MASKS * 2);
  s->row[s->rows++] = *row;
}

/* FLOPs over allowed pairs, bytes once, the full mask as its own baseline. */
static void attention(void **state) {
  (void)state;
  enum { B = 3, N = 9, H = 2, D = 8 };
  np_attention_bench bench = {
      .versions = 1, .tokens = {N}, .tokens_count = 1, .head_width = {D}, .head_width_count = 1};
  bench.width = H * D, bench.images = B, bench.runs = 2, bench.rounds = 2;
  seen s = {0};
  ok(np_ops_cpu(NP_F32, 1, &bench.version[0].ops));
  ok(np_bench_attention(&bench, keep, &s));
  assert_int_equal(s.rows, NP_MASKS * 2);
  for (int i = 0; i < s.rows; i++) {
    const np_attention_row *row = &s.row[i];
    bool backward = !strcmp(row->pass, "backward");
    double causal = (double)B * H * N * (N + 1) / 2, full = (double)B * H * N * N;
    if (!strcmp(row->mask, "causal")) assert_true(row->pairs == causal);
    else if (!strcmp(row->mask, "full")) assert_true(row->pairs == full && row->ratio == 1);
    else assert_true(row->pairs >= causal && row->pairs < full);
    assert_true(row->flops == (backward ? 10 : 4) * row->pairs * D);
    assert_true(row->bytes == (backward ? 8 : 4) * B * N * H * D * 4.0 + B * N * H * 4.0);
    assert_int_equal(row->time.runs, 4);
    assert_string_equal(row->version, "cpu");
    assert_string_equal(row->baseline, "cpu");
    assert_false(row->refused);
  }
  bench.version[0].ops->destroy(bench.version[0].ops);
}

typedef struct traffic {
  int rows;
  double copy, gelu_backward, gather, adamw, table, axpy, batch_norm, pool;
} traffic;

static void count(const np_ops_row *row, void *context) {
  traffic *t = context;
  t->rows++;
  assert_true(row->time.median > 0 && row->share > 0);
  if (!strcmp(row->name, "copy")) t->copy = row->bytes;
  if (!strcmp(row->name, "gelu_backward")) t->gelu_backward = row->bytes;
  if (!strcmp(row->name, "gather_rows")) t->gather = row->bytes;
  if (!strcmp(row->name, "add_table")) t->table = row->bytes;
  if (!strcmp(row->name, "axpy")) t->axpy = row->bytes;
  if (!strcmp(row->name, "adamw")) t->adamw = row->bytes;
  if (!strcmp(row->name, "batch_norm")) t->batch_norm = row->bytes;
  if (!strcmp(row->name, "pool_forward")) t->pool = row->bytes;
}

/* Bytes are those of the arrays the operators are given, whichever way they are padded. */
static void ops(void **state) {
  (void)state;
  enum { B = 2, N = 5, D = 24, PARAMETERS = 1001 };
  const np_recipe_model model = {.image_size = {4, 20},
                                 .channels = 3,
                                 .patch_size = 4,
                                 .width = D,
                                 .heads = 1,
                                 .mlp_ratio = 4,
                                 .pixel_mean = {0.5, 0.5, 0.5},
                                 .pixel_std = {0.25, 0.25, 0.25}};
  np_ops_bench bench = {
      .model = &model, .images = B, .parameters = PARAMETERS, .warmup = 1, .runs = 3, .rotation = 1e6};
  traffic t = {0};
  ok(np_ops_cpu(NP_F32, 1, &bench.ops));
  ok(np_ops_cpu(NP_F32, 1, &bench.copy));
  ok(np_bench_ops(&bench, count, &t));
  assert_int_equal(t.rows, 18);
  assert_true(t.copy == 2.0 * B * N * D * 4);
  assert_true(t.gelu_backward == 3.0 * B * N * 4 * D * 4);
  assert_true(t.gather == 2.0 * B * (N - N / 2) * D * 4);  /* the rows gathered, read and written */
  assert_true(t.table == 2.0 * B * N * D * 4 + N * D * 4); /* the table read; rows read and written */
  assert_true(t.axpy == 3.0 * PARAMETERS * 4);             /* x read; y read and written */
  assert_true(t.adamw == 7.0 * PARAMETERS * 4);            /* g read; w, m, v read and written; no low-precision copy */
  assert_true(t.batch_norm == 3.0 * B * N * D * 4 + 2 * 2 * D * 8); /* x read for its statistics and again, y written */
  assert_true(t.pool == (2.0 * B * N * D + D + B * N + B * D) * 4); /* x read twice, a query; weights, results */
  bench.copy->destroy(bench.copy);
  bench.ops->destroy(bench.ops);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(times),     cmocka_unit_test(rotation), cmocka_unit_test(nominal_peaks),
      cmocka_unit_test(attention), cmocka_unit_test(ops),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
