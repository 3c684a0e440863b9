/* What runs beside the operations begins at its signal, of the replay that was queued last, and not before: on a GPU,
 * where things take their time. */
#include "ops/cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ADDS = 24, REPLAYS = 6 };

typedef struct bench {
  np_ops *ops;
  int64_t count;
  float *ones, *sum, *other, *copy; /* [count], device */
} bench;

static void open_bench(bench *b) {
  np_cuda_about about;
  *b = (bench){0};
  const np_cuda_options options = {.act = NP_F32, .device = -1};
  assert_int_equal(np_ops_cuda(&options, &b->ops), NP_OK);
  assert_int_equal(np_cuda_look(-1, &about), NP_OK);
  b->count = (int64_t)about.processors << 16; /* 35 MB on an H200: an addition takes some 30 us */
  if (about.processors < 16) b->count = 4096;
  float **const buffers[] = {&b->ones, &b->sum, &b->other, &b->copy};
  np_ops *ops = b->ops;
  for (int i = 0; i < 4; i++) {
    assert_int_equal(ops->alloc(ops, (size_t)b->count * sizeof(float), (void **)buffers[i]), NP_OK);
    assert_int_equal(ops->zero(ops, *buffers[i], (size_t)b->count * sizeof(float)), NP_OK);
  }
  float *host = malloc((size_t)b->count * sizeof *host);
  assert_non_null(host);
  for (int64_t i = 0; i < b->count; i++) host[i] = 1;
  assert_int_equal(ops->upload(ops, b->ones, host, (size_t)b->count * sizeof *host), NP_OK);
  free(host);
}

static void close_bench(bench *b) {
  np_ops *ops = b->ops;
  ops->release(ops, b->ones), ops->release(ops, b->sum), ops->release(ops, b->other), ops->release(ops, b->copy);
  ops->destroy(ops);
}

#define B_OK(call)                                                                                                     \
  do {                                                                                                                 \
    if ((call) != NP_OK) fail_msg("%s: %s", #call, np_error_message());                                                \
  } while (0)

/* sum = ADDS, signal 3, then as much work again, elsewhere. */
static void work(bench *b) {
  np_ops *ops = b->ops;
  B_OK(ops->zero(ops, b->sum, (size_t)b->count * sizeof(float)));
  for (int i = 0; i < ADDS; i++) B_OK(ops->axpy(ops, b->count, 1, b->ones, b->sum));
  B_OK(ops->signal(ops, 3));
  for (int i = 0; i < ADDS; i++) B_OK(ops->axpy(ops, b->count, 1, b->ones, b->other));
}

/* Copies the sum beside the operations as soon as the signal allows, clears it behind that, and looks at the copy. */
static void check(bench *b, int signal) {
  np_ops *ops = b->ops;
  const size_t bytes = (size_t)b->count * sizeof(float);
  float *host = malloc(bytes);
  assert_non_null(host);
  B_OK(np_cuda_beside_copy(ops, signal, b->copy, b->sum, bytes));
  B_OK(np_cuda_beside_join(ops));
  B_OK(ops->zero(ops, b->sum, bytes)); /* too early, had it not joined */
  B_OK(ops->download(ops, host, b->copy, bytes));
  for (int64_t i = 0; i < b->count; i++)
    if (host[i] != ADDS) fail_msg("value %lld is %g, %d were added", (long long)i, (double)host[i], ADDS);
  free(host);
}

static void as_they_come(void **state) {
  bench b;
  (void)state;
  open_bench(&b);
  for (int i = 0; i < REPLAYS; i++) {
    work(&b);
    check(&b, i % 2 ? -1 : 3);
  }
  close_bench(&b);
}

/* The one that decides whether gradients may be summed before a recorded pass is over. */
static void recorded(void **state) {
  bench b;
  np_recording *recording;
  (void)state;
  open_bench(&b);
  np_ops *ops = b.ops;
  B_OK(ops->signal(ops, 3)); /* and was reached long before the replay */
  work(&b);
  B_OK(ops->record_begin(ops));
  work(&b);
  B_OK(ops->record_end(ops, &recording));
  for (int i = 0; i < REPLAYS; i++) {
    B_OK(ops->replay(ops, recording));
    check(&b, 3);
  }
  ops->forget(ops, recording);
  close_bench(&b);
}

static void refused(void **state) {
  bench b;
  void *stream;
  (void)state;
  open_bench(&b);
  np_ops *ops = b.ops;
  assert_int_equal(np_cuda_beside_follow(ops, 7, &stream), NP_ERR_ARGUMENT);
  assert_int_equal(np_cuda_beside_follow(ops, NP_SIGNALS, &stream), NP_ERR_ARGUMENT);
  assert_int_equal(ops->signal(ops, NP_SIGNALS), NP_ERR_ARGUMENT);
  assert_int_equal(ops->signal(ops, -1), NP_ERR_ARGUMENT);
  close_bench(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(as_they_come),
      cmocka_unit_test(recorded),
      cmocka_unit_test(refused),
  };
  if (np_cuda_device_count() == 0) {
    puts("skipped: no GPU");
    return 77;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
