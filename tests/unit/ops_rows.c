/* Elements and rows: conversion, axpy, patches, tables, gather and scatter, column sums. */
#include "ops_harness.h"

static void elements(harness *h) {
  static const int64_t counts[] = {0, 1, 7, 65, 70001, 1100003};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    int64_t n = counts[c];
    double *in64, *x64, *y64;
    float *in = h_normal_f32(h, n, 3.0, &in64), *y = h_normal_f32(h, n, 1.0, &y64);
    void *x = h_normal_act(h, n, 1.0, &x64), *out = h_take_act(h, n);
    h_case(h, "count %lld", (long long)n);
    if (n > 5) {
      in64[3] = in[3] = INFINITY;
      in64[4] = in[4] = 1.00390625f; /* a tie between two bf16 values: to the even one, 1 */
      in64[5] = in[5] = 1.01171875f; /* a tie: to the even one, 1.015625 */
      in[1] = NAN;
    }
    H_OK(h->ops->to_act(h->ops, n, in, out));
    for (int64_t i = 0; i < n; i++) {
      double got = h_get(h, out, i);
      if (i == 1 && n > 5) assert_true(isnan(got));
      else if (!(got == h_round(h, in64[i]))) fail_msg("%s: %g became %g", h->name, in64[i], got);
    }
    if (n > 5 && h->act == NP_BF16) assert_true(h_get(h, out, 4) == 1.0 && h_get(h, out, 5) == 1.015625);

    H_OK(h->ops->axpy(h->ops, n, -0.75f, x, y));
    for (int64_t i = 0; i < n; i++) y64[i] += -0.75 * x64[i];
    h_close_f32(h, "axpy", n, y, y64, 1e-7);
    H_OK(h->ops->zero(h->ops, out, (size_t)n * h_size(h)));
    for (int64_t i = 0; i < n; i++) assert_true(h_get(h, out, i) == 0.0);
    h_finish(h);
  }
}

static void patches(harness *h) {
  static const struct {
    int batch, height, width, channels, patch, skip; /* bytes before the images */
  } cases[] = {{2, 8, 12, 3, 4, 0},     {1, 28, 14, 1, 14, 0}, {3, 3, 3, 3, 1, 0},    {2, 64, 64, 3, 8, 0},
               {2, 30, 45, 3, 15, 0},   {1, 14, 28, 2, 7, 0},  {3, 64, 64, 3, 2, 0},  {2, 28, 70, 3, 14, 0},
               {2, 28, 42, 2, 14, 0},   {1, 28, 56, 3, 14, 4}, {1, 28, 56, 3, 14, 1}, {1, 128, 128, 3, 64, 0},
               {4, 224, 224, 3, 14, 0}, /* a block has several rows of patches */
               {1, 64, 1280, 3, 64, 0} /* a row of patches is more than shared memory holds */};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    int B = cases[k].batch, H = cases[k].height, W = cases[k].width, C = cases[k].channels, P = cases[k].patch;
    np_pixels pixels = {.batch = B, .height = H, .width = W, .channels = C, .patch = P};
    int across = W / P, tokens = across * (H / P), values = P * P * C;
    int64_t all = (int64_t)B * H * W * C;
    uint8_t *u8 = (uint8_t *)h_take(h, (size_t)(all + cases[k].skip)) + cases[k].skip;
    float *f32 = h_take_f32(h, all);
    double *want = h_take_f64(h, all);
    void *out = h_take_act(h, all), *planar = h_take_act(h, all);
    h_case(h, "case %zu", k);
    for (int c = 0; c < 3; c++) {
      pixels.mean[c] = 0.4f + 0.05f * (float)c;
      pixels.std[c] = 0.2f + 0.01f * (float)c;
    }
    for (int64_t i = 0; i < all; i++) u8[i] = (uint8_t)(256.0 * h_uniform(h));
    for (int b = 0; b < B; b++)
      for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
          for (int c = 0; c < C; c++) {
            double v =
                (u8[(((int64_t)b * H + y) * W + x) * C + c] / 255.0 - (double)pixels.mean[c]) / (double)pixels.std[c];
            int token = y / P * across + x / P;
            want[((int64_t)b * tokens + token) * values + (c * P + y % P) * P + x % P] = v;
            f32[(((int64_t)b * C + c) * H + y) * W + x] = (float)v;
          }
    pixels.u8 = u8;
    H_OK(h->ops->patchify(h->ops, &pixels, out));
    h_close_act(h, "patches of bytes", all, out, want, 2e-7);
    pixels.u8 = NULL;
    pixels.f32 = f32;
    H_OK(h->ops->patchify(h->ops, &pixels, planar));
    h_close_act(h, "patches of floats", all, planar, want, 2e-7);
    h_finish(h);
  }
}

static void table_case(harness *h, int width) {
  enum { TOKENS = 7, ROWS = 3 * TOKENS, FEW = 7, PADDING = 2 };
  double *table64, *x64;
  float *table = h_normal_f32(h, TOKENS * width, 1.0, &table64);
  void *x = h_normal_act(h, ROWS * width, 1.0, &x64);
  h_case(h, "width %d", width);
  for (int r = 0; r < ROWS; r++)
    for (int j = 0; j < width; j++) x64[r * width + j] += table64[r % TOKENS * width + j];
  H_OK(h->ops->add_table(h->ops, ROWS, width, TOKENS, NULL, table, x));
  h_close_act(h, "table", ROWS * width, x, x64, 1e-7);

  static const int32_t rows[FEW] = {0, 6, 7, 12, 20, -1, -1}; /* the last two are padding */
  int32_t *index = h_take(h, sizeof rows);
  memcpy(index, rows, sizeof rows);
  void *few = h_normal_act(h, FEW * width, 1.0, &x64);
  for (int r = 0; r < FEW - PADDING; r++)
    for (int j = 0; j < width; j++) x64[r * width + j] += table64[index[r] % TOKENS * width + j];
  H_OK(h->ops->add_table(h->ops, FEW, width, TOKENS, index, table, few));
  h_close_act(h, "table by index", (FEW - PADDING) * width, few, x64, 1e-7);
  for (int i = (FEW - PADDING) * width; i < FEW * width; i++) assert_true(h_get(h, few, i) == x64[i]);
  h_finish(h);
}

static void tables(harness *h) {
  static const int widths[] = {7, 40, 588, 2056};
  for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) table_case(h, widths[k]);
}

static void gathering(harness *h) {
  static const struct {
    int64_t rows, padding, total;
    int width;
  } cases[] = {{0, 0, 5, 8},   {1, 0, 1, 8},      {3, 0, 10, 7},        {10, 0, 10, 16},      {400, 0, 1000, 192},
               {0, 16, 5, 8},  {3, 13, 10, 7},    {400, 16, 1000, 192}, {700, 300, 1000, 64}, {9, 3, 70, 6},
               {9, 3, 70, 12}, {20, 4, 50, 2056}, {4000, 96, 9000, 4}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    int64_t chosen = cases[k].rows, rows = chosen + cases[k].padding, total = cases[k].total;
    int width = cases[k].width;
    int32_t *index = h_take(h, (size_t)rows * sizeof *index);
    double *x64, *dy64, *dx64 = h_take_f64(h, total * width), *y64 = h_take_f64(h, rows * width);
    void *x = h_normal_act(h, total * width, 1.0, &x64), *y = h_take_act(h, rows * width);
    void *dy = h_normal_act(h, rows * width, 1.0, &dy64), *dx = h_take_act(h, total * width);
    h_case(h, "case %zu", k);
    memset(dx64, 0, (size_t)(total * width) * sizeof *dx64);
    memset(y64, 0, (size_t)(rows * width) * sizeof *y64);
    for (int64_t r = chosen; r < rows; r++) index[r] = -1;
    for (int64_t r = 0; r < chosen; r++) {
      index[r] = (int32_t)((r + 1) * total / chosen - 1); /* ascending, the last row among them */
      memcpy(y64 + r * width, x64 + index[r] * width, (size_t)width * sizeof *y64);
      memcpy(dx64 + index[r] * width, dy64 + r * width, (size_t)width * sizeof *y64);
    }
    H_OK(h->ops->gather_rows(h->ops, rows, width, index, x, y));
    H_OK(h->ops->scatter_rows(h->ops, rows, total, width, index, dy, dx));
    for (int64_t i = 0; i < rows * width; i++) assert_true(h_get(h, y, i) == y64[i]);
    for (int64_t i = 0; i < total * width; i++) assert_true(h_get(h, dx, i) == dx64[i]);
    h_finish(h);
  }
}

static void column_sums(harness *h) {
  static const int shapes[][2] = {{1, 1}, {7, 65}, {64, 300}, {300, 7}, {5000, 48}, {100, 588}, {50, 2056}, {9000, 24}};
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
    int rows = shapes[k][0], width = shapes[k][1];
    double *x64, *sum = h_take_f64(h, width);
    void *x = h_normal_act(h, (int64_t)rows * width, 1.0, &x64);
    float *out = h_take_f32(h, width), *twice = h_take_f32(h, width);
    h_case(h, "%d rows of %d", rows, width);
    for (int j = 0; j < width; j++) {
      sum[j] = 0.0;
      for (int r = 0; r < rows; r++) sum[j] += x64[(int64_t)r * width + j];
    }
    H_OK(h->ops->column_sum(h->ops, rows, width, x, out, false));
    H_OK(h->ops->column_sum(h->ops, rows, width, x, twice, false));
    assert_memory_equal(out, twice, (size_t)width * sizeof *out);
    h_close_f32(h, "sum", width, out, sum, 2e-6);
    H_OK(h->ops->column_sum(h->ops, rows, width, x, out, true));
    for (int j = 0; j < width; j++) sum[j] *= 2.0;
    h_close_f32(h, "accumulated sum", width, out, sum, 2e-6);
    h_finish(h);
  }
}

H_TEST(test_elements, elements)
H_TEST(test_patches, patches)
H_TEST(test_tables, tables)
H_TEST(test_gathering, gathering)
H_TEST(test_column_sums, column_sums)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_elements), cmocka_unit_test(test_patches),
                                     cmocka_unit_test(test_tables), cmocka_unit_test(test_gathering),
                                     cmocka_unit_test(test_column_sums)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
