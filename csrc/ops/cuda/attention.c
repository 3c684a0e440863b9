/* Which attention runs: the portable tensor-core kernels, those for Hopper, cuDNN's, or (float32) the plain ones. */
#include "ops/cuda/cuda.h"

#include <string.h>

typedef enum version { VERSION_F32, VERSION_PORTABLE, VERSION_HOPPER, VERSION_CUDNN } version;

/* The version for this shape and the reason, or NP_ERR_ARGUMENT when the one the recipe names cannot run. */
static np_status choose(const np_cuda *cuda, int tokens, int head_width, version *out, const char **why) {
  const np_gpu *gpu = &cuda->core->gpu;
  bool hopper = np_kernel_attention_hopper_takes(gpu, tokens, head_width);
  *out = VERSION_PORTABLE;
  *why = "";
  if (cuda->table.act == NP_F32) {
    *out = VERSION_F32;
    *why = "true float32, for precision fp32";
  } else if (cuda->attention == NP_ATTENTION_CUDNN) {
    *out = VERSION_CUDNN;
    *why = "cuDNN's fused attention, as the recipe asks";
  } else if (cuda->attention == NP_ATTENTION_HOPPER) {
    if (!hopper)
      return np_error(
          NP_ERR_ARGUMENT,
          "attention: hopper: needs compute capability 9.0 and head width 32, 64, 96 or 128; GPU %d (%s) has %d.%d and "
          "the heads are %d wide; allowed: auto, portable",
          gpu->device, gpu->name, gpu->major, gpu->minor, head_width);
    *out = VERSION_HOPPER;
    *why = "wgmma and TMA, as the recipe asks";
  } else if (cuda->attention == NP_ATTENTION_AUTO && hopper) {
    *out = VERSION_HOPPER;
    *why = "wgmma and TMA: this GPU and head width have them";
  } else {
    *out = VERSION_PORTABLE;
    *why = cuda->attention == NP_ATTENTION_PORTABLE
               ? "mma.sync, as the recipe asks"
               : "mma.sync: the Hopper version does not take this GPU or head width";
  }
  return NP_OK;
}

void np_cuda_attention_reason(np_ops *ops, int tokens, int head_width, char text[NP_CUDA_TEXT]) {
  static const char *const names[] = {"float32", "portable", "hopper", "cudnn"};
  version which;
  const char *why;
  if (choose(np_cuda_of(ops), tokens, head_width, &which, &why) == NP_OK)
    snprintf(text, NP_CUDA_TEXT, "%s (%s)", names[which], why);
  else snprintf(text, NP_CUDA_TEXT, "%s", np_error_message());
}

void np_cuda_attention_print(np_ops *ops, int batch, int tokens, int heads, int head_width, FILE *to) {
  const np_cuda *cuda = np_cuda_of(ops);
  const np_kernel_attention call = {
      .batch = batch, .tokens = tokens, .heads = heads, .head_width = head_width, .act = ops->act};
  char text[1024];
  version which;
  const char *why;
  np_cuda_attention_reason(ops, tokens, head_width, text);
  fprintf(to, "attention: %s\n", text);
  if (choose(cuda, tokens, head_width, &which, &why) != NP_OK) return;
  if (which != VERSION_F32 && which != VERSION_PORTABLE) return;
  if (np_kernel_attention_describe(&cuda->core->gpu, &call, text, sizeof text) > 0) fprintf(to, "%s", text);
}

void np_cuda_attention_versions(const np_cuda_about *about, char text[NP_CUDA_TEXT]) {
  np_gpu gpu = {.device = about->device, .processors = about->processors, .major = about->major, .minor = about->minor};
  snprintf(text, NP_CUDA_TEXT, "float32, portable%s",
           np_kernel_attention_hopper_takes(&gpu, 256, 128) ? ", hopper (head widths 32, 64, 96 and 128)"
                                                            : "; hopper: not on this device");
}

/* ---- the table's entries ---- */

static np_status no_prefix(const int32_t *prefix) {
  if (!prefix) return NP_OK;
  return np_error(NP_ERR_ARGUMENT,
                  "attention: cudnn: cuDNN's fused attention has no prefix mask, so it serves bench attention "
                  "and models that see whole images; allowed: auto, portable, hopper");
}

np_status np_cuda_attention_forward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                    const int32_t *prefix, const void *qkv, void *out, float *lse) {
  np_cuda_core *core = np_cuda_enter(ops);
  const np_kernel_attention call = {.batch = batch,
                                    .tokens = tokens,
                                    .heads = heads,
                                    .head_width = head_width,
                                    .act = ops->act,
                                    .prefix = prefix,
                                    .qkv = qkv,
                                    .out = out,
                                    .lse = lse};
  version which;
  const char *why;
  np_status st = choose(np_cuda_of(ops), tokens, head_width, &which, &why);
  if (st != NP_OK) return st;
  switch (which) {
  case VERSION_F32:
    return np_kernel_attention_forward_f32(&core->gpu, &call);
  case VERSION_PORTABLE:
    return np_kernel_attention_forward(&core->gpu, &call);
  case VERSION_HOPPER:
    return np_kernel_attention_hopper_forward(&core->gpu, &call);
  case VERSION_CUDNN:
    if ((st = no_prefix(prefix)) != NP_OK) return st;
    return np_cuda_cudnn_forward(ops, false, batch, tokens, heads, head_width, qkv, out, lse);
  }
  return st;
}

static size_t backward_scratch(const np_gpu *gpu, version which, const np_kernel_attention *call) {
  size_t (*const sizes[])(const np_gpu *, int, int, int, int) = {np_kernel_attention_backward_f32_scratch,
                                                                 np_kernel_attention_backward_scratch,
                                                                 np_kernel_attention_hopper_backward_scratch};
  return sizes[which](gpu, call->batch, call->tokens, call->heads, call->head_width);
}

np_status np_cuda_attention_backward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                     const int32_t *prefix, const void *qkv, const void *out, const float *lse,
                                     const void *dout, void *dqkv) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_kernel_attention call = {.batch = batch,
                              .tokens = tokens,
                              .heads = heads,
                              .head_width = head_width,
                              .act = ops->act,
                              .prefix = prefix,
                              .qkv = qkv,
                              .out = (void *)out, /* read alone, as is lse */
                              .lse = (float *)lse,
                              .dout = dout,
                              .dqkv = dqkv};
  version which;
  const char *why;
  np_status st;
  NP_TRY(choose(np_cuda_of(ops), tokens, head_width, &which, &why));
  if (which == VERSION_CUDNN) {
    NP_TRY(no_prefix(prefix));
    return np_cuda_cudnn_backward(ops, false, batch, tokens, heads, head_width, qkv, out, lse, dout, dqkv);
  }
  NP_TRY(np_cuda_scratch(core, backward_scratch(&core->gpu, which, &call), &call.scratch));
  if (which == VERSION_F32) st = np_kernel_attention_backward_f32(&core->gpu, &call);
  else if (which == VERSION_PORTABLE) st = np_kernel_attention_backward(&core->gpu, &call);
  else st = np_kernel_attention_hopper_backward(&core->gpu, &call);
out:
  return st;
}
