#include "bench/attention.h"

#include "bench/fill.h"
#include "ops/attention_tiles.h"
#include "ops/cuda.h"
#include "util/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
  const np_attention_version *version;
  np_bench_mask mask;
  bool backward;
  double *seconds; /* [rounds · runs] */
  np_attention_row row;
} run;

const char *np_bench_mask_name(np_bench_mask mask) {
  static const char *const names[NP_MASKS] = {"prefix", "causal", "full"};
  return names[mask];
}

/* A set: qkv, out, dout, dqkv, lse. */
static size_t set_bytes(const shape *s) { return 2 * s->qkv + 2 * s->out + s->lse; }

static np_status attention(const run *r, int turn, bool backward) {
  const shape *s = r->shape;
  np_ops *ops = r->version->ops;
  unsigned char *qkv = s->buffers + (size_t)(turn % s->sets) * set_bytes(s);
  unsigned char *out = qkv + s->qkv, *dout = out + s->out, *dqkv = dout + s->out;
  float *lse = (float *)(void *)(dqkv + s->qkv);
  const int32_t *prefix = s->prefix[r->mask];
  int B = s->batch, N = s->tokens, h = s->heads, d = s->head_width;
  bool causal = r->mask == NP_MASK_CAUSAL;
  if (r->version->cudnn)
    return backward ? np_cuda_cudnn_backward(ops, causal, B, N, h, d, qkv, out, lse, dout, dqkv)
                    : np_cuda_cudnn_forward(ops, causal, B, N, h, d, qkv, out, lse);
  return backward ? ops->attention_backward(ops, B, N, h, d, prefix, qkv, out, lse, dout, dqkv)
                  : ops->attention_forward(ops, B, N, h, d, prefix, qkv, out, lse);
}

static np_status body(void *context, int turn) {
  const run *r = context;
  return attention(r, turn, r->backward);
}

static np_status make_prefixes(shape *s) {
  np_status st = NP_OK;
  np_rng rng = np_rng_make(s->bench->seed, NP_PURPOSE_PREFIX, 0, (uint64_t)s->tokens);
  int32_t *host = calloc((size_t)s->batch, sizeof *host);
  if (!host) return np_error(NP_ERR_MEMORY, "out of memory for the bench");
  for (np_bench_mask mask = NP_MASK_PREFIX; mask <= NP_MASK_CAUSAL; mask++) {
    for (int b = 0; b < s->batch; b++) {
      int lengths = s->tokens > 1 ? s->tokens - 1 : 1; /* 1 … N - 1, as pretraining draws them */
      host[b] = mask == NP_MASK_PREFIX ? 1 + (int32_t)np_rng_below(&rng, (uint32_t)lengths) : 0;
      s->pairs[mask] += np_attention_pairs(s->tokens, host[b]);
    }
    void *device;
    NP_TRY(s->memory->alloc(s->memory, (size_t)s->batch * sizeof *host, &device));
    s->prefix[mask] = device;
    NP_TRY(s->memory->upload(s->memory, device, host, (size_t)s->batch * sizeof *host));
  }
  s->pairs[NP_MASK_FULL] = s->batch * np_attention_pairs(s->tokens, s->tokens);
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
      run *r = &runs[i];
      if (r->row.refused) continue;
      st = prepare(r);
      if (st == NP_OK)
        st = np_bench_time(r->version->ops, body, r, bench->warmup, bench->runs,
                           r->seconds + (size_t)round * (size_t)bench->runs);
      if (st != NP_OK && !r->version->cudnn) return st;
      r->row.refused = st != NP_OK; /* cuDNN may lack this shape, or be absent: then there is no such baseline */
      if (r->row.refused) snprintf(r->row.why, sizeof r->row.why, "%s", np_error_message());
    }
  return NP_OK;
}

/* The version's name and reason, "hopper (wgmma and TMA: …)" split. */
static void name_version(const np_attention_version *version, const shape *s, np_attention_row *row) {
  char text[NP_CUDA_TEXT] = "";
  if (!strcmp(version->ops->name, "cpu")) snprintf(text, sizeof text, "cpu (backend: cpu has one version)");
  else if (version->cudnn) snprintf(text, sizeof text, "cudnn (the baseline)");
  else np_cuda_attention_reason(version->ops, s->tokens, s->head_width, text);
  size_t length = strcspn(text, " ");
  snprintf(row->version, sizeof row->version, "%.*s", (int)length, text);
  char *why = strchr(text, '('), *end = strrchr(text, ')');
  if (why && end) *end = 0;
  snprintf(row->why, sizeof row->why, "%s", why ? why + 1 : text);
}

static bool chosen_before(const run *runs, int cases, const run *r) {
  for (int i = 0; i < cases; i++)
    if (runs[i].mask == r->mask && runs[i].backward == r->backward && !strcmp(runs[i].row.version, r->row.version))
      return true;
  return false;
}

static void fill_row(run *r) {
  const shape *s = r->shape;
  np_attention_row *row = &r->row;
  double value = (double)np_dtype_size(r->version->ops->act), width = (double)s->heads * s->head_width;
  double tokens = (double)s->batch * s->tokens;
  row->mask = np_bench_mask_name(r->mask), row->pass = r->backward ? "backward" : "forward";
  row->batch = s->batch, row->tokens = s->tokens, row->heads = s->heads, row->head_width = s->head_width;
  row->act = r->version->ops->act;
  row->pairs = s->pairs[r->mask] * s->heads;
  row->flops = (r->backward ? 10 : 4) * row->pairs * s->head_width;
  /* forward: qkv → out, lse; backward: qkv, out, dout, lse → dqkv */
  row->bytes = tokens * ((r->backward ? 8 : 4) * width * value + s->heads * (double)sizeof(float));
  if (!row->refused) row->time = np_timing_of(r->seconds, s->bench->rounds * s->bench->runs);
}

/* cuDNN with full mask, and where it did not run the first version with it. */
static const np_attention_row *baseline(const run *runs, int cases, bool backward) {
  const np_attention_row *found = NULL;
  for (int i = 0; i < cases; i++)
    if (runs[i].backward == backward && runs[i].mask == NP_MASK_FULL && !runs[i].row.refused &&
        (!found || runs[i].version->cudnn))
      found = &runs[i].row;
  return found;
}

static int list_cases(const shape *s, double *seconds, run *runs) {
  const np_attention_bench *bench = s->bench;
  size_t times = (size_t)bench->rounds * (size_t)bench->runs;
  int cases = 0;
  for (int backward = 0; backward < 2; backward++)
    for (np_bench_mask mask = 0; mask < NP_MASKS; mask++)
      for (int v = 0; v < bench->versions; v++) {
        run *r = &runs[cases];
        *r = (run){.shape = s, .version = &bench->version[v], .mask = mask, .backward = backward};
        r->seconds = seconds + (size_t)cases * times;
        name_version(r->version, s, &r->row);
        if ((r->version->cudnn && mask == NP_MASK_PREFIX) || chosen_before(runs, cases, r)) continue;
        cases++;
      }
  return cases;
}

static np_status one_shape(const np_attention_bench *bench, int tokens, int head_width,
                           void (*report)(const np_attention_row *row, void *context), void *context) {
  np_status st = NP_OK;
  int batch = bench->images ? bench->images : (bench->rows + tokens - 1) / tokens;
  shape s = {.bench = bench, .memory = bench->version[0].ops, .batch = batch, .tokens = tokens};
  s.heads = bench->width / head_width > 0 ? bench->width / head_width : 1, s.head_width = head_width;
  run *runs = calloc(CASES + 1, sizeof *runs);
  double *seconds = calloc((CASES + 1) * (size_t)bench->rounds * (size_t)bench->runs, sizeof *seconds);
  if (!seconds || !runs) {
    st = np_error(NP_ERR_MEMORY, "out of memory for the bench");
    goto out;
  }
  NP_TRY(open_shape(&s));
  int cases = list_cases(&s, seconds, runs);
  NP_TRY(measure(runs, cases));
  for (int i = 0; i < cases; i++) fill_row(&runs[i]);
  for (int i = 0; i < cases; i++) {
    const np_attention_row *full = baseline(runs, cases, runs[i].backward);
    snprintf(runs[i].row.baseline, sizeof runs[i].row.baseline, "%s", full ? full->version : "none");
    if (full && !runs[i].row.refused) runs[i].row.ratio = full->time.median / runs[i].row.time.median;
    report(&runs[i].row, context);
  }
out:
  close_shape(&s);
  free(seconds);
  free(runs);
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
