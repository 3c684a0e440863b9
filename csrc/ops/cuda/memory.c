/* Device memory: taken, given back, and the scratch that operations work in. */
#include "ops/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>

static double gib(size_t bytes) { return (double)bytes / (double)(1 << 30); }

/* "1.23 GiB" or "4.5 MiB". */
static const char *size_text(size_t bytes, char text[24]) {
  if (gib(bytes) >= 1) snprintf(text, 24, "%.2f GiB", gib(bytes));
  else snprintf(text, 24, "%.1f MiB", 1024 * gib(bytes));
  return text;
}

np_status np_cuda_take(np_cuda_core *core, size_t bytes, void **out) {
  size_t room = 0, whole = 0;
  char text[24];
  *out = NULL;
  cudaError_t code = cudaMalloc(out, bytes ? bytes : 1);
  if (code == cudaSuccess) return NP_OK;
  *out = NULL;
  if (code != cudaErrorMemoryAllocation) return np_cuda_error(&core->gpu, "cudaMalloc", code);
  (void)cudaGetLastError(); /* this failure is told here, and not by the next launch */
  (void)cudaMemGetInfo(&room, &whole);
  return np_error(NP_ERR_MEMORY, "GPU %d (%s): not enough memory: %s asked, %.2f of %.2f GiB free; %s",
                  core->gpu.device, core->gpu.name, size_text(bytes, text), gib(room), gib(whole),
                  np_failure_advice(NP_FAILURE_MEMORY));
}

np_status np_cuda_take_pinned(np_cuda_core *core, size_t bytes, unsigned flags, void **out) {
  char text[24];
  *out = NULL;
  cudaError_t code = cudaHostAlloc(out, bytes ? bytes : 1, flags);
  if (code == cudaSuccess) return NP_OK;
  *out = NULL;
  if (code != cudaErrorMemoryAllocation) return np_cuda_error(&core->gpu, "cudaHostAlloc", code);
  (void)cudaGetLastError();
  return np_error(
      NP_ERR_MEMORY,
      "GPU %d (%s): not enough pinned memory of the host: %s asked; end other programs, or raise the memory "
      "limit of the container or job",
      core->gpu.device, core->gpu.name, size_text(bytes, text));
}

np_status np_cuda_alloc(np_ops *ops, size_t bytes, void **out) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  *out = NULL;
  NP_TRY(np_cuda_not_recording(core, "taking memory"));
  st = np_cuda_take(core, bytes, out);
out:
  return st;
}

void np_cuda_release(np_ops *ops, void *memory) {
  np_cuda_core *core = np_cuda_enter(ops);
  if (!memory) return;
  (void)cudaStreamSynchronize(core->gpu.stream); /* operations queued before may still use it */
  (void)cudaFree(memory);
}

np_status np_cuda_available(np_ops *ops, size_t *bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  size_t whole;
  NP_CUDA_TRY(cudaMemGetInfo(bytes, &whole));
out:
  return st;
}

np_status np_cuda_zero(np_ops *ops, void *device, size_t bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  if (bytes) NP_CUDA_TRY(cudaMemsetAsync(device, 0, bytes, core->gpu.stream));
out:
  return st;
}

/* ---- scratch ---- */

/* Recordings hold addresses: while one lives, what they were recorded with stays. */
static np_status retire(np_cuda_core *core) {
  np_status st = NP_OK;
  if (!core->scratch) return NP_OK;
  if (core->recordings > 0) {
    void **longer = realloc(core->retired, (size_t)(core->retired_count + 1) * sizeof *longer);
    if (!longer) return np_error(NP_ERR_MEMORY, "not enough memory for the list of scratch buffers");
    core->retired = longer;
    core->retired[core->retired_count++] = core->scratch;
  } else {
    NP_CUDA_TRY(cudaStreamSynchronize(core->gpu.stream));
    NP_CUDA_TRY(cudaFree(core->scratch));
  }
  core->scratch = NULL;
  core->scratch_bytes = 0;
out:
  return st;
}

np_status np_cuda_scratch(np_cuda_core *core, size_t bytes, void **out) {
  np_status st = NP_OK;
  if (bytes > core->scratch_bytes) {
    NP_TRY(np_cuda_not_recording(core, "an operation that takes more scratch memory than any before it"));
    NP_TRY(retire(core));
    NP_TRY(np_cuda_take(core, bytes, &core->scratch));
    core->scratch_bytes = bytes;
  }
out:
  *out = st == NP_OK ? core->scratch : NULL;
  return st;
}

void np_cuda_scratch_close(np_cuda_core *core) {
  for (int i = 0; i < core->retired_count; i++) (void)cudaFree(core->retired[i]);
  free(core->retired);
  (void)cudaFree(core->scratch);
}

/* ---- memory of both sides ---- */

np_status np_cuda_mapped_alloc(np_ops *ops, size_t bytes, void **out) {
  return np_cuda_take_pinned(np_cuda_enter(ops), bytes, cudaHostAllocMapped | cudaHostAllocPortable, out);
}

void np_cuda_mapped_release(np_ops *ops, void *memory) {
  np_cuda_core *core = np_cuda_enter(ops);
  if (!memory) return;
  (void)cudaStreamSynchronize(core->gpu.stream);
  (void)cudaFreeHost(memory);
}
