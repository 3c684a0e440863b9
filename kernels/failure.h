/* What a failure on the GPU asks of the user: every message about one ends in this. Plain C: launchers (device.cuh) and
 * the backend (csrc/ops/cuda) say the same. */
#ifndef NP_KERNELS_FAILURE_H
#define NP_KERNELS_FAILURE_H

#include "kernels/gpu.h"
#include "util/status.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

typedef enum np_failure {
  NP_FAILURE_OTHER,  /* nothing that a setting could change */
  NP_FAILURE_MEMORY, /* of the device */
  NP_FAILURE_LATE,   /* of a kernel, seen by whatever call came next */
  NP_FAILURE_TARGET, /* this build has no code for the device */
  NP_FAILURE_DRIVER, /* too old for what this build has */
  NP_FAILURE_TAKEN,  /* the device is another process's, or is gone */
  NP_FAILURE_LIBRARY /* of CUDA does not serve this device or driver */
} np_failure;

static inline np_failure np_failure_of(cudaError_t code) {
  switch (code) {
  case cudaErrorMemoryAllocation:
    return NP_FAILURE_MEMORY;
  case cudaErrorIllegalAddress:
  case cudaErrorLaunchFailure:
  case cudaErrorMisalignedAddress:
  case cudaErrorLaunchTimeout:
  case cudaErrorAssert:
  case cudaErrorIllegalInstruction:
  case cudaErrorHardwareStackError:
  case cudaErrorInvalidAddressSpace:
  case cudaErrorInvalidPc:
    return NP_FAILURE_LATE;
  case cudaErrorNoKernelImageForDevice:
  case cudaErrorInvalidDeviceFunction:
    return NP_FAILURE_TARGET;
  case cudaErrorInsufficientDriver:
  case cudaErrorUnsupportedPtxVersion:
    return NP_FAILURE_DRIVER;
  case cudaErrorDevicesUnavailable:
    return NP_FAILURE_TAKEN;
  default:
    return NP_FAILURE_OTHER;
  }
}

/* The last part of the line: what to do. */
static inline const char *np_failure_advice(np_failure why) {
  const char *blocking = getenv("CUDA_LAUNCH_BLOCKING");
  switch (why) {
  case NP_FAILURE_MEMORY:
    return "a smaller train.micro_batch or train.recompute: block takes less, and for a probe a smaller probe.batch";
  case NP_FAILURE_LATE:
    if (blocking && !strcmp(blocking, "1")) return "compute-sanitizer shows where in the kernel";
    return "an operation queued earlier failed, CUDA_LAUNCH_BLOCKING=1 shows which";
  case NP_FAILURE_TARGET:
    return "add this GPU's architecture in cmake/NextpatchBuildInfo.cmake and build again, or set backend: cpu";
  case NP_FAILURE_DRIVER:
    return "update the NVIDIA driver";
  case NP_FAILURE_TAKEN:
    return "another process may hold the GPU, nvidia-smi shows which";
  case NP_FAILURE_LIBRARY:
    return "another version of CUDA's libraries may do it, nextpatch doctor says which is loaded";
  case NP_FAILURE_OTHER:
    break;
  }
  return "please report it, with what nextpatch doctor says";
}

/* NP_ERR_MEMORY when memory ran out. */
static inline np_status np_failure_status(np_failure why) {
  return why == NP_FAILURE_MEMORY ? NP_ERR_MEMORY : NP_ERR_LIBRARY;
}

/* A kernel's launch was refused, or found that one before had failed. */
static inline np_status np_launch_failed(const np_gpu *gpu, const char *kernel, cudaError_t code, const char *text) {
  const np_failure why = np_failure_of(code);
  return np_error(np_failure_status(why), "kernel %s on GPU %d (%s, compute capability %d.%d): %s; %s", kernel,
                  gpu->device, gpu->name, gpu->major, gpu->minor, text, np_failure_advice(why));
}

#endif
