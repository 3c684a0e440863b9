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

H_TEST(test_reads, reads)
H_TEST(test_marks, clock_marks)
H_TEST(test_available, memory_left)

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_reads), cmocka_unit_test(test_marks),
                                     cmocka_unit_test(test_available)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
