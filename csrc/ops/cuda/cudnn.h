/* cuDNN's graphs from C: the library opened at run time, so that the program starts where it is missing; a graph of
 * operations built node by node; the graph made a plan, and the plan run. Used by attention_cudnn.c alone. */
#ifndef NP_OPS_CUDA_CUDNN_H
#define NP_OPS_CUDA_CUDNN_H

#include "ops/cuda/cuda.h"

#include <cudnn_graph.h>

/* Each function taken from the library. */
#define NP_CUDNN_FUNCTIONS(X)                                                                                          \
  X(cudnnGetVersion)                                                                                                   \
  X(cudnnGetErrorString)                                                                                               \
  X(cudnnGetLastErrorString)                                                                                           \
  X(cudnnCreate)                                                                                                       \
  X(cudnnDestroy)                                                                                                      \
  X(cudnnSetStream)                                                                                                    \
  X(cudnnBackendCreateDescriptor)                                                                                      \
  X(cudnnBackendDestroyDescriptor)                                                                                     \
  X(cudnnBackendSetAttribute)                                                                                          \
  X(cudnnBackendGetAttribute)                                                                                          \
  X(cudnnBackendFinalize)                                                                                              \
  X(cudnnBackendExecute)

typedef struct np_cudnn_library {
#define NP_CUDNN_MEMBER(name) __typeof__(&name) name;
  NP_CUDNN_FUNCTIONS(NP_CUDNN_MEMBER)
#undef NP_CUDNN_MEMBER
} np_cudnn_library;

/* Opened once a process and kept; NULL, with the message, where it is not found. */
const np_cudnn_library *np_cudnn_open(void);

/* ---- graphs ---- */

enum { NP_CUDNN_DESCRIPTORS = 160, NP_CUDNN_OPERATIONS = 48, NP_CUDNN_OWN_IDS = 100 };

/* A four-dimensional tensor of a graph. */
typedef struct np_cudnn_tensor {
  int64_t size[4], stride[4];
  cudnnDataType_t type;
  int64_t id;    /* 1 … NP_CUDNN_OWN_IDS - 1: memory or a value given at run time; 0: inside the graph alone */
  bool by_value; /* a host float */
  cudnnBackendDescriptor_t descriptor;
} np_cudnn_tensor;

/* Failures stick: after the first every call does nothing, and np_cudnn_plan reports it. */
typedef struct np_cudnn_graph {
  const np_cudnn_library *cudnn;
  np_status st;
  cudnnBackendDescriptor_t made[NP_CUDNN_DESCRIPTORS], operation[NP_CUDNN_OPERATIONS];
  int made_count, operation_count;
  int64_t next_id;
} np_cudnn_graph;

void np_cudnn_begin(np_cudnn_graph *g, const np_cudnn_library *library);
/* Make the descriptor of a tensor whose other members are filled; returns it. */
np_cudnn_tensor np_cudnn_declare(np_cudnn_graph *g, np_cudnn_tensor tensor);
/* y = mode(x, b) or, for a selection, t ? x : b. b and t may be NULL. `math`: the type computed in. `axis`: of an
 * index. */
void np_cudnn_pointwise(np_cudnn_graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t math, int64_t axis,
                        const np_cudnn_tensor *x, const np_cudnn_tensor *b, const np_cudnn_tensor *t,
                        const np_cudnn_tensor *y);
void np_cudnn_reduce(np_cudnn_graph *g, cudnnReduceTensorOp_t how, const np_cudnn_tensor *x, const np_cudnn_tensor *y);
void np_cudnn_multiply(np_cudnn_graph *g, const np_cudnn_tensor *a, const np_cudnn_tensor *b, const np_cudnn_tensor *c);
void np_cudnn_reshape(np_cudnn_graph *g, const np_cudnn_tensor *x, const np_cudnn_tensor *y);

/* The graph's first plan that the device takes, in the order of cuDNN's heuristic. The plan and its workspace; the
 * graph must stay until np_cudnn_end. */
np_status np_cudnn_plan(np_cudnn_graph *g, cudnnHandle_t handle, cudnnBackendDescriptor_t *plan, int64_t *workspace);
void np_cudnn_end(np_cudnn_graph *g);
/* Queue it on the handle's stream: memory[i] is of tensor ids[i]. */
np_status np_cudnn_run(const np_cudnn_library *library, cudnnHandle_t handle, cudnnBackendDescriptor_t plan, int count,
                       const int64_t *ids, void *const *memory, void *workspace);

#endif
