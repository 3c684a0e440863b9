/* The attention operator alone, forward and backward, through the operator table: what `nextpatch bench attention`
 * prints. docs/benchmarks.md says what the numbers mean. */
#ifndef NP_BENCH_ATTENTION_H
#define NP_BENCH_ATTENTION_H

#include "bench/timing.h"
#include "recipe/recipe.h"

typedef enum np_bench_mask { NP_MASK_PREFIX, NP_MASK_CAUSAL, NP_MASK_FULL, NP_MASKS } np_bench_mask;
enum { NP_BENCH_GRID = 16, NP_BENCH_VERSIONS = 4 };

/* One way to run the operator: an open table, and what to call it. */
typedef struct np_attention_version {
  const char *name;     /* "cpu", "hopper", "portable", "cudnn" */
  np_ops *ops;          /* the caller's */
  bool takes[NP_MASKS]; /* the masks it can do */
  bool baseline;        /* its full mask is what all are compared with */
} np_attention_version;

typedef struct np_attention_bench {
  np_attention_version version[NP_BENCH_VERSIONS];
  int versions;
  int tokens[NP_BENCH_GRID], tokens_count;
  int head_width[NP_BENCH_GRID], head_width_count;
  int width;                /* of the model: h = width / d */
  int rows;                 /* B·N at least: B = ceil(rows / N); */
  int images;               /* 0: from rows; else B */
  int warmup, runs, rounds; /* runs of one case: `rounds` times `runs`, all cases of a shape taking turns */
  double rotation;          /* bytes that the buffers hold together at least */
  uint64_t seed;
} np_attention_bench;

/* One measured case. */
typedef struct np_attention_row {
  const char *version, *mask, *pass; /* pass: "forward", "backward" */
  int batch, tokens, heads, head_width;
  np_dtype act;
  double pairs; /* query-key pairs the mask allows, over all images and heads */
  double flops; /* 4·d a pair forward, 10·d backward */
  double bytes; /* inputs read once, outputs written once */
  np_timing time;
  double ratio; /* seconds of the baseline's full mask, same pass and shape, over these; 0: there is none */
} np_attention_row;

const char *np_bench_mask_name(np_bench_mask mask);

/* Calls `row` for every case, in order, shape by shape. */
np_status np_bench_attention(const np_attention_bench *bench, void (*row)(const np_attention_row *row, void *context),
                             void *context);

#endif
