/* The attention operator alone, forward and backward, through the operator table: what `nextpatch bench attention`
 * prints. docs/benchmarks.md says what the numbers mean. */
#ifndef NP_BENCH_ATTENTION_H
#define NP_BENCH_ATTENTION_H

#include "bench/timing.h"
#include "recipe/recipe.h"

typedef enum np_bench_mask { NP_MASK_PREFIX, NP_MASK_CAUSAL, NP_MASK_FULL, NP_MASKS } np_bench_mask;
enum { NP_BENCH_GRID = 16, NP_BENCH_VERSIONS = 4 };

typedef struct np_attention_version {
  np_ops *ops; /* the caller's; memory of the first version's is used with all */
  bool cudnn;  /* cuDNN's on `ops`, instead of the table's own: causal and full masks, and it may refuse a shape */
} np_attention_version;

typedef struct np_attention_bench {
  np_attention_version version[NP_BENCH_VERSIONS]; /* the first is the one that training would run */
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
  char version[16]; /* "cpu", "float32", "portable", "hopper", "cudnn" */
  char why[192];    /* that version; or why it refused the case, and then there is no time */
  bool refused;
  const char *mask, *pass; /* pass: "forward", "backward" */
  int batch, tokens, heads, head_width;
  np_dtype act;
  double pairs; /* query-key pairs the mask allows, over all images and heads */
  double flops; /* 4·d a pair forward, 10·d backward */
  double bytes; /* inputs read once, outputs written once */
  np_timing time;
  char baseline[16]; /* whose full mask is compared with: "cudnn" where it runs, else the first version */
  double ratio;      /* seconds of the baseline, same pass and shape, over these; 0: there is none */
} np_attention_row;

const char *np_bench_mask_name(np_bench_mask mask);

/* Calls `row` for every case, in order, shape by shape. A version that chooses for a shape what an earlier one chose is
 * left out there. */
np_status np_bench_attention(const np_attention_bench *bench, void (*row)(const np_attention_row *row, void *context),
                             void *context);

#endif
