/* What the emulator's own sources share and kernels do not need. */
#ifndef NP_SIMT_RUN_H
#define NP_SIMT_RUN_H

#include "shadow.h"

namespace simt {

/* scheduler.cpp */
thread *thread_of(uint32_t number);
warp *warp_of(int number);

/* memory.cpp: shared memory, its shadow, clocks. Room for a block, and a block's start. */
void take_memory(size_t bytes, uint32_t threads);
void start_memory();
/* The warp's threads, or all of some warps, have seen all that the others did. */
void order_warp(warp *home);
void order_warps(const int *warps, int count);

/* copies.cpp */
void start_copies();

} // namespace simt

#endif
