/* Late reads, marks and what memory is left: the part of the operator table that is about time. */
#include "ops_harness.h"

/* What is fetched is what stood there then, whatever is written behind it; slots come back in any order. */
static void reads(harness *h) {
  unsigned char *device, host[NP_FETCH_BYTES], got[NP_FETCH_BYTES];
  H_OK(h->ops->alloc(h->ops, sizeof host, (void **)&device));
  for (int round = 0; round < 2; round++) {
    for (int slot = 0; slot < NP_FETCH_SLOTS; slot++) {
      memset(host, 10 * round + slot, sizeof host);
      H_OK(h->ops->upload(h->ops, device, host, sizeof host));
      H_OK(h->ops->fetch(h->ops, slot, device, slot == 0 ? sizeof host : (size_t)slot));
      memset(host, 255, sizeof host); /* uploaded already */
    }
    for (int slot = NP_FETCH_SLOTS - 1; slot >= 0; slot--) {
      size_t bytes = slot == 0 ? sizeof host : (size_t)slot;
      memset(host, 10 * round + slot, sizeof host);
      H_OK(h->ops->arrive(h->ops, slot, got, bytes));
      assert_memory_equal(got, host, bytes);
    }
  }
  h->ops->release(h->ops, device);
}

static void clock_marks(harness *h) {
  double whole, half;
  H_OK(h->ops->mark(h->ops, 0));
  H_OK(h->ops->mark(h->ops, 700));
  for (volatile int i = 0; i < 1000000; i++) continue;
  H_OK(h->ops->mark(h->ops, 3));
  H_OK(h->ops->elapsed(h->ops, 700, 3, &half));
  H_OK(h->ops->elapsed(h->ops, 0, 3, &whole));
  assert_true(half >= 0 && whole >= half && whole < 60);
}

static void memory_left(harness *h) {
  size_t bytes = 0;
  H_OK(h->ops->available(h->ops, &bytes));
  assert_true(bytes > 1 << 20);
}

/* More than the rings of a backend hold at once; the host memory changes as soon as the call is back. */
static void large_upload(harness *h) {
  enum { BYTES = 80 << 20, ODD = 777 };
  unsigned char *host = malloc(BYTES), *got = malloc(BYTES), *device;
  assert_true(host && got);
  for (size_t i = 0; i < BYTES; i++) host[i] = (unsigned char)(i >> 16 ^ i);
  H_OK(h->ops->alloc(h->ops, BYTES, (void **)&device));
  if (h->ops->upload(h->ops, device, host, BYTES - ODD) != NP_OK) fail_msg("%s", np_error_message());
  memset(host, 0, BYTES);
  H_OK(h->ops->download(h->ops, got, device, BYTES - ODD));
  for (size_t i = 0; i < BYTES - ODD; i++)
    if (got[i] != (unsigned char)(i >> 16 ^ i)) fail_msg("%s: byte %zu", h->name, i);
  h->ops->release(h->ops, device);
  free(host);
  free(got);
}

/* What was recorded runs at each replay and not before; what cannot be recorded voids the recording. */
static void recordings(harness *h) {
  np_recording *recording = NULL;
  float *y = h_take_f32(h, 5);
  void *x = h_take_act(h, 5);
  if (!h->ops->record_begin) return;
  for (int i = 0; i < 5; i++) h_set(h, x, i, 1.0), y[i] = (float)i;
  H_OK(h->ops->axpy(h->ops, 5, 0.5f, x, y));
  assert_int_equal(h->ops->record_begin(h->ops), NP_OK);
  assert_int_equal(h->ops->axpy(h->ops, 5, 2.0f, x, y), NP_OK);
  assert_int_equal(h->ops->record_end(h->ops, &recording), NP_OK);
  H_OK(h->ops->zero(h->ops, x, 0));
  for (int i = 0; i < 5; i++) h_near(h, "before a replay", y[i], i + 0.5, 0.0);
  H_OK(h->ops->replay(h->ops, recording));
  H_OK(h->ops->replay(h->ops, recording));
  for (int i = 0; i < 5; i++) h_near(h, "after two", y[i], i + 4.5, 0.0);
  h->ops->forget(h->ops, recording);
  assert_int_equal(h->ops->record_begin(h->ops), NP_OK);
  assert_int_not_equal(h->ops->upload(h->ops, y, x, 4), NP_OK);
  assert_int_not_equal(h->ops->record_end(h->ops, &recording), NP_OK);
  assert_null(recording);
  H_OK(h->ops->axpy(h->ops, 5, 1.0f, x, y)); /* afterwards all is as before */
}

/* What `bench step --plans` prints: the version, and the tiles of those that have a plan of their own. */
static void plans(harness *h) {
#ifdef NP_TEST_CUDA
  char text[2048] = "";
  FILE *to = fmemopen(text, sizeof text, "w");
  assert_non_null(to);
  np_cuda_attention_print(h->ops, 4, 65, 2, 64, to);
  np_cuda_matmul_print(h->ops, to);
  fclose(to);
  assert_ptr_equal(strstr(text, "attention: "), text);
  assert_true(strstr(text, "attention: hopper") || strstr(text, " bytes of shared memory; "));
#else
  (void)h;
#endif
}

H_TEST(test_reads, reads)
H_TEST(test_marks, clock_marks)
H_TEST(test_available, memory_left)
H_TEST(test_large_upload, large_upload)
H_TEST(test_recordings, recordings)
H_TEST(test_plans, plans)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_reads),      cmocka_unit_test(test_marks),
                                     cmocka_unit_test(test_available),  cmocka_unit_test(test_large_upload),
                                     cmocka_unit_test(test_recordings), cmocka_unit_test(test_plans)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
