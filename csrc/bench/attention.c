#include "bench/attention.h"

#include "bench/fill.h"
#include "util/philox.h"

#include <stdlib.h>

enum { CASES = NP_BENCH_VERSIONS * NP_MASKS * 2 };

/* One shape: buffers of every set, and prefixes. */
typedef struct shape {
  const np_attention_bench *bench;
  np_ops *memory; /* the table that the buffers are of */
  int batch, tokens, heads, head_width, sets;
  size_t qkv, out, lse; /* bytes of one set's */
  unsigned char *buffers;
  int32_t *prefix[NP_MASKS]; /* device; NULL for the full mask */
  double pairs[NP_MASKS];    /* of one head, over all images */
} shape;

/* A case at hand, for the timer. */
typedef struct run {
  const shape *shape;
  np_ops *ops;
  np_bench_mask mask;
  bool backward;
  double *seconds; /* [rounds · runs] */
} run;

const char *np_bench_mask_name(np_bench_mask mask) {
  static const char *const names[NP_MASKS] = {"prefix", "causal", "full"};
  return names[mask];
}

/* A set: qkv, out, dout, dqkv, lse. */
static size_t set_bytes(const shape *s) { return 2 * s->qkv + 2 * s->out + s->lse; }

/* Every version computes the same, so one forward pass prepares out and lse of all backward passes. */
static np_status attention(const run *r, int turn, bool backward) {
  const shape *s = r->shape;
  unsigned char *qkv = s->buffers + (size_t)(turn % s->sets) * set_bytes(s);
  unsigned char *out = qkv + s->qkv, *dout = out + s->out, *dqkv = dout + s->out;
  float *lse = (float *)(void *)(dqkv + s->qkv);
  const int32_t *prefix = s->prefix[r->mask];
  if (backward)
    return r->ops->attention_backward(r->ops, s->batch, s->tokens, s->heads, s->head_width, prefix, qkv, out, lse, dout,
                                      dqkv);
  return r->ops->attention_forward(r->ops, s->batch, s->tokens, s->heads, s->head_width, prefix, qkv, out, lse);
}

static np_status body(void *context, int turn) {
  const run *r = context;
  return attention(r, turn, r->backward);
}

/* Query i sees max(i + 1, S) keys: S for the first S queries, then S + 1, …, N; with S = N all N². */
static double pairs_of(double N, double S) { return S * S + (N * (N + 1) - S * (S + 1)) / 2; }

static np_status make_prefixes(shape *s) {
  np_status st = NP_OK;
  np_rng rng = np_rng_make(s->bench->seed, NP_PURPOSE_PREFIX, 0, (uint64_t)s->tokens);
  int32_t *host = calloc((size_t)s->batch, sizeof *host);
  if (!host) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  for (np_bench_mask mask = NP_MASK_PREFIX; mask <= NP_MASK_CAUSAL; mask++) {
    for (int b = 0; b < s->batch; b++) {
      int lengths = s->tokens > 1 ? s->tokens - 1 : 1; /* 1 … N - 1, as pretraining draws them */
      host[b] = mask == NP_MASK_PREFIX ? 1 + (int32_t)np_rng_below(&rng, (uint32_t)lengths) : 0;
      s->pairs[mask] += pairs_of(s->tokens, host[b]);
    }
    void *device;
    NP_TRY(s->memory->alloc(s->memory, (size_t)s->batch * sizeof *host, &device));
    s->prefix[mask] = device;
    NP_TRY(s->memory->upload(s->memory, device, host, (size_t)s->batch * sizeof *host));
  }
  s->pairs[NP_MASK_FULL] = (double)s->batch * s->tokens * s->tokens;
out:
  free(host);
  return st;
}

static np_status open_shape(shape *s) {
  np_status st = NP_OK;
  size_t value = np_dtype_size(s->memory->act);
  int32_t seen;
  void *buffers;
  s->out = (size_t)s->batch * (size_t)s->tokens * (size_t)s->heads * (size_t)s->head_width * value;
  s->qkv = 3 * s->out;
  s->lse = ((size_t)s->batch * (size_t)s->tokens * (size_t)s->heads * sizeof(float) + 255) / 256 * 256;
  s->out = (s->out + 255) / 256 * 256, s->qkv = (s->qkv + 255) / 256 * 256; /* each array begins on a line */
  s->sets = np_bench_sets(s->bench->rotation, (double)set_bytes(s));
  NP_TRY(s->memory->alloc(s->memory, set_bytes(s) * (size_t)s->sets, &buffers));
  s->buffers = buffers;
  NP_TRY(np_bench_fill(s->memory, s->bench->seed, set_bytes(s) * (size_t)s->sets, s->buffers));
  NP_TRY(make_prefixes(s));
  /* Versions have queues of their own: what this one was told is done before they begin. */
  NP_TRY(s->memory->download(s->memory, &seen, s->prefix[NP_MASK_CAUSAL], sizeof seen));
out:
  return st;
}

static void close_shape(shape *s) {
  for (int mask = 0; mask < NP_MASKS; mask++) s->memory->release(s->memory, s->prefix[mask]);
  s->memory->release(s->memory, s->buffers);
}

/* out and lse of every set, for the backward pass of this case. */
static np_status prepare(const run *r) {
  np_status st = NP_OK;
  for (int set = 0; r->backward && set < r->shape->sets; set++) NP_TRY(attention(r, set, false));
out:
  return st;
}

static np_status measure(run *runs, int cases) {
  np_status st = NP_OK;
  const np_attention_bench *bench = runs[0].shape->bench;
  for (int round = 0; round < bench->rounds; round++)
    for (int i = 0; i < cases; i++) {
      NP_TRY(prepare(&runs[i]));
      NP_TRY(np_bench_time(runs[i].ops, body, &runs[i], bench->warmup, bench->runs,
                           runs[i].seconds + (size_t)round * (size_t)bench->runs));
    }
out:
  return st;
}

static void fill_row(const run *r, np_attention_row *row) {
  const shape *s = r->shape;
  double value = (double)np_dtype_size(r->ops->act), width = (double)s->heads * s->head_width;
  double tokens = (double)s->batch * s->tokens;
  *row = (np_attention_row){.mask = np_bench_mask_name(r->mask), .pass = r->backward ? "backward" : "forward"};
  row->batch = s->batch, row->tokens = s->tokens, row->heads = s->heads, row->head_width = s->head_width;
  row->act = r->ops->act;
  row->pairs = s->pairs[r->mask] * s->heads;
  row->flops = (r->backward ? 10 : 4) * row->pairs * s->head_width;
  /* forward: qkv → out, lse; backward: qkv, out, dout, lse → dqkv */
  row->bytes = tokens * ((r->backward ? 8 : 4) * width * value + s->heads * (double)sizeof(float));
  row->time = np_timing_of(r->seconds, s->bench->rounds * s->bench->runs);
}

static np_status one_shape(const np_attention_bench *bench, int tokens, int head_width,
                           void (*report)(const np_attention_row *row, void *context), void *context) {
  np_status st = NP_OK;
  int batch = bench->images ? bench->images : (bench->rows + tokens - 1) / tokens, cases = 0;
  size_t times = (size_t)bench->rounds * (size_t)bench->runs;
  shape s = {.bench = bench, .memory = bench->version[0].ops, .batch = batch, .tokens = tokens};
  s.heads = bench->width / head_width > 0 ? bench->width / head_width : 1, s.head_width = head_width;
  run runs[CASES];
  const np_attention_version *version[CASES];
  np_attention_row rows[CASES];
  double *seconds = calloc(CASES * times, sizeof *seconds);
  if (!seconds) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  NP_TRY(open_shape(&s));
  for (int backward = 0; backward < 2; backward++)
    for (np_bench_mask mask = 0; mask < NP_MASKS; mask++)
      for (int v = 0; v < bench->versions; v++) {
        if (!bench->version[v].takes[mask]) continue;
        version[cases] = &bench->version[v];
        runs[cases] = (run){&s, bench->version[v].ops, mask, backward, seconds + (size_t)cases * times};
        cases++;
      }
  NP_TRY(measure(runs, cases));
  double full[2] = {0, 0};
  for (int i = 0; i < cases; i++) {
    fill_row(&runs[i], &rows[i]);
    rows[i].version = version[i]->name;
    if (version[i]->baseline && runs[i].mask == NP_MASK_FULL) full[runs[i].backward] = rows[i].time.median;
  }
  for (int i = 0; i < cases; i++) {
    rows[i].ratio = full[runs[i].backward] / rows[i].time.median;
    report(&rows[i], context);
  }
out:
  close_shape(&s);
  free(seconds);
  return st == NP_OK ? st : np_error_context(st, "attention of %d tokens, head width %d", tokens, head_width);
}

np_status np_bench_attention(const np_attention_bench *bench, void (*row)(const np_attention_row *row, void *context),
                             void *context) {
  np_status st = NP_OK;
  for (int d = 0; d < bench->head_width_count; d++)
    for (int n = 0; n < bench->tokens_count; n++)
      NP_TRY(one_shape(bench, bench->tokens[n], bench->head_width[d], row, context));
out:
  return st;
}
