/* Recordings (CUDA graphs) and marks (events with a time). */
#include "ops/cuda/cuda.h"

#include <stdlib.h>

struct np_recording {
  cudaGraphExec_t graph;
};

np_status np_cuda_not_recording(np_cuda_core *core, const char *what) {
  if (!core->recording) return NP_OK;
  core->record_broken = true;
  return np_error(NP_ERR_ARGUMENT, "%s cannot be recorded", what);
}

np_status np_cuda_record_begin(np_ops *ops) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  NP_TRY(np_cuda_not_recording(core, "a recording"));
  NP_CUDA_TRY(cudaStreamBeginCapture(core->gpu.stream, cudaStreamCaptureModeRelaxed)); /* it may load kernels */
  core->recording = true;
  core->record_broken = false;
out:
  return st;
}

np_status np_cuda_record_end(np_ops *ops, np_recording **out) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  cudaGraph_t graph = NULL;
  np_recording *recording = NULL;
  *out = NULL;
  if (!core->recording) return np_error(NP_ERR_ARGUMENT, "record_end without record_begin");
  core->recording = false;
  NP_CUDA_TRY(cudaStreamEndCapture(core->gpu.stream, &graph));
  if (core->record_broken) {
    st = np_error_context(NP_ERR_ARGUMENT, "recording failed");
    goto out;
  }
  recording = calloc(1, sizeof *recording);
  if (!recording) {
    st = np_error(NP_ERR_MEMORY, "not enough memory for a recording");
    goto out;
  }
  NP_CUDA_TRY(cudaGraphInstantiate(&recording->graph, graph, 0));
  /* What a replay needs is taken now, and not by the first one. */
  NP_CUDA_TRY(cudaGraphUpload(recording->graph, core->gpu.stream));
  core->recordings++;
  *out = recording;
  recording = NULL;
out:
  if (recording && recording->graph) (void)cudaGraphExecDestroy(recording->graph);
  free(recording);
  if (graph) (void)cudaGraphDestroy(graph);
  return st;
}

np_status np_cuda_replay(np_ops *ops, np_recording *recording) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  NP_TRY(np_cuda_not_recording(core, "a replay"));
  NP_CUDA_TRY(cudaGraphLaunch(recording->graph, core->gpu.stream));
out:
  return st;
}

void np_cuda_forget(np_ops *ops, np_recording *recording) {
  np_cuda_core *core = np_cuda_enter(ops);
  if (!recording) return;
  (void)cudaStreamSynchronize(core->gpu.stream); /* it may be running */
  (void)cudaGraphExecDestroy(recording->graph);
  core->recordings--;
  free(recording);
}

/* ---- time ---- */

enum { MOST_MARKS = 1 << 20 };

static np_status room_for(np_cuda_core *core, int index) {
  if (index < 0 || index >= MOST_MARKS)
    return np_error(NP_ERR_ARGUMENT, "mark %d: expected an index from 0 to %d", index, MOST_MARKS - 1);
  if (index < core->mark_room) return NP_OK;
  int room = index + 1 > 2 * core->mark_room ? index + 1 : 2 * core->mark_room;
  cudaEvent_t *longer = realloc(core->marks, (size_t)room * sizeof *longer);
  if (!longer) return np_error(NP_ERR_MEMORY, "not enough memory for %d marks", room);
  for (int i = core->mark_room; i < room; i++) longer[i] = NULL;
  core->marks = longer;
  core->mark_room = room;
  return NP_OK;
}

np_status np_cuda_mark(np_ops *ops, int index) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st;
  NP_TRY(np_cuda_not_recording(core, "a mark"));
  NP_TRY(room_for(core, index));
  if (!core->marks[index]) NP_CUDA_TRY(cudaEventCreateWithFlags(&core->marks[index], cudaEventBlockingSync));
  NP_CUDA_TRY(cudaEventRecord(core->marks[index], core->gpu.stream));
out:
  return st;
}

np_status np_cuda_elapsed(np_ops *ops, int from, int to, double *seconds) {
  np_cuda_core *core = np_cuda_enter(ops);
  np_status st = NP_OK;
  const int wanted[2] = {from, to};
  float milliseconds = 0;
  for (int i = 0; i < 2; i++) {
    if (wanted[i] < 0 || wanted[i] >= core->mark_room || !core->marks[wanted[i]])
      return np_error(NP_ERR_ARGUMENT, "elapsed: mark %d was never set", wanted[i]);
    NP_CUDA_TRY(cudaEventSynchronize(core->marks[wanted[i]]));
  }
  NP_CUDA_TRY(cudaEventElapsedTime(&milliseconds, core->marks[from], core->marks[to]));
  *seconds = 1e-3 * (double)milliseconds;
out:
  return st;
}

void np_cuda_marks_close(np_cuda_core *core) {
  for (int i = 0; i < core->mark_room; i++)
    if (core->marks[i]) (void)cudaEventDestroy(core->marks[i]);
  free(core->marks);
}
