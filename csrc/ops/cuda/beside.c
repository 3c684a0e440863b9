/* Signals among the operations, and the stream beside them on which collectives run:
 *
 *   gpu.stream   … backward of a block, signal 0, backward of the next, signal 1, …          ─┐ wait(there), AdamW
 *   beside           wait(signal 0), sum of its gradients, wait(signal 1), sum, …  there ─────┘
 *
 * A signal in a recording is a node of its graph, which records the event anew in every replay: so what waits for it
 * after the replay was queued waits for that replay. */
#include "ops/cuda/cuda.h"

static np_status make(np_cuda_core *core, cudaEvent_t *event) {
  np_status st = NP_OK;
  if (!*event) NP_CUDA_TRY(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
out:
  return st;
}

np_status np_cuda_signal(np_ops *ops, int signal) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  if (signal < 0 || signal >= NP_SIGNALS)
    return np_error(NP_ERR_ARGUMENT, "signal %d: expected 0 to %d", signal, NP_SIGNALS - 1);
  NP_TRY(make(core, &core->signal[signal]));
  NP_CUDA_TRY(cudaEventRecordWithFlags(core->signal[signal], core->gpu.stream,
                                       core->recording ? cudaEventRecordExternal : cudaEventRecordDefault));
out:
  return st;
}

/* Collectives are short and others wait for them: the highest priority there is. */
static np_status open_beside(np_cuda_core *core) {
  np_status st = NP_OK;
  int least, greatest;
  if (core->beside) return NP_OK;
  NP_CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  NP_CUDA_TRY(cudaStreamCreateWithPriority(&core->beside, cudaStreamNonBlocking, greatest));
  NP_TRY(make(core, &core->here));
  NP_TRY(make(core, &core->there));
out:
  return st;
}

np_status np_cuda_beside_follow(np_ops *ops, int signal, void **stream) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  *stream = NULL;
  NP_TRY(np_cuda_not_recording(core, "a collective"));
  NP_TRY(open_beside(core));
  if (signal >= NP_SIGNALS || (signal >= 0 && !core->signal[signal]))
    return np_error(NP_ERR_ARGUMENT, "signal %d was never queued", signal);
  if (signal < 0) NP_CUDA_TRY(cudaEventRecord(core->here, core->gpu.stream));
  NP_CUDA_TRY(cudaStreamWaitEvent(core->beside, signal < 0 ? core->here : core->signal[signal], 0));
  *stream = core->beside;
out:
  return st;
}

np_status np_cuda_beside_join(np_ops *ops) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  NP_TRY(np_cuda_not_recording(core, "a collective"));
  NP_TRY(open_beside(core));
  NP_CUDA_TRY(cudaEventRecord(core->there, core->beside));
  NP_CUDA_TRY(cudaStreamWaitEvent(core->gpu.stream, core->there, 0));
out:
  return st;
}

void np_cuda_beside_close(np_cuda_core *core) {
  if (core->beside) (void)cudaStreamSynchronize(core->beside);
  for (int i = 0; i < NP_SIGNALS; i++)
    if (core->signal[i]) (void)cudaEventDestroy(core->signal[i]);
  if (core->here) (void)cudaEventDestroy(core->here);
  if (core->there) (void)cudaEventDestroy(core->there);
  if (core->beside) (void)cudaStreamDestroy(core->beside);
}
