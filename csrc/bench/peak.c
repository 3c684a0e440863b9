#include "bench/peak.h"

#include "bench/fill.h"
#include "bench/timing.h"

#include <string.h>

/* A product and its three matrices. */
typedef struct product {
  np_ops *ops;
  np_matmul shape;
  unsigned char *a, *b, *c;
} product;

static np_status multiply(void *context, int turn) {
  const product *p = context;
  (void)turn;
  return p->ops->matmul(p->ops, &p->shape, p->a, p->b, NULL, p->c);
}

np_status np_measured_peak(np_ops *ops, double *out) {
  enum { WARMUP = 2, RUNS = 8 };
  np_status st = NP_OK;
  double seconds[RUNS];
  void *memory = NULL;
  int64_t side = strcmp(ops->name, "cpu") ? 8192 : 2048;
  size_t matrix = (size_t)(side * side) * np_dtype_size(ops->act);
  NP_TRY(ops->alloc(ops, 3 * matrix, &memory));
  NP_TRY(np_bench_fill(ops, 0, 2 * matrix, memory));
  product p = {.ops = ops, .a = memory};
  p.b = p.a + matrix, p.c = p.b + matrix;
  p.shape = (np_matmul){.m = side, .n = side, .k = side, .transpose_b = true};
  p.shape.a_type = p.shape.b_type = p.shape.c_type = ops->act;
  NP_TRY(np_bench_time(ops, multiply, &p, WARMUP, RUNS, seconds));
  *out = 2.0 * (double)side * (double)side * (double)side / np_timing_of(seconds, RUNS).least;
out:
  ops->release(ops, memory);
  return st;
}

double np_nominal_peak(const char *name) {
  /* The boards for PCIe have the same chips at lower clocks; of those only the A100 reaches the same nominal rate. */
  static const struct {
    const char *part;
    double flops;
  } known[] = {{"H100 80GB HBM3", 989.4e12}, {"H200", 989.4e12}, {"A100", 312e12}};
  if (strstr(name, "NVL")) return 0;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strstr(name, known[i].part)) return known[i].flops;
  return 0;
}
