/* The emulator finds each kind of mistake: a tiny kernel with the mistake planted (flaw true) fails with the message it
 * should, the same kernel repaired passes. */
#include "device.cuh"

#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdio>

extern "C" {
#include <cmocka.h>
}

static const np_gpu GPU = {nullptr, 0, 4, 9, 0, 200 * 1024, "emulated"};

/* Both forms of a kernel; `said` is part of the message that the flawed one fails with. */
template <class... A>
static void expect(const char *said, void (*kernel)(bool, A...), int threads, size_t shared_bytes, A... arguments) {
  np_status got = np_launch(&GPU, "planted", kernel, dim3(2), threads, shared_bytes, true, arguments...);
  if (got == NP_OK) fail_msg("not found: %s", said);
  assert_int_equal(got, NP_ERR_LIBRARY);
  if (strstr(np_error_message(), said) == nullptr) fail_msg("%s\nexpected: %s", np_error_message(), said);
  if (np_launch(&GPU, "repaired", kernel, dim3(2), threads, shared_bytes, false, arguments...) != NP_OK)
    fail_msg("repaired, and still: %s", np_error_message());
}

/* ---- places ---- */

NP_KERNEL(32) outside(bool flaw) {
  np_shared<float> room = np_shared_at<float>(0);
  room[threadIdx.x + (flaw ? 1 : 0)] = 1.0f;
}
NP_KERNEL(32) before(bool flaw) {
  np_shared<float> room = np_shared_at<float>(0) - (flaw ? 1 : 0);
  room[threadIdx.x] = 1.0f;
}
static void test_outside(void **) {
  expect("block (0, 0, 0), thread 31: shared memory: 4 bytes at offset 128 are outside of the block's 128", outside, 32,
         128);
  expect("4 bytes at offset -4 are outside", before, 32, 128);
}

NP_KERNEL(32) uneven(bool flaw) {
  np_shared<uint4> room = np_shared_as<uint4>(np_shared_at<float>(0) + (flaw ? 2 : 4));
  room[threadIdx.x] = make_uint4(1, 2, 3, 4);
}
NP_KERNEL(32) uneven_matrix(bool flaw) {
  np_shared<np_bf16> room = np_shared_at<np_bf16>(0);
  for (int i = np_lane(); i < 32 * 8 + 8; i += 32) room[i] = 0;
  np_warp_sync();
  uint32_t r[4];
  np_ldmatrix4(r, room + 8 * np_lane() + (flaw ? 4 : 8));
}
static void test_alignment(void **) {
  expect("which is not a multiple of 16", uneven, 32, 1024);
  expect("which is not a multiple of 16", uneven_matrix, 32, 1024);
}

NP_KERNEL(64) unwritten(bool flaw, float *out) {
  np_shared<float> room = np_shared_at<float>(0);
  if (!flaw || threadIdx.x != 17) room[threadIdx.x] = 1.0f;
  np_block_sync();
  out[threadIdx.x] = room[63 - threadIdx.x];
}
static void test_unwritten(void **) {
  float out[64];
  expect("thread 46: shared memory at offset 68 is read, and nobody has written there", unwritten, 64, 256, out);
}

/* ---- races ---- */

NP_KERNEL(64) read_early(bool flaw, float *out) { /* another warp's value */
  np_shared<float> room = np_shared_at<float>(0);
  room[threadIdx.x] = 1.0f;
  room[64 + threadIdx.x] = 1.0f;
  np_block_sync();
  room[threadIdx.x] = 2.0f;
  if (flaw) np_warp_sync();
  else np_block_sync();
  out[threadIdx.x] = room[63 - threadIdx.x];
}
NP_KERNEL(32) write_early(bool flaw, float *out) { /* over what other lanes have read */
  np_shared<float> room = np_shared_at<float>(0);
  room[threadIdx.x] = 1.0f;
  np_warp_sync();
  float sum = 0.0f;
  for (int i = 0; i < 32; i++) sum += room[i];
  if (flaw) np_shuffle(1, 0);
  else np_warp_sync();
  room[threadIdx.x] = sum;
  out[threadIdx.x] = sum;
}
NP_KERNEL(64) write_both(bool flaw, float *) {
  np_shared<float> room = np_shared_at<float>(0);
  room[flaw ? 0 : threadIdx.x] = 1.0f;
}
NP_KERNEL(32) within_warp(bool flaw, float *out) {
  np_shared<float> room = np_shared_at<float>(0);
  room[threadIdx.x] = 1.0f;
  if (flaw) np_shuffle(1, 0); /* makes lanes meet, and orders no memory */
  else np_warp_sync();
  out[threadIdx.x] = room[31 - threadIdx.x];
}
NP_KERNEL(32) own_row(bool flaw, float *) { /* ldmatrix hands a lane's row to the others */
  np_shared<np_bf16> room = np_shared_at<np_bf16>(0);
  for (int i = 0; i < 8; i++) room[8 * np_lane() + i] = 1;
  if (!flaw) np_warp_sync();
  uint32_t r[4];
  np_ldmatrix4(r, room + 8 * np_lane());
}
NP_KERNEL(128) halves(bool flaw, float *out) { /* named barriers order those who take part */
  np_shared<float> room = np_shared_at<float>(0);
  int half = threadIdx.x / 64, i = threadIdx.x % 64;
  room[threadIdx.x] = 0.0f;
  np_block_sync();
  room[threadIdx.x] = 1.0f;
  np_named_sync(1 + half, 64);
  out[threadIdx.x] = room[(flaw ? 1 - half : half) * 64 + 63 - i];
}
static void test_races(void **) {
  float out[128];
  expect("with no barrier since thread", read_early, 64, 512, out);
  expect("is written with no barrier since thread", write_early, 32, 128, out);
  expect("race: shared memory at offset 0 is written with no barrier since thread", write_both, 64, 256, out);
  expect("is read with no barrier since thread", within_warp, 32, 128, out);
  expect("is read with no barrier since thread", own_row, 32, 512, out);
  expect("with no barrier since thread", halves, 128, 512, out);
}

/* ---- barriers and warp operations ---- */

NP_KERNEL(64) left_early(bool flaw) {
  if (flaw && threadIdx.x >= 32) return;
  np_block_sync();
}
NP_KERNEL(64) different_barriers(bool flaw) {
  if (np_warp() == 0) np_named_sync(1, 64);
  else np_named_sync(flaw ? 2 : 1, 64);
}
NP_KERNEL(64) different_counts(bool flaw) { np_named_sync(1, flaw && np_warp() == 0 ? 96 : 64); }
NP_KERNEL(64) half_a_warp(bool flaw) {
  if (!flaw || np_lane() < 16) np_block_sync();
}
NP_KERNEL(32) few_lanes(bool flaw) {
  if (!flaw || np_lane() != 5) np_warp_sum(1.0f);
}
NP_KERNEL(32) different_operations(bool flaw) {
  if (flaw && np_lane() == 5) np_warp_sync();
  else np_shuffle(1, 0);
}
static void test_collectives(void **) {
  expect("block (0, 0, 0): no thread can go on: threads 0-31 wait at np_block_sync, threads 32-63 left", left_early, 64,
         0);
  expect("threads 0-31 wait at np_named_sync 1, threads 32-63 wait at np_named_sync 2", different_barriers, 64, 0);
  expect("np_named_sync 1 of ", different_counts, 64, 0);
  expect("threads 0-15 wait at np_block_sync, threads 16-31 left", half_a_warp, 64, 0);
  expect("threads 0-4 wait at np_shuffle_xor, thread 5 left, threads 6-31 wait at np_shuffle_xor", few_lanes, 32, 0);
  expect("other threads of its warp wait at np_", different_operations, 32, 0);
}

/* ---- copies ---- */

NP_KERNEL(64) no_wait(bool flaw, const float *in, float *out) {
  np_shared<float> room = np_shared_at<float>(0);
  np_copy_async(room + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
  np_copy_commit();
  if (!flaw) np_copy_wait<0>();
  out[threadIdx.x] = room[4 * threadIdx.x];
}
NP_KERNEL(64) no_commit(bool flaw, const float *in, float *out) {
  np_shared<float> room = np_shared_at<float>(0);
  np_copy_async(room + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
  if (!flaw) np_copy_commit();
  np_copy_wait<0>();
  out[threadIdx.x] = room[4 * threadIdx.x];
}
NP_KERNEL(64) newest_group(bool flaw, const float *in, float *out) {
  np_shared<float> room = np_shared_at<float>(0) + 4 * threadIdx.x;
  for (int i = 0; i < 2; i++) {
    np_copy_async(room + 256 * i, in + 4 * threadIdx.x, true);
    np_copy_commit();
  }
  np_copy_wait<1>();
  out[threadIdx.x] = room[flaw ? 256 : 0];
}
NP_KERNEL(64) no_barrier(bool flaw, const float *in, float *out) {
  np_shared<float> room = np_shared_at<float>(0);
  np_copy_async(room + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
  np_copy_commit();
  np_block_sync();
  np_copy_wait<0>(); /* for one's own alone */
  if (!flaw) np_block_sync();
  out[threadIdx.x] = room[4 * (63 - threadIdx.x)];
}
NP_KERNEL(64) copy_over_reads(bool flaw, const float *in, float *out) {
  np_shared<float> room = np_shared_at<float>(0);
  room[threadIdx.x] = 1.0f;
  np_block_sync();
  out[threadIdx.x] = room[63 - threadIdx.x];
  if (!flaw) np_block_sync();
  if (threadIdx.x < 16) np_copy_async(room + 4 * threadIdx.x, in, true);
}
NP_KERNEL(32) uneven_source(bool flaw, const float *in, float *) {
  np_copy_async(np_shared_at<float>(4 * 4 * threadIdx.x), in + (flaw ? 1 : 4), true);
}
static void test_copies(void **) {
  alignas(16) float in[256] = {}, out[64];
  expect("is read while a copy of thread", no_wait, 64, 2048, static_cast<const float *>(in), out);
  expect("is read while a copy of thread", no_commit, 64, 2048, static_cast<const float *>(in), out);
  expect("is read while a copy of thread", newest_group, 64, 2048, static_cast<const float *>(in), out);
  expect("is read while a copy of thread", no_barrier, 64, 1024, static_cast<const float *>(in), out);
  expect("is written with no barrier since thread", copy_over_reads, 64, 256, static_cast<const float *>(in), out);
  expect("is not a multiple of 16", uneven_source, 32, 512, static_cast<const float *>(in), out);
}

/* ---- launches that a GPU refuses ---- */

NP_KERNEL(32) nothing() {}
static void test_launch(void **) {
  assert_int_equal(np_launch(&GPU, "nothing", nothing, dim3(1), 48, 0), NP_ERR_LIBRARY);
  assert_int_equal(np_launch(&GPU, "nothing", nothing, dim3(1), 1056, 0), NP_ERR_LIBRARY);
  assert_int_equal(np_launch(&GPU, "nothing", nothing, dim3(1), 32, GPU.shared_limit + 1), NP_ERR_LIBRARY);
  assert_int_equal(np_launch(&GPU, "nothing", nothing, dim3(0), 32, 0), NP_OK);
  assert_int_equal(np_launch(&GPU, "nothing", nothing, dim3(3, 2, 2), 1024, GPU.shared_limit), NP_OK);
}

int main() {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_outside), cmocka_unit_test(test_alignment),   cmocka_unit_test(test_unwritten),
      cmocka_unit_test(test_races),   cmocka_unit_test(test_collectives), cmocka_unit_test(test_copies),
      cmocka_unit_test(test_launch),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
