/* Each primitive of device.cuh on the emulated GPU against its definition. */
#include "device.cuh"

#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdio>

extern "C" {
#include <cmocka.h>
}

static const np_gpu GPU = {nullptr, 0, 4, 9, 0, 200 * 1024, "emulated"};
#define OK(expr)                                                                                                       \
  do {                                                                                                                 \
    if ((expr) != NP_OK) fail_msg("%s", np_error_message());                                                           \
  } while (0)

/* Values of which all products and sums are exact in bf16 and float32. */
static float small(int i) { return static_cast<float>(i * 37 % 19 - 9) * 0.125f; }

/* ---- threads and warps ---- */

NP_KERNEL(96) names(int *out) {
  int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  int *mine = out + 4 * (block * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x));
  mine[0] = static_cast<int>(gridDim.x * 100 + gridDim.y * 10 + gridDim.z);
  mine[1] = np_warp();
  mine[2] = np_lane();
  mine[3] = block;
}
static void test_names(void **) {
  int out[24][96][4];
  OK(np_launch(&GPU, "names", names, dim3(2, 3, 4), 96, 0, &out[0][0][0]));
  for (int b = 0; b < 24; b++)
    for (int t = 0; t < 96; t++) {
      assert_int_equal(out[b][t][0], 234);
      assert_int_equal(out[b][t][1], t / 32);
      assert_int_equal(out[b][t][2], t % 32);
      assert_int_equal(out[b][t][3], b);
    }
}

NP_KERNEL(64) shuffles(const double *in, double *out) {
  int i = static_cast<int>(threadIdx.x);
  out[i] = np_shuffle(in[i], 5);
  out[64 + i] = np_shuffle(static_cast<float>(in[i]), 31 - np_lane());
  out[128 + i] = np_shuffle_xor(static_cast<int>(in[i]), 9);
  out[192 + i] = np_warp_sum(in[i]);
  out[256 + i] = np_warp_max(static_cast<float>(in[i]));
  out[320 + i] = np_block_sum(in[i], 64, np_shared_at<double>(0));
}
static void test_shuffles(void **) {
  double in[64], out[6][64], sum[2] = {0, 0}, most[2] = {-1e9, -1e9};
  for (int i = 0; i < 64; i++) {
    in[i] = i * 11 % 17 - 5 + 100 * (i / 32);
    sum[i / 32] += in[i];
    most[i / 32] = in[i] > most[i / 32] ? in[i] : most[i / 32];
  }
  OK(np_launch(&GPU, "shuffles", shuffles, dim3(1), 64, 16, static_cast<const double *>(in), &out[0][0]));
  for (int i = 0; i < 64; i++) {
    int first = i / 32 * 32;
    assert_true(out[0][i] == in[first + 5]);
    assert_true(out[1][i] == in[first + 31 - i % 32]);
    assert_true(out[2][i] == in[i ^ 9]);
    assert_true(out[3][i] == sum[i / 32]);
    assert_true(out[4][i] == most[i / 32]);
    assert_true(out[5][i] == sum[0] + sum[1]);
  }
}

/* ---- numbers ---- */

NP_KERNEL(32) bytes(const uint32_t *in, float *number, uint32_t *out) {
  int i = np_lane();
  for (int k = 0; k < 4; k++) number[4 * i + k] = np_byte(in[i], k, NP_BYTE_ZERO);
  out[i] = np_dot4(in[i], in[i ^ 1], 7);
  out[32 + i] = np_warp_count(in[i] & 0xffff);
  out[64 + i] = static_cast<uint32_t>(np_ones(in[i]));
}
static void test_bytes(void **) {
  uint32_t in[32], out[96], sum = 0;
  float number[128];
  for (uint32_t i = 0; i < 32; i++) sum += (in[i] = i * 0x9e3779b9u) & 0xffff;
  OK(np_launch(&GPU, "bytes", bytes, dim3(1), 32, 0, static_cast<const uint32_t *>(in), &number[0], &out[0]));
  for (int i = 0; i < 32; i++) {
    uint32_t dot = 7, ones = 0;
    for (int k = 0; k < 4; k++) {
      const uint32_t byte = in[i] >> 8 * k & 0xff;
      assert_true(number[4 * i + k] == static_cast<float>(32768 + byte));
      dot += byte * (in[i ^ 1] >> 8 * k & 0xff);
    }
    for (int k = 0; k < 32; k++) ones += in[i] >> k & 1;
    assert_int_equal(out[i], dot);
    assert_int_equal(out[32 + i], sum);
    assert_int_equal(out[64 + i], ones);
  }
}

NP_KERNEL(32) numbers(const float *in, float *out, uint32_t *pair) {
  int i = np_lane();
  out[i] = np_widen(np_narrow(in[i]));
  out[32 + i] = np_exp2(in[i]);
  pair[i] = np_narrow2(in[i], in[i ^ 1]);
}
static void test_numbers(void **) {
  float in[32], out[64];
  uint32_t pair[32];
  for (int i = 0; i < 32; i++) in[i] = small(i) * 3.3f;
  in[0] = -INFINITY;
  in[1] = INFINITY;
  in[2] = NAN;
  in[3] = -126.5f;     /* 2^x is below the normal numbers: 0 */
  in[4] = 1.00390625f; /* half way: to even */
  OK(np_launch(&GPU, "numbers", numbers, dim3(1), 32, 0, static_cast<const float *>(in), &out[0], &pair[0]));
  for (int i = 0; i < 32; i++) {
    if (i == 2) continue;
    assert_true(out[i] == np_bf16_to_f32(np_bf16_from_f32(in[i])));
    if (i != 1 && i != 3) assert_true(fabs(out[32 + i] - exp2(in[i])) <= 2e-7 * exp2(in[i]));
    if (i != 3)
      assert_int_equal(pair[i], np_bf16_from_f32(in[i]) | static_cast<uint32_t>(np_bf16_from_f32(in[i ^ 1])) << 16);
  }
  assert_true(out[4] == 1.0f && out[32] == 0.0f && out[33] == INFINITY && out[35] == 0.0f);
  assert_true(out[2] != out[2] && out[34] != out[34]);
}

/* ---- mma: the fragments as the PTX manual draws them ---- */

NP_KERNEL(32) product(const np_bf16 *a, const np_bf16 *b, float *d) { /* a [16, 16], b [16, 8], d [16, 8] */
  int g = np_lane() / 4, t = np_lane() % 4;
  uint32_t fa[4], fb[2];
  float fd[4];
  for (int i = 0; i < 4; i++) {
    const np_bf16 *from = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    fa[i] = from[0] | static_cast<uint32_t>(from[1]) << 16;
    fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; i++) {
    const np_bf16 *from = b + (2 * t + i * 8) * 8 + g;
    fb[i] = from[0] | static_cast<uint32_t>(from[8]) << 16;
  }
  np_mma_bf16(fd, fa, fb);
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}
static void test_product(void **) {
  np_bf16 a[16][16], b[16][8];
  float d[16][8], before[16][8];
  for (int i = 0; i < 16; i++) {
    for (int j = 0; j < 16; j++) a[i][j] = np_bf16_from_f32(small(i * 16 + j));
    for (int j = 0; j < 8; j++) {
      b[i][j] = np_bf16_from_f32(small(i * 5 + j * 3 + 2));
      d[i][j] = before[i][j] = small(i + 20 * j);
    }
  }
  OK(np_launch(&GPU, "product", product, dim3(1), 32, 0, static_cast<const np_bf16 *>(a[0]),
               static_cast<const np_bf16 *>(b[0]), d[0]));
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      double want = before[i][j];
      for (int k = 0; k < 16; k++)
        want += static_cast<double>(np_bf16_to_f32(a[i][k])) * static_cast<double>(np_bf16_to_f32(b[k][j]));
      assert_true(d[i][j] == want);
    }
}

/* The same of tf32: a [16, 8], b [8, 8], d [16, 8]. */
NP_KERNEL(32) product_tf32(const float *a, const float *b, float *d) {
  int g = np_lane() / 4, t = np_lane() % 4;
  float fa[4], fb[2], fd[4];
  for (int i = 0; i < 4; i++) {
    fa[i] = a[(g + i % 2 * 8) * 8 + t + i / 2 * 4];
    fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; i++) fb[i] = b[(t + i * 4) * 8 + g];
  np_mma_tf32(fd, fa, fb);
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}
static float with_low(float value, uint32_t low) { /* others in the 13 bits that no tensor core reads */
  uint32_t word;
  memcpy(&word, &value, sizeof word);
  word |= low;
  memcpy(&value, &word, sizeof value);
  return value;
}
static void test_product_tf32(void **) {
  float a[16][8], b[8][8], d[16][8], before[16][8];
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      a[i][j] = small(i * 16 + j);
      b[i / 2][j] = small(i / 2 * 5 + j * 3 + 2);
      d[i][j] = before[i][j] = small(i + 20 * j);
    }
  float noisy_a[16][8], noisy_b[8][8];
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      noisy_a[i][j] = with_low(a[i][j], a[i][j] == 0.0f ? 0 : 0x1fff);
      noisy_b[i / 2][j] = with_low(b[i / 2][j], b[i / 2][j] == 0.0f ? 0 : 0x1555);
    }
  OK(np_launch(&GPU, "product_tf32", product_tf32, dim3(1), 32, 0, static_cast<const float *>(noisy_a[0]),
               static_cast<const float *>(noisy_b[0]), d[0]));
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      double want = static_cast<double>(before[i][j]);
      for (int k = 0; k < 8; k++) want += static_cast<double>(a[i][k]) * static_cast<double>(b[k][j]);
      assert_true(static_cast<double>(d[i][j]) == want);
    }
}
/* sum + left·1, where row 0 of a is left, 0, …, and all others are NaN. */
static float product_of(float left, float sum) {
  float a[16][8], b[8][8] = {}, d[16][8];
  for (int i = 0; i < 16 * 8; i++) a[i / 8][i % 8] = i == 0 ? left : i < 8 ? 0.0f : NAN;
  for (int i = 0; i < 16 * 8; i++) d[i / 8][i % 8] = sum;
  b[0][0] = 1.0f;
  OK(np_launch(&GPU, "product_tf32", product_tf32, dim3(1), 32, 0, static_cast<const float *>(a[0]),
               static_cast<const float *>(b[0]), d[0]));
  for (int i = 1; i < 16; i++) assert_true(d[i][0] != d[i][0]);
  return d[0][0];
}
static void test_cut_sums(void **) { /* nothing is rounded, up or down */
  assert_true(product_of(0x1.8p-24f, 1.0f) == 1.0f);
  assert_true(product_of(-0x1p-25f, 1.0f) == 1.0f);
  assert_true(product_of(-0x1.8p-23f, 1.0f) == 1.0f - 0x1p-23f);
  assert_true(product_of(1.75f, -0x1p-24f) == 1.75f);
  assert_true(product_of(0x1p-149f, 0.0f) == 0.0f && product_of(0x1p-136f, 0x1p-149f) == 0x1p-136f + 0x1p-149f);
  assert_true(product_of(INFINITY, 1.0f) == INFINITY && product_of(1.0f, -INFINITY) == -INFINITY);
}

NP_KERNEL(32) nearest_tf32(const float *in, float *out) { out[np_lane()] = np_tf32(in[np_lane()]); }
static void test_tf32(void **) {
  float in[32] = {0}, out[32];
  const float whole[][2] = {{1.0f, 1.0f},
                            {1.0f + 0x1p-11f, 1.0f + 0x1p-10f}, /* half way: away from zero */
                            {-1.0f - 0x1p-11f, -1.0f - 0x1p-10f},
                            {1.0f + 0x1.ffep-12f, 1.0f},
                            {0x1.fffp9f, 0x1p10f},
                            {0x1p-136f, 0x1p-136f},
                            {INFINITY, INFINITY},
                            {0x1.fffffep127f, INFINITY},
                            {-0.0f, -0.0f}};
  const int cases = sizeof whole / sizeof *whole;
  for (int i = 0; i < cases; i++) in[i] = whole[i][0];
  for (int i = cases; i < 31; i++) in[i] = small(i) * 3.3f;
  in[31] = NAN;
  OK(np_launch(&GPU, "nearest_tf32", nearest_tf32, dim3(1), 32, 0, static_cast<const float *>(in), &out[0]));
  for (int i = 0; i < cases; i++) assert_true(out[i] == whole[i][1]);
  for (int i = cases; i < 31; i++) assert_true(fabsf(in[i] - out[i]) <= 0x1p-11f * fabsf(in[i]));
  assert_true(in[31] - out[31] != in[31] - out[31]); /* what is left of a NaN is one */
}

NP_KERNEL(32) matrices(uint32_t *out) { /* element (y, x) of matrix m is 64 m + 8 y + x */
  const np_shared<np_bf16> room = np_shared_at<np_bf16>(64);
  for (int i = 0; i < 8; i++) room[8 * np_lane() + i] = static_cast<np_bf16>(8 * np_lane() + i);
  np_warp_sync();
  uint32_t r[4], turned[4];
  np_ldmatrix4(r, room + 8 * np_lane());
  np_ldmatrix4_turned(turned, room + 8 * np_lane());
  for (int m = 0; m < 4; m++) {
    out[np_lane() * 4 + m] = r[m];
    out[128 + np_lane() * 4 + m] = turned[m];
  }
}
static void test_matrices(void **) {
  uint32_t out[2][32][4];
  OK(np_launch(&GPU, "matrices", matrices, dim3(1), 32, 64 + 512, &out[0][0][0]));
  for (uint32_t i = 0; i < 32; i++)
    for (uint32_t m = 0; m < 4; m++) {
      uint32_t y = i / 4, x = 2 * (i % 4);
      assert_int_equal(out[0][i][m], (64 * m + 8 * y + x) | (64 * m + 8 * y + x + 1) << 16);
      assert_int_equal(out[1][i][m], (64 * m + 8 * x + y) | (64 * m + 8 * (x + 1) + y) << 16);
    }
}

/* ---- copies: three groups under way, an element that is not valid, a stage by halves ---- */

NP_KERNEL(32) pipeline(const float *in, float *out) { /* in, out [8, 32, 4] */
  const np_shared<float> room = np_shared_at<float>(0);
  const int i = np_lane() * 4;
  for (int stage = 0; stage < 8 + 2; stage++) {
    if (stage == 3) {
      for (int half = 0; half < 4; half += 2)
        np_copy_async<8>(room + i + half, in + stage * 128 + i + half, half == 0 || np_lane() != 9);
    } else if (stage < 8) {
      np_copy_async(room + stage % 3 * 128 + i, in + stage * 128 + i, stage != 5 || np_lane() != 7);
    }
    np_copy_commit();
    if (stage < 2) continue;
    np_copy_wait<2>();
    np_warp_sync();
    const np_shared<const float4> from = np_shared_as<const float4>(room + (stage - 2) % 3 * 128);
    const float4 value = from[31 - np_lane()];
    *reinterpret_cast<float4 *>(out + (stage - 2) * 128 + 124 - i) = value;
    np_warp_sync();
  }
}
static void test_copies(void **) {
  alignas(16) float in[8][128], out[8][128];
  for (int i = 0; i < 8 * 128; i++) in[i / 128][i % 128] = static_cast<float>(i);
  OK(np_launch(&GPU, "pipeline", pipeline, dim3(1), 32, 3 * 512, static_cast<const float *>(in[0]), out[0]));
  for (int s = 0; s < 8; s++)
    for (int i = 0; i < 128; i++) {
      const bool zero = (s == 5 && i / 4 == 7) || (s == 3 && i / 2 == 19);
      assert_true(out[s][i] == (zero ? 0.0f : in[s][i]));
    }
}

/* ---- shared pointers behave like pointers ---- */

NP_KERNEL(32) pointers(float *out) {
  const np_shared<float> room = np_shared_at<float>(0);
  if (np_lane() == 0) {
    room[0] = 1;
    *(room + 1) = 2.0;
    room[2] = room[1];
    room[2] += 4.0f;
    room[2] *= room[1];
    np_shared_as<uint2>(room + 4)[0] = make_uint2(0x3f800000u, 0x40000000u);
    np_shared<const float> p = room + 4;
    np_shared<const float> end = p + 2;
    float sum = 0.0f;
    for (; p != end; p += 1) sum += *p;
    out[0] = room[0] + room[1] + room[2];
    out[1] = sum;
    out[2] = static_cast<float>(end - (room + 1));
    out[3] = static_cast<float>(np_shared_address(room + 3));
  }
}
static void test_pointers(void **) {
  float out[4];
  OK(np_launch(&GPU, "pointers", pointers, dim3(1), 32, 64, &out[0]));
  assert_true(out[0] == 15.0f && out[1] == 3.0f && out[2] == 5.0f && out[3] == 12.0f);
}

int main() {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),    cmocka_unit_test(test_shuffles), cmocka_unit_test(test_numbers),
      cmocka_unit_test(test_product),  cmocka_unit_test(test_matrices), cmocka_unit_test(test_copies),
      cmocka_unit_test(test_pointers), cmocka_unit_test(test_bytes),    cmocka_unit_test(test_product_tf32),
      cmocka_unit_test(test_cut_sums), cmocka_unit_test(test_tf32),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
