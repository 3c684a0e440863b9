/* What the emulation's two sources, hopper_copies.cpp and hopper_products.cpp, share. */
#ifndef NP_SIMT_HOPPER_ENGINES_H
#define NP_SIMT_HOPPER_ENGINES_H

#include "kernels/hopper.cuh"

namespace simt {

/* Of a block that is over, or was given up. */
void forget_products();
/* The running thread reads by wgmma, aligned to two bytes. */
void check_engine_read(const void *p, size_t bytes);

} // namespace simt

#endif
