/* csrc/ops/cuda.h where there are no CUDA operators (no toolkit, or NP_CUDA=OFF): everything says so. */
#include "ops/cuda.h"

static np_status absent(void) { return np_error(NP_ERR_ARGUMENT, "this build has no CUDA operators"); }

np_status np_ops_cuda(const np_cuda_options *options, np_ops **out) {
  (void)options;
  *out = NULL;
  return absent();
}

np_status np_cuda_look(int device, np_cuda_about *about) {
  *about = (np_cuda_about){.device = device};
  return absent();
}

int np_cuda_device_count(void) { return 0; }
void np_cuda_library_versions(np_cuda_versions *out) { *out = (np_cuda_versions){0}; }

void np_cuda_attention_reason(np_ops *ops, int tokens, int head_width, char text[NP_CUDA_TEXT]) {
  (void)ops, (void)tokens, (void)head_width;
  text[0] = 0;
}

void np_cuda_attention_print(np_ops *ops, int batch, int tokens, int heads, int head_width, FILE *to) {
  (void)ops, (void)batch, (void)tokens, (void)heads, (void)head_width, (void)to;
}

void np_cuda_attention_versions(const np_cuda_about *about, char text[NP_CUDA_TEXT]) {
  (void)about;
  text[0] = 0;
}

void np_cuda_matmul_print(np_ops *ops, FILE *to) { (void)ops, (void)to; }

np_status np_cuda_beside_follow(np_ops *ops, int signal, void **stream) {
  (void)ops, (void)signal;
  *stream = NULL;
  return absent();
}

np_status np_cuda_beside_join(np_ops *ops) {
  (void)ops;
  return absent();
}

np_status np_cuda_cudnn_forward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                const void *qkv, void *out, float *lse) {
  (void)ops, (void)causal, (void)batch, (void)tokens, (void)heads, (void)head_width, (void)qkv, (void)out, (void)lse;
  return absent();
}

np_status np_cuda_cudnn_backward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                 const void *qkv, const void *out, const float *lse, const void *dout, void *dqkv) {
  (void)ops, (void)causal, (void)batch, (void)tokens, (void)heads, (void)head_width, (void)qkv, (void)out, (void)lse;
  (void)dout, (void)dqkv;
  return absent();
}

np_status np_cuda_copy(np_ops *ops, void *to, const void *from, size_t bytes) {
  (void)ops, (void)to, (void)from, (void)bytes;
  return absent();
}

np_status np_cuda_beside_copy(np_ops *ops, int signal, void *to, const void *from, size_t bytes) {
  (void)ops, (void)signal, (void)to, (void)from, (void)bytes;
  return absent();
}

np_status np_cuda_mapped_alloc(np_ops *ops, size_t bytes, void **out) {
  (void)ops, (void)bytes;
  *out = NULL;
  return absent();
}

void np_cuda_mapped_release(np_ops *ops, void *memory) { (void)ops, (void)memory; }
