/* Which GPUs this machine shows, and whether this build can use one. Nothing here takes memory of a device. */
#include "ops/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_MAJOR = 8 }; /* cp.async and bf16 tensor cores */

static bool driver_answers(int *count, cudaError_t *code) {
  *count = 0;
  *code = cudaGetDeviceCount(count);
  if (*code != cudaSuccess) (void)cudaGetLastError();
  return *code == cudaSuccess && *count > 0;
}

int np_cuda_device_count(void) {
  int count;
  cudaError_t code;
  return driver_answers(&count, &code) ? count : 0;
}

static np_status no_device(cudaError_t code) {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  int driver = 0, runtime = 0;
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  if (driver == 0)
    return np_error(NP_ERR_LIBRARY, "no GPU can be used: this machine has no NVIDIA driver; install one");
  if (code == cudaErrorInsufficientDriver)
    return np_error(
        NP_ERR_LIBRARY,
        "no GPU can be used: the NVIDIA driver offers CUDA %d.%d, this build needs %d.%d; update the driver",
        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  if (code != cudaSuccess && code != cudaErrorNoDevice)
    return np_error(NP_ERR_LIBRARY, "no GPU can be used: cudaGetDeviceCount: %s; %s", cudaGetErrorString(code),
                    np_failure_advice(np_failure_of(code)));
  return np_error(NP_ERR_LIBRARY, "no GPU can be used: the driver shows none%s%s%s",
                  visible ? " (CUDA_VISIBLE_DEVICES='" : "", visible ? visible : "", visible ? "')" : "");
}

np_status np_cuda_look(int device, np_cuda_about *about) {
  struct cudaDeviceProp p;
  int count;
  cudaError_t code;
  *about = (np_cuda_about){.device = device < 0 ? 0 : device};
  if (!driver_answers(&count, &code)) return no_device(code);
  if (about->device >= count)
    return np_error(NP_ERR_ARGUMENT, "device: %d: this machine shows %d GPU%s; allowed: 0 to %d, or -1 for the first",
                    device, count, count == 1 ? "" : "s", count - 1);
  if ((code = cudaGetDeviceProperties(&p, about->device)) != cudaSuccess) {
    (void)cudaGetLastError();
    return np_error(NP_ERR_LIBRARY, "GPU %d: cudaGetDeviceProperties: %s; %s", about->device, cudaGetErrorString(code),
                    np_failure_advice(np_failure_of(code)));
  }
  memcpy(about->name, p.name, sizeof about->name - 1);
  about->major = p.major;
  about->minor = p.minor;
  about->processors = p.multiProcessorCount;
  about->memory = p.totalGlobalMem;
  if (p.major < LEAST_MAJOR)
    return np_error(NP_ERR_LIBRARY, "GPU %d (%s) has compute capability %d.%d; the CUDA operators need %d.0 or later%s",
                    about->device, about->name, p.major, p.minor, LEAST_MAJOR,
                    count > 1 ? "; device: chooses another" : "");
  return NP_OK;
}

void np_cuda_library_versions(np_cuda_versions *out) {
  *out = (np_cuda_versions){0};
  (void)cudaDriverGetVersion(&out->driver);
  (void)cudaRuntimeGetVersion(&out->runtime);
  out->cublaslt = np_cuda_matmul_version();
  out->cudnn = np_cuda_cudnn_version();
}

/* ---- errors ---- */

np_status np_cuda_failed(const np_gpu *gpu, const char *call, np_failure why, const char *text) {
  return np_error(np_failure_status(why), "%.*s on GPU %d (%s): %s; %s", (int)strcspn(call, "("), call, gpu->device,
                  gpu->name, text, np_failure_advice(why));
}

np_status np_cuda_error(const np_gpu *gpu, const char *call, cudaError_t code) {
  char text[768];
  (void)cudaGetLastError(); /* told here, and not by the next launch */
  snprintf(text, sizeof text, "%s (%s)", cudaGetErrorString(code), cudaGetErrorName(code));
  return np_cuda_failed(gpu, call, np_failure_of(code), text);
}
