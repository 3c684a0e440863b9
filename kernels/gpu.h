/* What a launcher is told of the GPU it launches on. Plain C: launchers are C symbols. */
#ifndef NP_KERNELS_GPU_H
#define NP_KERNELS_GPU_H

#include <stddef.h>

typedef struct np_gpu {
  struct CUstream_st *stream; /* every kernel is queued here */
  int device;                 /* CUDA's number */
  int processors;             /* streaming multiprocessors */
  int major, minor;           /* compute capability */
  size_t shared_limit;        /* bytes of shared memory a block may opt in to */
  char name[64];
} np_gpu;

#endif
