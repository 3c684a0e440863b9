/* cuDNN's fused attention: not found when this was built. */
#include "ops/cuda/cuda.h"

static np_status absent(void) {
  return np_error(NP_ERR_LIBRARY, "attention: cudnn: this build was made without cuDNN");
}

size_t np_cuda_cudnn_version(void) { return 0; }
void np_cuda_cudnn_close(np_cuda_core *core) { (void)core; }

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
