/* The CUDA backend's own header: its state, its checks, its parts.
 *
 * Streams. Operations run on gpu.stream, in the order of the calls. Large uploads run ahead of them on `copies`:
 *
 *   host memory ──memcpy──▶ pinned slot ──copies──▶ device slot ──gpu.stream──▶ destination
 *                 (call)              copied event ─────┘    used event: the device slot may be written again
 *
 * so the next batch crosses the bus while this step computes, and the destination keeps one address, which recorded
 * operations need. A third stream, `beside`, is for collectives: it waits for signals among the operations, and they
 * for it (beside.c). Everything is taken at open, but for scratch, the table of products and what the driver keeps of
 * recordings: they grow while a model is prepared (np_model_prepare), and not after it. */
#ifndef NP_OPS_CUDA_CUDA_H
#define NP_OPS_CUDA_CUDA_H

#include "kernels/failure.h"
#include "kernels/kernels.h"
#include "ops/cuda.h"

#include <cuda_runtime_api.h>

enum {
  NP_CUDA_SMALL = 64 << 10,     /* uploads up to this go straight from a pinned slot to their destination */
  NP_CUDA_SMALL_SLOTS = 64,     /* how many may be under way */
  NP_CUDA_CHUNK = 4 << 20,      /* larger ones in pieces of this */
  NP_CUDA_CHUNK_SLOTS = 16,     /* 64 MiB ahead of the step: 256 images of 224 × 224 fit */
  NP_CUDA_WORKSPACE = 64 << 20, /* of matrix products: room for two float32 parts of a gradient of AIM-0.6B's q, k, v */
};

typedef struct np_cuda_slot {
  unsigned char *pinned, *staged; /* the same bytes on the host and on the device (chunks alone) */
  cudaEvent_t copied, used;       /* pinned may be written again; staged may be */
} np_cuda_slot;

/* What tables opened with `share` have in common. */
typedef struct np_cuda_core {
  np_gpu gpu;
  int references;
  cudaStream_t copies;

  np_cuda_slot small[NP_CUDA_SMALL_SLOTS], chunk[NP_CUDA_CHUNK_SLOTS];
  int next_small, next_chunk;
  unsigned char *pinned; /* one block, cut into the slots and the fetch slots */
  unsigned char *staged;

  unsigned char *fetched;           /* [NP_FETCH_SLOTS][NP_FETCH_BYTES] pinned */
  size_t under_way[NP_FETCH_SLOTS]; /* bytes fetched that did not arrive; 0: none */
  cudaEvent_t fetch[NP_FETCH_SLOTS];
  cudaEvent_t *marks;
  int mark_room;

  cudaStream_t beside;            /* collectives' own; NULL until it is used */
  cudaEvent_t signal[NP_SIGNALS]; /* NULL until they are */
  cudaEvent_t here, there;        /* all operations so far; all that is beside them */

  void *scratch;
  size_t scratch_bytes;
  void **retired; /* scratch that live recordings may still use */
  int retired_count;

  bool recording, record_broken;
  int recordings; /* alive */

  void *matmul;    /* state of matmul.c */
  void *workspace; /* NP_CUDA_WORKSPACE bytes */
  void *cudnn;     /* state of attention_cudnn.c; NULL until it is used */
} np_cuda_core;

typedef struct np_cuda {
  np_ops table; /* first: an np_ops of this backend is an np_cuda */
  np_cuda_core *core;
  np_attention attention;
} np_cuda;

static inline np_cuda *np_cuda_of(np_ops *ops) { return (np_cuda *)ops; }

/* Every entry of the table begins with it: a host thread has a current device of its own, and a caller may have
 * several. A failure shows in the call that follows. */
static inline np_cuda_core *np_cuda_enter(np_ops *ops) {
  np_cuda_core *core = np_cuda_of(ops)->core;
  (void)cudaSetDevice(core->gpu.device);
  return core;
}

/* ---- checks ---- */

/* NP_ERR_LIBRARY (NP_ERR_MEMORY when memory ran out): what was called, on which device, the library's text, what to do.
 */
np_status np_cuda_failed(const np_gpu *gpu, const char *call, np_failure why, const char *text);
np_status np_cuda_error(const np_gpu *gpu, const char *call, cudaError_t code);

/* Relay as NP_TRY does: `core`, `st` and `out` in scope. */
#define NP_CUDA_TRY(call)                                                                                              \
  do {                                                                                                                 \
    cudaError_t np_cuda_code = (call);                                                                                 \
    if (np_cuda_code != cudaSuccess) {                                                                                 \
      st = np_cuda_error(&core->gpu, #call, np_cuda_code);                                                             \
      goto out;                                                                                                        \
    }                                                                                                                  \
  } while (0)

/* An error, and the recording at hand is void, when operations are being recorded; `what` cannot be recorded. */
np_status np_cuda_not_recording(np_cuda_core *core, const char *what);

/* ---- memory.c ---- */
/* Device memory, 256-byte aligned; the message of NP_ERR_MEMORY says what was asked, what is free and what takes less.
 */
np_status np_cuda_take(np_cuda_core *core, size_t bytes, void **out);
/* Pinned memory of the host, by cudaHostAlloc's flags, likewise. */
np_status np_cuda_take_pinned(np_cuda_core *core, size_t bytes, unsigned flags, void **out);
/* At least `bytes` of working memory for the operations of one call, 256-byte aligned, contents undefined. It grows to
 * the largest request and stays; while recording it cannot grow. */
np_status np_cuda_scratch(np_cuda_core *core, size_t bytes, void **out);
void np_cuda_scratch_close(np_cuda_core *core);

np_status np_cuda_alloc(np_ops *ops, size_t bytes, void **out);
void np_cuda_release(np_ops *ops, void *memory);
np_status np_cuda_available(np_ops *ops, size_t *bytes);
np_status np_cuda_zero(np_ops *ops, void *device, size_t bytes);

/* ---- transfer.c ---- */
np_status np_cuda_transfer_open(np_cuda_core *core);
void np_cuda_transfer_close(np_cuda_core *core); /* half opened is fine */
np_status np_cuda_upload(np_ops *ops, void *device, const void *host, size_t bytes);
np_status np_cuda_download(np_ops *ops, void *host, const void *device, size_t bytes);
np_status np_cuda_fetch(np_ops *ops, int slot, const void *device, size_t bytes);
np_status np_cuda_arrive(np_ops *ops, int slot, void *host, size_t bytes);

/* ---- record.c ---- */
np_status np_cuda_record_begin(np_ops *ops);
np_status np_cuda_record_end(np_ops *ops, np_recording **out);
np_status np_cuda_replay(np_ops *ops, np_recording *recording);
void np_cuda_forget(np_ops *ops, np_recording *recording);
np_status np_cuda_mark(np_ops *ops, int index);
np_status np_cuda_elapsed(np_ops *ops, int from, int to, double *seconds);
void np_cuda_marks_close(np_cuda_core *core);

/* ---- beside.c ---- */
np_status np_cuda_signal(np_ops *ops, int signal);
void np_cuda_beside_close(np_cuda_core *core); /* never used is fine */

/* ---- matmul.c ---- */
np_status np_cuda_matmul_open(np_cuda_core *core);
void np_cuda_matmul_close(np_cuda_core *core); /* never opened is fine */
np_status np_cuda_matmul(np_ops *ops, const np_matmul *shape, const void *a, const void *b, const float *bias, void *c);
size_t np_cuda_matmul_version(void); /* of cuBLASLt */

/* ---- attention.c, attention_cudnn.c ---- */
np_status np_cuda_attention_forward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                    const int32_t *prefix, const void *qkv, void *out, float *lse);
np_status np_cuda_attention_backward(np_ops *ops, int batch, int tokens, int heads, int head_width,
                                     const int32_t *prefix, const void *qkv, const void *out, const float *lse,
                                     const void *dout, void *dqkv);
void np_cuda_cudnn_close(np_cuda_core *core); /* never used is fine */
size_t np_cuda_cudnn_version(void);           /* 0: not found */

/* ---- operations.c ---- */
/* Fills the table's entries that are one launch each. */
void np_cuda_operations(np_ops *table);

#endif
