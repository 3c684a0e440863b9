#include "machine.h"

#include "kernels/device.cuh"

#include <cstring>

static const size_t GIB = static_cast<size_t>(1) << 30;

np_simt_machine np_simt_sound(void) {
  np_simt_machine out = {};
  out.devices = 1;
  out.major = 9;
  out.shared_limit = 227 * 1024;
  out.memory = out.pinned = 64 * GIB;
  return out;
}

np_simt_machine np_simt_now = np_simt_sound();

const char *np_simt_error_text(cudaError_t code) {
  switch (code) {
  case cudaSuccess:
    return "no error";
  case cudaErrorMemoryAllocation:
    return "out of memory";
  case cudaErrorNoDevice:
    return "no CUDA-capable device is detected";
  case cudaErrorIllegalAddress:
    return "an illegal memory access was encountered";
  case cudaErrorNoKernelImageForDevice:
    return "no kernel image is available for execution on the device";
  case cudaErrorInvalidConfiguration:
    return "invalid configuration argument";
  default:
    return "invalid argument";
  }
}

namespace simt {

static bool is(const char *wanted, const char *kernel) { return wanted != nullptr && strcmp(wanted, kernel) == 0; }

np_status admit(const np_gpu *gpu, const char *kernel) {
  const np_simt_machine &now = np_simt_now;
  const cudaError_t code = now.lost != cudaSuccess ? now.lost : is(now.refused, kernel) ? now.refusal : cudaSuccess;
  if (code != cudaSuccess) return np_launch_failed(gpu, kernel, code, np_simt_error_text(code));
  np_simt_now.launched = kernel;
  return NP_OK;
}

bool breaks(const char *kernel) {
  if (is(np_simt_now.broken, kernel)) np_simt_now.lost = np_simt_now.breakage;
  return np_simt_now.lost != cudaSuccess;
}

} // namespace simt
