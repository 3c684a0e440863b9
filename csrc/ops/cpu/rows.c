/* Elements and rows: conversion, axpy, position tables, gather and scatter, column sums. */
#include "ops/cpu/cpu.h"

#include <string.h>

/* Elements that make a thread worth waking, and the grain of borders between threads. */
enum { LEAST_ELEMENTS = 1 << 15, GRAIN = 1024 };

np_status np_cpu_to_act(np_ops *ops, int64_t count, const float *in, void *out) {
  np_cpu *cpu = np_cpu_of(ops);
  size_t size = np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, count, LEAST_ELEMENTS);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t begin = np_cpu_border(count, GRAIN, parts, part), end = np_cpu_border(count, GRAIN, parts, part + 1);
    cpu->simd->store(cpu->bf16, end - begin, in + begin, (char *)out + (size_t)begin * size);
  }
  return NP_OK;
}

np_status np_cpu_axpy(np_ops *ops, int64_t count, float alpha, const void *x, float *y) {
  np_cpu *cpu = np_cpu_of(ops);
  size_t size = np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, count, LEAST_ELEMENTS);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t begin = np_cpu_border(count, GRAIN, parts, part), end = np_cpu_border(count, GRAIN, parts, part + 1);
    cpu->simd->axpy(cpu->bf16, end - begin, alpha, (const char *)x + (size_t)begin * size, y + begin);
  }
  return NP_OK;
}

/* Rows that make a thread worth waking. */
static int64_t least_rows(int width) { return 1 + LEAST_ELEMENTS / (width > 0 ? width : 1); }

np_status np_cpu_add_table(np_ops *ops, int64_t rows, int width, int tokens, const int32_t *index, const float *table,
                           void *x) {
  np_cpu *cpu = np_cpu_of(ops);
  size_t row_bytes = (size_t)width * np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, rows, least_rows(width));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t end = np_cpu_border(rows, 1, parts, part + 1);
    for (int64_t r = np_cpu_border(rows, 1, parts, part); r < end; r++) {
      int64_t position = (index ? index[r] : r) % tokens;
      if (position < 0) continue; /* padding */
      cpu->simd->add(cpu->bf16, width, table + position * width, (char *)x + (size_t)r * row_bytes);
    }
  }
  return NP_OK;
}

np_status np_cpu_gather_rows(np_ops *ops, int64_t rows, int width, const int32_t *index, const void *x, void *y) {
  np_cpu *cpu = np_cpu_of(ops);
  size_t row_bytes = (size_t)width * np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, rows, least_rows(width));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t end = np_cpu_border(rows, 1, parts, part + 1);
    for (int64_t r = np_cpu_border(rows, 1, parts, part); r < end; r++) {
      char *to = (char *)y + (size_t)r * row_bytes;
      if (index[r] < 0) memset(to, 0, row_bytes);
      else memcpy(to, (const char *)x + (size_t)index[r] * row_bytes, row_bytes);
    }
  }
  return NP_OK;
}

/* The first r with index[r] >= target; `rows` when there is none. */
static int64_t first_at_least(const int32_t *index, int64_t rows, int64_t target) {
  int64_t low = 0, high = rows;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (index[middle] < target) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* How many rows go before the padding. */
static int64_t rows_before_padding(const int32_t *index, int64_t rows) {
  int64_t low = 0, high = rows;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (index[middle] >= 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* Parts own rows of dx, so each row is written once, as a copy or as zeros; an ascending index lets each find its
 * start. */
np_status np_cpu_scatter_rows(np_ops *ops, int64_t rows, int64_t total, int width, const int32_t *index, const void *dy,
                              void *dx) {
  np_cpu *cpu = np_cpu_of(ops);
  size_t row_bytes = (size_t)width * np_dtype_size(ops->act);
  int parts = np_cpu_parts(cpu, total, least_rows(width));
  rows = rows_before_padding(index, rows);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t t = np_cpu_border(total, 1, parts, part), end = np_cpu_border(total, 1, parts, part + 1);
    int64_t r = first_at_least(index, rows, t);
    for (; t < end; t++) {
      char *to = (char *)dx + (size_t)t * row_bytes;
      if (r < rows && index[r] == t) memcpy(to, (const char *)dy + (size_t)r++ * row_bytes, row_bytes);
      else memset(to, 0, row_bytes);
    }
  }
  return NP_OK;
}

np_status np_cpu_column_sum(np_ops *ops, int64_t rows, int width, const void *x, float *out, bool accumulate) {
  np_status st = NP_OK;
  np_cpu *cpu = np_cpu_of(ops);
  size_t row_bytes = (size_t)width * np_dtype_size(ops->act), sum_bytes = np_cpu_lines((size_t)width * sizeof(float));
  int parts = np_cpu_parts(cpu, rows, least_rows(width));
  void *sums;
  NP_TRY(np_cpu_scratch(cpu, (size_t)parts * sum_bytes, &sums));
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t begin = np_cpu_border(rows, 1, parts, part), end = np_cpu_border(rows, 1, parts, part + 1);
    float *sum = (float *)((char *)sums + (size_t)part * sum_bytes);
    memset(sum, 0, sum_bytes);
    cpu->simd->column_sum(cpu->bf16, end - begin, width, (const char *)x + (size_t)begin * row_bytes, sum);
  }
  np_cpu_add_parts(cpu, parts, width, sums, sum_bytes, out, accumulate);
out:
  return st;
}

void np_cpu_add_parts(const np_cpu *cpu, int parts, int64_t width, void *sums, size_t sum_bytes, float *out,
                      bool accumulate) {
  for (int part = 1; part < parts; part++)
    cpu->simd->add(false, width, (const float *)((const char *)sums + (size_t)part * sum_bytes), sums);
  if (accumulate) cpu->simd->add(false, width, sums, out);
  else memcpy(out, sums, (size_t)width * sizeof *out);
}
