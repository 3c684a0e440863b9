/* Between host and device: uploads through rings of pinned slots (drawn in cuda.h), downloads, late reads. */
#include "ops/cuda/cuda.h"

#include <string.h>

/* One block of pinned memory: small slots, chunks, fetch slots. Pinning is slow, and its blocks are whole pages. */
enum {
  SMALL_BYTES = NP_CUDA_SMALL_SLOTS * NP_CUDA_SMALL,
  CHUNK_BYTES = NP_CUDA_CHUNK_SLOTS * NP_CUDA_CHUNK,
  FETCH_BYTES = NP_FETCH_SLOTS * NP_FETCH_BYTES
};

np_status np_cuda_transfer_open(np_cuda_core *core) {
  const unsigned quiet =
      cudaEventDisableTiming | cudaEventBlockingSync; /* a waiting host leaves its core to the loader */
  np_status st = NP_OK;
  void *staged = NULL, *pinned = NULL;
  NP_CUDA_TRY(cudaStreamCreateWithFlags(&core->copies, cudaStreamNonBlocking));
  NP_TRY(np_cuda_take_pinned(core, SMALL_BYTES + CHUNK_BYTES + FETCH_BYTES, cudaHostAllocDefault, &pinned));
  core->pinned = pinned;
  NP_TRY(np_cuda_take(core, CHUNK_BYTES, &staged));
  core->staged = staged;
  core->fetched = core->pinned + SMALL_BYTES + CHUNK_BYTES;
  for (int i = 0; i < NP_CUDA_SMALL_SLOTS; i++) {
    core->small[i].pinned = core->pinned + (size_t)i * NP_CUDA_SMALL;
    NP_CUDA_TRY(cudaEventCreateWithFlags(&core->small[i].copied, quiet));
  }
  for (int i = 0; i < NP_CUDA_CHUNK_SLOTS; i++) {
    core->chunk[i].pinned = core->pinned + SMALL_BYTES + (size_t)i * NP_CUDA_CHUNK;
    core->chunk[i].staged = core->staged + (size_t)i * NP_CUDA_CHUNK;
    NP_CUDA_TRY(cudaEventCreateWithFlags(&core->chunk[i].copied, quiet));
    NP_CUDA_TRY(cudaEventCreateWithFlags(&core->chunk[i].used, quiet));
  }
  for (int i = 0; i < NP_FETCH_SLOTS; i++) NP_CUDA_TRY(cudaEventCreateWithFlags(&core->fetch[i], quiet));
out:
  return st;
}

static void drop(cudaEvent_t event) {
  if (event) (void)cudaEventDestroy(event);
}

void np_cuda_transfer_close(np_cuda_core *core) {
  for (int i = 0; i < NP_CUDA_SMALL_SLOTS; i++) drop(core->small[i].copied);
  for (int i = 0; i < NP_CUDA_CHUNK_SLOTS; i++) {
    drop(core->chunk[i].copied);
    drop(core->chunk[i].used);
  }
  for (int i = 0; i < NP_FETCH_SLOTS; i++) drop(core->fetch[i]);
  if (core->staged) (void)cudaFree(core->staged);
  if (core->pinned) (void)cudaFreeHost(core->pinned);
  if (core->copies) (void)cudaStreamDestroy(core->copies);
}

/* ---- to the device ---- */

static np_status upload_small(np_cuda_core *core, void *device, const void *host, size_t bytes) {
  np_status st = NP_OK;
  np_cuda_slot *slot = &core->small[core->next_small];
  NP_CUDA_TRY(cudaEventSynchronize(slot->copied));
  memcpy(slot->pinned, host, bytes);
  NP_CUDA_TRY(cudaMemcpyAsync(device, slot->pinned, bytes, cudaMemcpyHostToDevice, core->gpu.stream));
  NP_CUDA_TRY(cudaEventRecord(slot->copied, core->gpu.stream));
  core->next_small = (core->next_small + 1) % NP_CUDA_SMALL_SLOTS;
out:
  return st;
}

static np_status upload_chunk(np_cuda_core *core, void *device, const void *host, size_t bytes) {
  np_status st = NP_OK;
  np_cuda_slot *slot = &core->chunk[core->next_chunk];
  NP_CUDA_TRY(cudaEventSynchronize(slot->copied));
  memcpy(slot->pinned, host, bytes);
  NP_CUDA_TRY(cudaStreamWaitEvent(core->copies, slot->used, 0));
  NP_CUDA_TRY(cudaMemcpyAsync(slot->staged, slot->pinned, bytes, cudaMemcpyHostToDevice, core->copies));
  NP_CUDA_TRY(cudaEventRecord(slot->copied, core->copies));
  NP_CUDA_TRY(cudaStreamWaitEvent(core->gpu.stream, slot->copied, 0));
  NP_CUDA_TRY(cudaMemcpyAsync(device, slot->staged, bytes, cudaMemcpyDeviceToDevice, core->gpu.stream));
  NP_CUDA_TRY(cudaEventRecord(slot->used, core->gpu.stream));
  core->next_chunk = (core->next_chunk + 1) % NP_CUDA_CHUNK_SLOTS;
out:
  return st;
}

np_status np_cuda_upload(np_ops *ops, void *device, const void *host, size_t bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  NP_TRY(np_cuda_not_recording(core, "an upload"));
  if (bytes > 0 && bytes <= NP_CUDA_SMALL) return upload_small(core, device, host, bytes);
  for (size_t done = 0; done < bytes; done += NP_CUDA_CHUNK) {
    size_t part = bytes - done < NP_CUDA_CHUNK ? bytes - done : NP_CUDA_CHUNK;
    NP_TRY(upload_chunk(core, (char *)device + done, (const char *)host + done, part));
  }
out:
  return st;
}

/* ---- to the host ---- */

np_status np_cuda_download(np_ops *ops, void *host, const void *device, size_t bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  NP_TRY(np_cuda_not_recording(core, "a download"));
  if (bytes) NP_CUDA_TRY(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, core->gpu.stream));
  NP_CUDA_TRY(cudaStreamSynchronize(core->gpu.stream));
out:
  return st;
}

static np_status check_slot(int slot, size_t bytes) {
  if (slot >= 0 && slot < NP_FETCH_SLOTS && bytes > 0 && bytes <= NP_FETCH_BYTES) return NP_OK;
  return np_error(NP_ERR_ARGUMENT, "fetch of %zu bytes under slot %d: expected 1 to %d bytes and a slot below %d",
                  bytes, slot, NP_FETCH_BYTES, NP_FETCH_SLOTS);
}

np_status np_cuda_fetch(np_ops *ops, int slot, const void *device, size_t bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  NP_TRY(check_slot(slot, bytes));
  NP_TRY(np_cuda_not_recording(core, "a fetch"));
  if (core->under_way[slot]) return np_error(NP_ERR_ARGUMENT, "fetch under slot %d, which has not arrived", slot);
  unsigned char *to = core->fetched + (size_t)slot * NP_FETCH_BYTES;
  NP_CUDA_TRY(cudaMemcpyAsync(to, device, bytes, cudaMemcpyDeviceToHost, core->gpu.stream));
  NP_CUDA_TRY(cudaEventRecord(core->fetch[slot], core->gpu.stream));
  core->under_way[slot] = bytes;
out:
  return st;
}

np_status np_cuda_arrive(np_ops *ops, int slot, void *host, size_t bytes) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  NP_TRY(check_slot(slot, bytes));
  if (core->under_way[slot] != bytes)
    return np_error(NP_ERR_ARGUMENT, "nothing of %zu bytes was fetched under slot %d", bytes, slot);
  core->under_way[slot] = 0;
  NP_CUDA_TRY(cudaEventSynchronize(core->fetch[slot]));
  memcpy(host, core->fetched + (size_t)slot * NP_FETCH_BYTES, bytes);
out:
  return st;
}
