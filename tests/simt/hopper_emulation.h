/* kernels/hopper.cuh on the host: the same names, and the same eyes as simt.h has.
 *
 *   mbarrier   arrivals, bytes and phases are counted; a wait hands on what those knew who arrived, no more.
 *   TMA        a panel is under way from the call until nobody can run otherwise; until then its place may not be
 *              touched. Swizzled and cut at the image's last token as the hardware does it.
 *   wgmma      runs at np_wgmma_wait. From the call on its sums hold a NaN, and must still hold it when it runs; its
 * a's must be what they were. It reads shared memory through its descriptors, bit by bit as PTX says, when it is called
 * and again when it runs: what was not there yet, or is not there any more, is found. fences     of registers before
 * wgmma; of what threads wrote before wgmma reads it (np_async_fence). Descriptors: the 128-byte swizzle alone,
 * patterns that start at multiples of 1024 bytes. */
#ifndef NP_SIMT_HOPPER_EMULATION_H
#define NP_SIMT_HOPPER_EMULATION_H

#define NP_HOPPER_CODE 1

/* Of a tensor: all that np_tensor_load needs. */
typedef struct np_tensor_map {
  const unsigned char *base;
  int64_t sizes[4], strides[4]; /* column, slice, token, image; strides in bytes */
} np_tensor_map;
#define NP_MAP const np_tensor_map

namespace simt {

/* What a thread brings to a product. */
struct factors {
  float *d;
  const uint32_t *a; /* NULL: from shared memory, by a_matrix */
  uint64_t a_matrix, b_matrix;
  bool accumulate;
};
void product(factors &mine, int columns, bool turned_a, bool turned_b);
void products_fence();
void products_commit();
void products_wait(int left);

void mbarrier_init(unsigned char *barrier, int count);
void mbarrier_announce();
void mbarrier_arrive(unsigned char *barrier, int bytes);
void mbarrier_wait(unsigned char *barrier, int parity);
void async_fence();
void tensor_load(unsigned char *to, const np_tensor_map *map, const int (&from)[4], unsigned char *barrier);
void registers(int count);

} // namespace simt

NP_DEVICE void np_barrier_init(np_shared<uint64_t> barrier, int count) { simt::mbarrier_init(barrier.raw(), count); }
NP_DEVICE void np_barrier_init_done() { simt::mbarrier_announce(); }
NP_DEVICE void np_barrier_arrive(np_shared<uint64_t> barrier) { simt::mbarrier_arrive(barrier.raw(), 0); }
NP_DEVICE void np_barrier_expect(np_shared<uint64_t> barrier, int bytes) {
  simt::mbarrier_arrive(barrier.raw(), bytes);
}
NP_DEVICE void np_barrier_wait(np_shared<uint64_t> barrier, int parity) { simt::mbarrier_wait(barrier.raw(), parity); }
NP_DEVICE void np_async_fence() { simt::async_fence(); }
NP_DEVICE void np_tensor_load(np_shared<np_bf16> to, const np_tensor_map *map, int column, int slice, int token,
                              int image, np_shared<uint64_t> barrier) {
  simt::tensor_load(to.raw(), map, {column, slice, token, image}, barrier.raw());
}

NP_DEVICE void np_wgmma_fence() { simt::products_fence(); }
NP_DEVICE void np_wgmma_commit() { simt::products_commit(); }
template <int n> NP_DEVICE void np_wgmma_hold(float (&)[n]) {}
template <int n> NP_DEVICE void np_wgmma_hold(uint32_t (&)[n][4]) {}
template <int n> NP_DEVICE void np_wgmma_forget(float (&d)[n]) {
  for (float &value : d) value = NAN;
}
NP_DEVICE int np_here(int value) { return value; }
template <int left> NP_DEVICE void np_wgmma_wait() { simt::products_wait(left); }

template <bool turned_b, int n>
NP_DEVICE void np_wgmma(float (&d)[n], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  static_assert(n == 32 || n == 64, "64 or 128 columns");
  simt::factors mine = {d, a, 0, b, accumulate};
  simt::product(mine, 2 * n, false, turned_b);
}
template <bool turned_a, bool turned_b>
NP_DEVICE void np_wgmma(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  simt::factors mine = {d, nullptr, a, b, accumulate};
  simt::product(mine, 64, turned_a, turned_b);
}

template <int count> NP_DEVICE void np_registers_give() {
  static_assert(count >= 24 && count <= 256 && count % 8 == 0, "setmaxnreg");
  simt::registers(count);
}
template <int count> NP_DEVICE void np_registers_take() {
  static_assert(count >= 24 && count <= 256 && count % 8 == 0, "setmaxnreg");
  simt::registers(count);
}

static inline np_status np_tensor_map_encode(np_tensor_map *map, const np_tensor_shape *shape) {
  int64_t slice = shape->width * 2, token = slice * shape->slices;
  if (reinterpret_cast<uintptr_t>(shape->base) % 16 != 0 || slice % 16 != 0)
    return np_error(NP_ERR_LIBRARY, "a tensor map of rows of %d at %p: not 16-byte aligned", shape->width, shape->base);
  *map = {static_cast<const unsigned char *>(shape->base),
          {shape->width, shape->slices, shape->tokens, shape->images},
          {2, slice, token, token * shape->tokens}};
  return NP_OK;
}

#endif
