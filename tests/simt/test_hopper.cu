/* The emulation of Hopper's instructions: that it computes what PTX says, in layouts written down here once more by
 * hand, and that it finds planted mistakes (flaw true) while the same kernel repaired passes. */
#include "kernels/hopper.cuh"

#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <vector>

extern "C" {
#include <cmocka.h>
}

static const np_gpu GPU = {nullptr, 0, 4, 9, 0, 200 * 1024, "emulated"};

enum { WIDTH = 128, TILE = 64 * WIDTH, BARRIERS = 4 * TILE * 2, BYTES = BARRIERS + 8 * 8 };

/* A tensor [images, tokens, 2, 128] of small integers, whose products and sums are exact. */
typedef struct tensor {
  std::vector<np_bf16> values;
  int images, tokens;
  np_tensor_map map;
} tensor;

static void make(tensor *t, int images, int tokens) {
  t->images = images;
  t->tokens = tokens;
  t->values.resize(static_cast<size_t>(images * tokens * 2 * WIDTH));
  uint32_t random = 1;
  for (np_bf16 &value : t->values) {
    random = random * 1664525u + 1013904223u;
    value = np_bf16_from_f32(static_cast<float>(static_cast<int>(random >> 24) % 17 - 8));
  }
  np_tensor_shape shape = {t->values.data(), images, tokens, 2, WIDTH};
  assert_int_equal(np_tensor_map_encode(&t->map, &shape), NP_OK);
}
static float at(const tensor *t, int image, int token, int slice, int column) {
  if (token >= t->tokens) return 0.0f;
  return np_bf16_to_f32(t->values[static_cast<size_t>(((image * t->tokens + token) * 2 + slice) * WIDTH + column)]);
}

NP_DEVICE void start(np_shared<uint64_t> barriers, int count, int arrivals) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < count; i++) np_barrier_init(barriers + i, arrivals);
    np_barrier_init_done();
  }
  np_block_sync();
}

/* ---- TMA ---- */

/* Bytes of the panels in the order in which they lie. */
NP_KERNEL(128) copied(NP_MAP map, np_bf16 *out) {
  np_shared<np_bf16> tile = np_shared_at<np_bf16>(0);
  np_shared<uint64_t> barrier = np_shared_at<uint64_t>(BARRIERS);
  start(barrier, 1, 1);
  if (threadIdx.x == 0) {
    np_barrier_expect(barrier, TILE * 2);
    np_tile_load<WIDTH>(tile, &map, 1, 40, 1, barrier);
  }
  np_barrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < TILE; i += 128) out[i] = tile[i];
}

static void test_tensor_load(void **) {
  tensor t;
  make(&t, 3, 70); /* rows 40 … 69 of image 1, then zeros, not image 2 */
  std::vector<np_bf16> out(TILE);
  if (np_launch(&GPU, "copied", copied, dim3(1), 128, BYTES, t.map, out.data()) != NP_OK)
    fail_msg("%s", np_error_message());
  for (int panel = 0; panel < 2; panel++)
    for (int row = 0; row < 64; row++)
      for (int column = 0; column < 64; column++) {
        int byte = row * 128 + column * 2;
        byte ^= (byte >> 7 & 7) << 4;
        float got = np_bf16_to_f32(out[static_cast<size_t>(panel * 4096 + byte / 2)]);
        if (!(got == at(&t, 1, 40 + row, 1, panel * 64 + column)))
          fail_msg("panel %d (%d, %d): %g", panel, row, column, static_cast<double>(got));
      }
}

/* ---- wgmma ---- */

enum form { ALONG, ALONG_REGISTERS, DOWN_REGISTERS, DOWN };

template <int n> NP_DEVICE void put(const float (&d)[n], float *out) {
  int row = np_warp() * 16 + np_lane() / 4;
  for (int i = 0; i < n; i++) out[(row + i / 2 % 2 * 8) * 2 * n + i / 4 * 8 + np_lane() % 4 * 2 + i % 2] = d[i];
}

NP_KERNEL(128) multiplied(int form, NP_MAP map, float *out) {
  np_shared<np_bf16> a = np_shared_at<np_bf16>(0), b = np_shared_at<np_bf16>(TILE * 2);
  np_shared<uint64_t> barrier = np_shared_at<uint64_t>(BARRIERS);
  start(barrier, 1, 1);
  if (threadIdx.x == 0) {
    np_barrier_expect(barrier, 2 * TILE * 2);
    np_tile_load<WIDTH>(a, &map, 0, 0, 0, barrier);
    np_tile_load<WIDTH>(b, &map, 1, 0, 0, barrier);
  }
  np_barrier_wait(barrier, 0);
  uint32_t rows[8][4];
  for (int k = 0; k < 8; k++)
    np_ldmatrix4(rows[k], a + np_chunk(np_warp() * 16 + np_lane() % 16, 2 * k + np_lane() / 16));
  float d[32], wide[64];
  uint64_t left = np_matrix(a), right = np_matrix(b);
  np_wgmma_fence();
  for (int k = 0; k < 8; k++) {
    uint64_t along = np_matrix_at(right, np_along_row(k)), down = np_matrix_at(right, np_down_rows(k));
    if (form == ALONG) np_wgmma<false, false>(d, np_matrix_at(left, np_along_row(k)), along, k > 0);
    if (form == ALONG_REGISTERS) np_wgmma<false>(d, rows[k], along, k > 0);
    if (form == DOWN_REGISTERS && k < 4) np_wgmma<true>(wide, rows[k], down, k > 0);
    if (form == DOWN && k < 4)
      np_wgmma<true, true>(d, np_matrix_at(left, np_down_rows(k)), np_matrix_at(down, NP_PANEL_BYTES), k > 0);
  }
  np_wgmma_commit();
  np_wgmma_wait<0>();
  if (form == DOWN_REGISTERS) put(wide, out);
  else put(d, out);
}

static void test_products(void **) {
  tensor t;
  make(&t, 1, 64);
  for (int form = ALONG; form <= DOWN; form++) {
    int columns = form == DOWN_REGISTERS ? 128 : 64;
    std::vector<float> out(static_cast<size_t>(64 * columns));
    if (np_launch(&GPU, "multiplied", multiplied, dim3(1), 128, BYTES, form, t.map, out.data()) != NP_OK)
      fail_msg("%s", np_error_message());
    for (int i = 0; i < 64; i++)
      for (int j = 0; j < columns; j++) {
        float want = 0.0f;
        for (int k = 0; k < 128; k++) {
          if (form == ALONG || form == ALONG_REGISTERS) want += at(&t, 0, i, 0, k) * at(&t, 0, j, 1, k);
          if (form == DOWN_REGISTERS && k < 64) want += at(&t, 0, i, 0, k) * at(&t, 0, k, 1, j);
          if (form == DOWN && k < 64) want += at(&t, 0, k, 0, i) * at(&t, 0, k, 1, 64 + j);
        }
        if (!(out[static_cast<size_t>(i * columns + j)] == want)) fail_msg("form %d (%d, %d)", form, i, j);
      }
  }
}

/* ---- planted mistakes ---- */

typedef void (*planted)(bool, const np_tensor_map, float *);

/* `said` is part of the message that the flawed kernel fails with; NULL: it does not fail, its result is wrong. */
static void expect(const char *said, planted kernel) {
  tensor t;
  make(&t, 2, 200);
  std::vector<float> right(128 * 64, 0.0f), wrong(128 * 64, 0.0f);
  if (np_launch(&GPU, "repaired", kernel, dim3(1), 256, BYTES, false, t.map, right.data()) != NP_OK)
    fail_msg("repaired, and still: %s", np_error_message());
  np_status got = np_launch(&GPU, "planted", kernel, dim3(1), 256, BYTES, true, t.map, wrong.data());
  if (said == nullptr) {
    assert_int_equal(got, NP_OK);
    assert_memory_not_equal(right.data(), wrong.data(), right.size() * sizeof(float));
  } else {
    if (got == NP_OK) fail_msg("not found: %s", said);
    if (strstr(np_error_message(), said) == nullptr) fail_msg("%s\nexpected: %s", np_error_message(), said);
  }
}

/* Warpgroup 0 loads four tiles through a ring of two; warpgroup 1 adds their products a·aᵀ. Mistakes are picked by
 * type. */
enum mistake {
  NO_WAIT,       /* the consumer does not wait for the load */
  WRONG_PARITY,  /* it waits for the other phase */
  NO_RELEASE,    /* it does not give slots back */
  EARLY_RELEASE, /* it gives a slot back while wgmma reads it */
  NO_FREE_WAIT,  /* the producer does not wait for slots */
  TOO_FEW_BYTES, /* the producer expects half of the bytes */
  NO_INIT_FENCE, /* barriers are not announced */
  NO_FENCE,      /* wgmma without np_wgmma_fence */
  READ_EARLY,    /* sums are used before np_wgmma_wait */
  WRITE_EARLY,   /* sums are written before it */
  OTHER_MATRIX   /* threads of a warpgroup disagree */
};

template <mistake m> NP_KERNEL(256) pipeline(bool flaw, NP_MAP map, float *out) {
  np_shared<np_bf16> ring = np_shared_at<np_bf16>(0);
  np_shared<uint64_t> full = np_shared_at<uint64_t>(BARRIERS), empty = full + 2;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) {
      np_barrier_init(full + i, 1);
      np_barrier_init(empty + i, 4);
    }
    if (!(flaw && m == NO_INIT_FENCE)) np_barrier_init_done();
  }
  np_block_sync();
  if (threadIdx.x < 128) {
    for (int i = 0; i < 4 && threadIdx.x == 0; i++) {
      int slot = np_ring_slot<2>(i);
      if (!(flaw && m == NO_FREE_WAIT)) np_barrier_wait(empty + slot, 1 - np_ring_parity<2>(i));
      np_barrier_expect(full + slot, flaw && m == TOO_FEW_BYTES ? TILE : TILE * 2);
      np_tile_load<WIDTH>(ring + slot * TILE, &map, i % 2, 64 * (i / 2), 0, full + slot);
    }
    return;
  }
  float d[32];
  for (int i = 0; i < 4; i++) {
    int slot = np_ring_slot<2>(i), parity = np_ring_parity<2>(i);
    if (!(flaw && m == NO_WAIT)) np_barrier_wait(full + slot, flaw && m == WRONG_PARITY ? 1 - parity : parity);
    uint64_t matrix = np_matrix(ring + slot * TILE);
    uint64_t other = flaw && m == OTHER_MATRIX && threadIdx.x == 200 ? np_matrix_at(matrix, 32) : matrix;
    if (!(flaw && m == NO_FENCE)) np_wgmma_fence();
    for (int k = 0; k < 8; k++)
      np_wgmma<false, false>(d, np_matrix_at(matrix, np_along_row(k)), np_matrix_at(other, np_along_row(k)), i + k > 0);
    np_wgmma_commit();
    if (flaw && m == EARLY_RELEASE) np_barrier_release(empty + slot);
    if (flaw && m == READ_EARLY && i == 3) out[4096 + threadIdx.x] = d[0];
    if (flaw && m == WRITE_EARLY) d[5] = 0.0f;
    np_wgmma_wait<0>();
    if (!(flaw && (m == NO_RELEASE || m == EARLY_RELEASE))) np_barrier_release(empty + slot);
    if (!flaw && m == READ_EARLY && i == 3) out[4096 + threadIdx.x] = d[0];
  }
  int row = np_warp() % 4 * 16 + np_lane() / 4;
  for (int i = 0; i < 32; i++) out[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + np_lane() % 4 * 2 + i % 2] = d[i];
}

static void test_pipeline(void **) {
  expect("is read while a copy of thread 0 is on its way there", pipeline<NO_WAIT>);
  expect("is read while a copy of thread 0 is on its way there", pipeline<WRONG_PARITY>);
  expect("no thread can go on: thread 0 waits at np_barrier_wait", pipeline<NO_RELEASE>);
  expect("is written with no barrier since thread 128 read there", pipeline<EARLY_RELEASE>);
  expect("more than 1 arrivals in a phase", pipeline<NO_FREE_WAIT>);
  expect("is read while a copy of thread 0 is on its way there", pipeline<TOO_FEW_BYTES>);
  expect("np_barrier_init_done was not called", pipeline<NO_INIT_FENCE>);
  expect("with no np_wgmma_fence", pipeline<NO_FENCE>);
  expect(nullptr, pipeline<READ_EARLY>);
  expect("is written while wgmma is under way", pipeline<WRITE_EARLY>);
  expect("brings another matrix", pipeline<OTHER_MATRIX>);
}

/* A tile that threads write and wgmma reads. */
NP_KERNEL(256) written(bool flaw, NP_MAP, float *out) {
  np_shared<np_bf16> tile = np_shared_at<np_bf16>(0);
  start(np_shared_at<uint64_t>(BARRIERS), 1, 1);
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += 256) tile[i] = np_bf16_from_f32(static_cast<float>(i % 5));
  if (!flaw) np_async_fence();
  np_block_sync();
  if (threadIdx.x >= 128) return;
  float d[32];
  uint32_t a[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
  np_wgmma_fence();
  np_wgmma<true>(d, a, np_matrix(tile), false);
  np_wgmma_commit();
  np_wgmma_wait<0>();
  out[threadIdx.x] = d[0];
}

/* Registers a of a product are overwritten too early. */
NP_KERNEL(256) overwritten(bool flaw, NP_MAP map, float *out) {
  np_shared<np_bf16> tile = np_shared_at<np_bf16>(0);
  np_shared<uint64_t> barrier = np_shared_at<uint64_t>(BARRIERS);
  start(barrier, 1, 1);
  if (threadIdx.x == 128) {
    np_barrier_expect(barrier, NP_PANEL_BYTES);
    np_tensor_load(tile, &map, 0, 0, 0, 0, barrier);
  }
  if (threadIdx.x >= 128) return;
  np_barrier_wait(barrier, 0);
  float d[32];
  uint32_t a[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
  np_wgmma_fence();
  np_wgmma<true>(d, a, np_matrix(tile), false);
  np_wgmma_commit();
  if (flaw) a[1] = 0;
  np_wgmma_wait<0>();
  out[threadIdx.x] = d[0];
}

static void test_operands(void **) {
  expect("is read by wgmma with no np_async_fence since thread", written);
  expect("registers a of thread 0 of the warpgroup are written while wgmma is under way", overwritten);
}

int main() {
  const CMUnitTest tests[] = {cmocka_unit_test(test_tensor_load), cmocka_unit_test(test_products),
                              cmocka_unit_test(test_pipeline), cmocka_unit_test(test_operands)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
