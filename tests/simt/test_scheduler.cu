/* What block.h offers to further instructions: conditions, events that happen late, knowledge handed on through clocks,
 * a warpgroup's meetings. And that the order of threads is really permuted. */
#include "device.cuh"

#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdio>

extern "C" {
#include <cmocka.h>
}

static const np_gpu GPU = {nullptr, 0, 4, 9, 0, 200 * 1024, "emulated"};

/* A flag with the clocks of those who raised it: the least that an mbarrier is. */
struct flag {
  int raised;
  uint32_t clocks[257];
};

static void expect(const char *said, np_status got) {
  assert_int_equal(got, NP_ERR_LIBRARY);
  if (strstr(np_error_message(), said) == nullptr) fail_msg("%s\nexpected: %s", np_error_message(), said);
}

/* One thread writes and raises the flag; another warp waits and reads. */
NP_KERNEL(64) hand_over(flag *f, bool published, bool seen, float *out) {
  const np_shared<float> room = np_shared_at<float>(0);
  if (threadIdx.x == 3) {
    room[0] = 7.0f;
    if (published) simt::publish(f->clocks);
    f->raised = 1;
  }
  if (np_warp() == 1) {
    simt::wait_until("the flag", [f] { return f->raised != 0; });
    if (seen) simt::see(f->clocks);
    out[np_lane()] = room[0];
  }
}
static void test_hand_over(void **) {
  flag f = {};
  float out[32];
  if (np_launch(&GPU, "hand_over", hand_over, dim3(1), 64, 4, &f, true, true, &out[0]) != NP_OK)
    fail_msg("%s", np_error_message());
  for (int i = 0; i < 32; i++) assert_true(out[i] == 7.0f);
  for (int lack = 0; lack < 2; lack++) {
    f = {};
    expect("is read with no barrier since thread 3",
           np_launch(&GPU, "hand_over", hand_over, dim3(1), 64, 4, &f, lack == 0, lack == 1, &out[0]));
  }
}

/* What a thread does behind its publication is not published. */
NP_KERNEL(64) too_late(flag *f) {
  const np_shared<float> room = np_shared_at<float>(0);
  if (threadIdx.x == 3) {
    simt::publish(f->clocks);
    room[0] = 7.0f;
    f->raised = 1;
  }
  if (threadIdx.x == 40) {
    simt::wait_until("the flag", [f] { return f->raised != 0; });
    simt::see(f->clocks);
    room[0] = 8.0f;
  }
}
static void test_too_late(void **) {
  flag f = {};
  expect("is written with no barrier since thread 3", np_launch(&GPU, "too_late", too_late, dim3(1), 64, 4, &f));
}

/* Events: at the last moment, in their order; the copy engine's writes are known to whom it is told. */
NP_KERNEL(32) engine(const float *in, flag *f, bool wait, float *out) {
  const np_shared<float> room = np_shared_at<float>(0);
  if (threadIdx.x == 0) {
    unsigned char *to = room.raw();
    simt::copy_leaves(to, 16);
    simt::later([=] {
      simt::copy_arrives(to, in, 16, ++simt::here.engine_clock << simt::NUMBER_BITS | simt::here.threads);
      f->clocks[simt::here.threads] = simt::here.engine_clock;
    });
    simt::later([=] { f->raised++; });
  }
  if (wait) {
    simt::wait_until("the copy", [f] { return f->raised == 1; });
    simt::see(f->clocks);
  }
  out[np_lane()] = room[np_lane() % 4];
}
static void test_engine(void **) {
  flag f = {};
  float in[4] = {1, 2, 3, 4}, out[32];
  if (np_launch(&GPU, "engine", engine, dim3(1), 32, 16, static_cast<const float *>(in), &f, true, &out[0]) != NP_OK)
    fail_msg("%s", np_error_message());
  for (int i = 0; i < 32; i++) assert_true(out[i] == in[i % 4]);
  f = {};
  assert_int_equal(
      np_launch(&GPU, "engine", engine, dim3(1), 32, 16, static_cast<const float *>(in), &f, false, &out[0]),
      NP_ERR_LIBRARY);
}

NP_KERNEL(64) never(flag *f) {
  if (threadIdx.x == 5) simt::wait_until("the flag", [f] { return f->raised != 0; });
  else np_block_sync();
}
static void test_never(void **) {
  flag f = {};
  expect("no thread can go on: threads 0-4 wait at np_block_sync, thread 5 waits at the flag, threads 6-63 wait at "
         "np_block_sync",
         np_launch(&GPU, "never", never, dim3(1), 64, 0, &f));
}

NP_KERNEL(256) groups(int *out) {
  struct {
    int give, get;
  } mine = {static_cast<int>(threadIdx.x), 0};
  simt::together_group("a group's turn", 0, mine, [](auto *const *all) {
    for (int i = 0; i < simt::GROUP; i++) all[i]->get = all[simt::GROUP - 1 - i]->give;
  });
  out[threadIdx.x] = mine.get;
}
static void test_groups(void **) {
  int out[256];
  if (np_launch(&GPU, "groups", groups, dim3(1), 256, 0, &out[0]) != NP_OK) fail_msg("%s", np_error_message());
  for (int i = 0; i < 256; i++) assert_int_equal(out[i], i / 128 * 128 + 127 - i % 128);
}

/* Which thread comes when: not 0, 1, 2 …, another in each block, the same in each launch. */
NP_KERNEL(128) order(int *count, int *out) {
  out[128 * blockIdx.x + static_cast<unsigned>((*count)++) % 128] = static_cast<int>(threadIdx.x);
}
static void test_order(void **) {
  int out[2][2][128];
  for (int launch = 0; launch < 2; launch++) {
    int count = 0;
    assert_int_equal(np_launch(&GPU, "order", order, dim3(2), 128, 0, &count, &out[launch][0][0]), NP_OK);
  }
  assert_memory_equal(out[0], out[1], sizeof out[0]);
  assert_memory_not_equal(out[0][0], out[0][1], sizeof out[0][0]);
  int ascents = 0;
  for (int i = 1; i < 128; i++) ascents += out[0][0][i] == out[0][0][i - 1] + 1;
  assert_true(ascents < 16);
}

/* A launch that failed leaves nothing behind: stacks, waits, events and shadow are fresh in the next. */
static void test_afterwards(void **) {
  flag f = {};
  float out[32];
  for (int i = 0; i < 20; i++) {
    f = {};
    assert_int_equal(np_launch(&GPU, "never", never, dim3(1), 64, 0, &f), NP_ERR_LIBRARY);
    if (np_launch(&GPU, "hand_over", hand_over, dim3(1), 64, 4, &f, true, true, &out[0]) != NP_OK)
      fail_msg("%s", np_error_message());
  }
}

int main() {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hand_over),  cmocka_unit_test(test_too_late), cmocka_unit_test(test_engine),
      cmocka_unit_test(test_never),      cmocka_unit_test(test_groups),   cmocka_unit_test(test_order),
      cmocka_unit_test(test_afterwards),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
