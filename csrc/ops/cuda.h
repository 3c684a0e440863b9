/* The CUDA backend (csrc/ops/cuda), without a CUDA type: everything here may be called in every build. Without CUDA
 * operators (no toolkit, or NP_CUDA=OFF) each function that can fail says so. */
#ifndef NP_OPS_CUDA_H
#define NP_OPS_CUDA_H

#include "ops/ops.h"
#include "recipe/recipe.h"

#include <stdio.h>

typedef struct np_cuda_options {
  np_dtype act;           /* F32: true float32, no TF32; BF16: sums in float32 */
  int device;             /* CUDA's number; -1: the first one visible */
  np_attention attention; /* which version runs in bf16; float32 has one */
  np_ops *share; /* NULL, or an opened CUDA backend whose device, stream and buffers are used too: memory may then
                  * pass between both, and their operations run in the order of the calls */
} np_cuda_options;

/* Opens one GPU. NP_ERR_ARGUMENT or NP_ERR_LIBRARY with one line (no driver, no such device, too old, no code for it in
 * this build); nothing falls back to the CPU. With `share` the two may be destroyed in either order. */
np_status np_ops_cuda(const np_cuda_options *options, np_ops **out);

/* ---- what this machine has ---- */

enum { NP_CUDA_TEXT = 192 };

typedef struct np_cuda_about {
  int device;
  char name[64];
  int major, minor; /* compute capability */
  int processors;
  size_t memory;
} np_cuda_about;

typedef struct np_cuda_versions { /* 0: none found */
  int driver, runtime;            /* 13000 is 13.0 */
  size_t cublaslt;                /* 130101 is 13.1.1 */
  size_t cudnn;                   /* 91900 is 9.19.0 */
} np_cuda_versions;

/* Whether kernels of this build can run on `device` (-1: the first), and what it is; the reason in the message when
 * not. Takes no memory of the device. `about` holds what is known even when it cannot be used. */
np_status np_cuda_look(int device, np_cuda_about *about);
int np_cuda_device_count(void); /* 0 without a driver */
void np_cuda_library_versions(np_cuda_versions *out);

/* ---- choices, printable ---- */

/* Which attention runs for this shape and why: "hopper: wgmma and TMA on compute capability 9.0". Or the reason it
 * cannot. */
void np_cuda_attention_reason(np_ops *ops, int tokens, int head_width, char text[NP_CUDA_TEXT]);
/* That as a line, and for the portable and the float32 version a line each for the forward and the backward pass:
 * tiles, threads, shared memory, blocks. */
void np_cuda_attention_print(np_ops *ops, int batch, int tokens, int heads, int head_width, FILE *to);
/* The same before anything is opened, for doctor: which versions a device takes. */
void np_cuda_attention_versions(const np_cuda_about *about, char text[NP_CUDA_TEXT]);
/* A line a matrix product run so far: shape → algorithm. */
void np_cuda_matmul_print(np_ops *ops, FILE *to);

/* ---- for collectives (csrc/dist) ---- */

/* A stream beside the operations' own, a cudaStream_t: what is queued on it from here on waits until `signal` is
 * reached as np_ops.signal queued it last, in a replay or not; -1: all operations queued so far. */
np_status np_cuda_beside_follow(np_ops *ops, int signal, void **stream);
/* Operations queued from here on wait for that stream. */
np_status np_cuda_beside_join(np_ops *ops);

/* ---- for benches and tests ---- */

/* cuDNN's fused attention, the baseline of `bench attention`: bf16, shapes as in np_ops.attention_forward, every query
 * sees every key or (causal) those before it and itself. NP_ERR_LIBRARY where cuDNN is not found or refuses the shape.
 */
np_status np_cuda_cudnn_forward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                const void *qkv, void *out, float *lse);
np_status np_cuda_cudnn_backward(np_ops *ops, bool causal, int batch, int tokens, int heads, int head_width,
                                 const void *qkv, const void *out, const float *lse, const void *dout, void *dqkv);

/* The driver's own copy within the device, queued like an operation: what `bench ops` compares with. */
np_status np_cuda_copy(np_ops *ops, void *to, const void *from, size_t bytes);
/* The same beside the operations, as a collective would run: np_cuda_beside_follow. */
np_status np_cuda_beside_copy(np_ops *ops, int signal, void *to, const void *from, size_t bytes);

/* Host memory that kernels may use as well, under the same address: slow, but tests can look into it. 64-byte aligned.
 */
np_status np_cuda_mapped_alloc(np_ops *ops, size_t bytes, void **out);
void np_cuda_mapped_release(np_ops *ops, void *memory); /* NULL is fine */

#endif
