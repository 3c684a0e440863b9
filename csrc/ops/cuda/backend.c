/* The CUDA backend opened and closed. */
#include "ops/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

/* One launch and one copy back: says now, and not in the middle of a step, that this build has no code for the device
 * or that the driver cannot run it. */
static np_status try_kernel(np_cuda_core *core) {
  np_status st = NP_OK;
  float *value = core->workspace, one = 0.0f;
  const size_t bytes = sizeof one;
  NP_CUDA_TRY(cudaMemsetAsync(value, 0, 2 * bytes, core->gpu.stream));
  if ((st = np_kernel_to_act(&core->gpu, NP_F32, 1, value, value + 1)) != NP_OK)
    return np_error_context(st, "GPU %d cannot run this build's kernels (made for %s)", core->gpu.device,
                            NP_CUDA_TARGETS);
  NP_CUDA_TRY(cudaMemcpyAsync(&one, value + 1, bytes, cudaMemcpyDeviceToHost, core->gpu.stream));
  NP_CUDA_TRY(cudaStreamSynchronize(core->gpu.stream));
out:
  return st;
}

static void core_close(np_cuda_core *core) {
  if (!core || --core->references > 0) return;
  (void)cudaSetDevice(core->gpu.device);
  if (core->gpu.stream) (void)cudaStreamSynchronize(core->gpu.stream);
  np_cuda_cudnn_close(core);
  np_cuda_matmul_close(core);
  np_cuda_beside_close(core);
  np_cuda_marks_close(core);
  np_cuda_scratch_close(core);
  if (core->workspace) (void)cudaFree(core->workspace);
  np_cuda_transfer_close(core);
  if (core->gpu.stream) (void)cudaStreamDestroy(core->gpu.stream);
  free(core);
}

static np_status core_open(int device, np_cuda_core **out) {
  np_status st = NP_OK;
  np_cuda_about about;
  np_cuda_core *core = NULL;
  int shared_limit = 0;
  *out = NULL;
  NP_TRY(np_cuda_look(device, &about));
  core = calloc(1, sizeof *core);
  if (!core) return np_error(NP_ERR_MEMORY, "not enough memory for the CUDA backend");
  core->references = 1;
  core->gpu =
      (np_gpu){.device = about.device, .processors = about.processors, .major = about.major, .minor = about.minor};
  memcpy(core->gpu.name, about.name, sizeof core->gpu.name);
  NP_CUDA_TRY(cudaSetDevice(about.device));
  NP_CUDA_TRY(cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, about.device));
  core->gpu.shared_limit = (size_t)shared_limit;
  NP_CUDA_TRY(cudaStreamCreateWithFlags(&core->gpu.stream, cudaStreamNonBlocking));
  NP_TRY(np_cuda_transfer_open(core));
  NP_TRY(np_cuda_take(core, NP_CUDA_WORKSPACE, &core->workspace));
  NP_TRY(try_kernel(core));
  NP_TRY(np_cuda_matmul_open(core));
  *out = core;
  core = NULL;
out:
  core_close(core);
  return st;
}

static void cuda_destroy(np_ops *ops) {
  if (!ops) return;
  core_close(np_cuda_of(ops)->core);
  free(np_cuda_of(ops));
}

static const np_ops own = {
    .name = "cuda",
    .alloc = np_cuda_alloc,
    .release = np_cuda_release,
    .available = np_cuda_available,
    .upload = np_cuda_upload,
    .download = np_cuda_download,
    .zero = np_cuda_zero,
    .fetch = np_cuda_fetch,
    .arrive = np_cuda_arrive,
    .record_begin = np_cuda_record_begin,
    .record_end = np_cuda_record_end,
    .replay = np_cuda_replay,
    .forget = np_cuda_forget,
    .signal = np_cuda_signal,
    .mark = np_cuda_mark,
    .elapsed = np_cuda_elapsed,
    .matmul = np_cuda_matmul,
    .attention_forward = np_cuda_attention_forward,
    .attention_backward = np_cuda_attention_backward,
    .destroy = cuda_destroy,
};

np_status np_ops_cuda(const np_cuda_options *options, np_ops **out) {
  np_status st = NP_OK;
  *out = NULL;
  if (options->act != NP_F32 && options->act != NP_BF16)
    return np_error(NP_ERR_ARGUMENT, "the CUDA backend computes in float32 or bfloat16");
  np_cuda *cuda = calloc(1, sizeof *cuda);
  if (!cuda) return np_error(NP_ERR_MEMORY, "not enough memory for the CUDA backend");
  cuda->table = own;
  cuda->table.act = options->act;
  cuda->attention = options->attention;
  np_cuda_operations(&cuda->table);
  if (options->share) {
    cuda->core = np_cuda_of(options->share)->core;
    cuda->core->references++;
  } else {
    NP_TRY(core_open(options->device, &cuda->core));
  }
  *out = &cuda->table;
  cuda = NULL;
out:
  free(cuda);
  return st;
}
