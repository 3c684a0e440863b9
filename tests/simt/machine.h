/* The machine that the emulated GPU is part of: what it shows, and what fails there. Tests of errors set it; else it is
 * a sound one. Read by np_launch (simt.h) and by the stand-in of the CUDA runtime (ops/runtime.cpp). */
#ifndef NP_SIMT_MACHINE_H
#define NP_SIMT_MACHINE_H

#include <cuda_runtime_api.h>

typedef struct np_simt_machine {
  int devices;
  int major, minor;    /* compute capability of each */
  size_t shared_limit; /* bytes of shared memory a block may opt in to */
  size_t memory;       /* bytes of the device's */
  size_t pinned;       /* bytes of the host's that may be pinned at a time */

  const char *refused; /* the kernel whose launch fails, with refusal */
  cudaError_t refusal;
  const char *broken; /* the kernel that is launched, and fails while it runs, with breakage */
  cudaError_t breakage;
  cudaError_t lost; /* what every call gives once that has happened; cudaSuccess: it has not */

  const char *launched; /* the last kernel, of any name */
} np_simt_machine;

#ifdef __cplusplus
extern "C" {
#endif

extern np_simt_machine np_simt_now;
/* 9.0, 64 GiB, nothing fails. */
np_simt_machine np_simt_sound(void);
const char *np_simt_error_text(cudaError_t code);

#ifdef __cplusplus
}
#endif

#endif
