/* The CUDA runtime of the emulated GPU (include/cuda_runtime_api.h). */
#include <cuda_runtime_api.h>

#include "machine.h"
#include "queue.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace {

enum { VERSION = 13000 };
enum : size_t { RECORDING = 64 << 10 }; /* bytes of device memory that the driver keeps for one */

np_simt_machine &now = np_simt_now;
size_t taken, pinned; /* of the machine's memory */
std::unordered_map<void *, size_t> sizes;

/* A context in which a kernel broke gives nothing but that error. */
cudaError_t queue(simt::work what) {
  if (now.lost != cudaSuccess) return now.lost;
  if (simt::submit(std::move(what)) == NP_OK) return cudaSuccess;
  return cudaErrorLaunchFailure;
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

} // namespace

struct CUstream_st {
  int unused;
};
struct CUevent_st {
  double at;
};
struct CUgraph_st {
  std::vector<simt::work> work;
};
struct CUgraphExec_st {
  std::vector<simt::work> work;
};

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *count) {
  *count = now.devices;
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int) {
  *out = cudaDeviceProp();
  snprintf(out->name, sizeof out->name, "emulated GPU");
  out->totalGlobalMem = now.memory;
  out->major = now.major;
  out->minor = now.minor;
  out->multiProcessorCount = 4;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr which, int) {
  if (which != cudaDevAttrMaxSharedMemoryPerBlockOptin) return cudaErrorInvalidValue;
  return *out = static_cast<int>(now.shared_limit), cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaDriverGetVersion(int *out) { return *out = VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *out) { return *out = VERSION, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char *cudaGetErrorName(cudaError_t code) { return code == cudaSuccess ? "cudaSuccess" : "cudaError"; }

const char *cudaGetErrorString(cudaError_t code) {
  if (code == cudaErrorLaunchFailure) return np_error_message(); /* what the emulator found */
  return np_simt_error_text(code);
}

/* ---- memory ---- */

/* Full of NaN, as device memory may be. */
cudaError_t cudaMalloc(void **out, size_t bytes) {
  if (now.lost != cudaSuccess) return now.lost;
  *out = taken + bytes <= now.memory ? aligned_alloc(256, (bytes + 255) / 256 * 256) : nullptr;
  if (*out == nullptr) return cudaErrorMemoryAllocation;
  memset(*out, 0xff, bytes);
  taken += sizes[*out] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
  if (memory != nullptr) taken -= sizes.at(memory), sizes.erase(memory);
  return free(memory), cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
  *out = pinned + bytes <= now.pinned ? aligned_alloc(4096, (bytes + 4095) / 4096 * 4096) : nullptr;
  if (*out == nullptr) return cudaErrorMemoryAllocation;
  pinned += sizes[*out] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory) {
  if (memory != nullptr) pinned -= sizes.at(memory), sizes.erase(memory);
  return free(memory), cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *room, size_t *whole) {
  *whole = now.memory;
  *room = taken < now.memory ? now.memory - taken : 0;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return queue([=] { return memmove(to, from, bytes), NP_OK; });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t) {
  return queue([=] { return memset(to, value, bytes), NP_OK; });
}

/* ---- streams and events: everything has happened already ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) { return *out = new CUstream_st(), cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int) {
  return cudaStreamCreateWithFlags(out, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return simt::recording == nullptr ? now.lost : cudaErrorInvalidValue; /* not while recording */
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) { return *out = new CUevent_st(), cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) { return event->at = seconds(), cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  /* into a graph as a node of its own, or not at all: a stream that is not recording refuses the flag */
  if ((flags == cudaEventRecordExternal) != (simt::recording != nullptr)) return cudaErrorInvalidValue;
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return now.lost; }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return *milliseconds = static_cast<float>(1e3 * (to->at - from->at)), cudaSuccess;
}

/* ---- recordings ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (simt::recording != nullptr) return cudaErrorInvalidValue;
  simt::recording = new std::vector<simt::work>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *out) {
  *out = nullptr;
  if (simt::recording == nullptr) return cudaErrorInvalidValue;
  *out = new CUgraph_st{std::move(*simt::recording)};
  delete simt::recording;
  simt::recording = nullptr;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
  if (taken + RECORDING > now.memory) return cudaErrorMemoryAllocation;
  taken += RECORDING;
  return *out = new CUgraphExec_st{graph->work}, cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return simt::recording == nullptr ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const simt::work &work : graph->work)
    if (cudaError_t code = queue(work)) return code;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  taken -= RECORDING;
  delete graph;
  return cudaSuccess;
}
