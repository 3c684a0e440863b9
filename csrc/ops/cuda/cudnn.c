/* cudnn.h, where cuDNN's headers were found. */
#ifdef NP_HAVE_CUDNN
#include "ops/cuda/cudnn.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

/* ---- the library ---- */

static np_cudnn_library library;
static bool found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_library(void) {
  static const char *const names[] = {"libcudnn.so.9", NP_CUDA_LIBRARY_DIR "/libcudnn.so.9"};
  void *handle = NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names && !handle; i++) handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!handle) return;
  found = true;
#define TAKE(name)                                                                                                     \
  *(void **)&library.name = dlsym(handle, #name);                                                                      \
  found = found && library.name;
  NP_CUDNN_FUNCTIONS(TAKE)
#undef TAKE
}

const np_cudnn_library *np_cudnn_open(void) {
  pthread_once(&once, open_library);
  if (found) return &library;
  np_error(NP_ERR_LIBRARY, "attention: cudnn: libcudnn.so.9 is not found or lacks a function; set LD_LIBRARY_PATH");
  return NULL;
}

/* ---- descriptors ---- */

static np_status failed(const np_cudnn_library *lib, const char *what, cudnnStatus_t code) {
  char text[400] = "";
  lib->cudnnGetLastErrorString(text, sizeof text);
  text[strcspn(text, "\n")] = 0;
  return np_error(NP_ERR_LIBRARY, "cuDNN: %s: %s%s%s", what, lib->cudnnGetErrorString(code), *text ? ": " : "", text);
}

void np_cudnn_begin(np_cudnn_graph *g, const np_cudnn_library *lib) {
  *g = (np_cudnn_graph){.cudnn = lib, .next_id = NP_CUDNN_OWN_IDS};
}

void np_cudnn_end(np_cudnn_graph *g) {
  while (g->made_count > 0) (void)g->cudnn->cudnnBackendDestroyDescriptor(g->made[--g->made_count]);
}

static cudnnBackendDescriptor_t make(np_cudnn_graph *g, cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t descriptor = NULL;
  if (g->st != NP_OK) return NULL;
  if (g->made_count == NP_CUDNN_DESCRIPTORS) {
    g->st = np_error(NP_ERR_LIBRARY, "cuDNN: a graph of more than %d descriptors", NP_CUDNN_DESCRIPTORS);
    return NULL;
  }
  cudnnStatus_t code = g->cudnn->cudnnBackendCreateDescriptor(type, &descriptor);
  if (code != CUDNN_STATUS_SUCCESS) g->st = failed(g->cudnn, "a descriptor", code);
  else g->made[g->made_count++] = descriptor;
  return descriptor;
}

static void set(np_cudnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values) {
  if (g->st != NP_OK) return;
  cudnnStatus_t code = g->cudnn->cudnnBackendSetAttribute(d, name, type, count, values);
  if (code != CUDNN_STATUS_SUCCESS) g->st = failed(g->cudnn, "an attribute", code);
}

/* An attribute that is another descriptor; NULL: not set. */
static void set_part(np_cudnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                     const np_cudnn_tensor *part) {
  if (part) set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part->descriptor);
}

static void finish(np_cudnn_graph *g, cudnnBackendDescriptor_t d, const char *what) {
  if (g->st != NP_OK) return;
  cudnnStatus_t code = g->cudnn->cudnnBackendFinalize(d);
  if (code != CUDNN_STATUS_SUCCESS) g->st = failed(g->cudnn, what, code);
}

np_cudnn_tensor np_cudnn_declare(np_cudnn_graph *g, np_cudnn_tensor t) {
  cudnnBackendDescriptor_t d = t.descriptor = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const int64_t alignment = 16, id = t.id ? t.id : g->next_id++;
  const bool inside = t.id == 0;
  set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t.type);
  set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t.size);
  set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t.stride);
  set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inside);
  set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &t.by_value);
  finish(g, d, "a tensor");
  return t;
}

/* ---- operations ---- */

static void add(np_cudnn_graph *g, cudnnBackendDescriptor_t operation, const char *what) {
  finish(g, operation, what);
  if (g->st == NP_OK && g->operation_count == NP_CUDNN_OPERATIONS)
    g->st = np_error(NP_ERR_LIBRARY, "cuDNN: a graph of more than %d operations", NP_CUDNN_OPERATIONS);
  if (g->st == NP_OK) g->operation[g->operation_count++] = operation;
}

void np_cudnn_pointwise(np_cudnn_graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t math, int64_t axis,
                        const np_cudnn_tensor *x, const np_cudnn_tensor *b, const np_cudnn_tensor *t,
                        const np_cudnn_tensor *y) {
  cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &math);
  if (mode == CUDNN_POINTWISE_GEN_INDEX) set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
  finish(g, how, "a pointwise descriptor");
  cudnnBackendDescriptor_t operation = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &how);
  set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
  set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
  set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  add(g, operation, "a pointwise operation");
}

void np_cudnn_reduce(np_cudnn_graph *g, cudnnReduceTensorOp_t mode, const np_cudnn_tensor *x,
                     const np_cudnn_tensor *y) {
  const cudnnDataType_t math = CUDNN_DATA_FLOAT;
  cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
  set(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
  finish(g, how, "a reduction descriptor");
  cudnnBackendDescriptor_t operation = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  set(g, operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &how);
  set_part(g, operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  set_part(g, operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  add(g, operation, "a reduction");
}

void np_cudnn_multiply(np_cudnn_graph *g, const np_cudnn_tensor *a, const np_cudnn_tensor *b,
                       const np_cudnn_tensor *c) {
  const cudnnDataType_t math = CUDNN_DATA_FLOAT;
  cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
  finish(g, how, "a product's descriptor");
  cudnnBackendDescriptor_t operation = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  set(g, operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &how);
  set_part(g, operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
  set_part(g, operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
  set_part(g, operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
  add(g, operation, "a product");
}

void np_cudnn_reshape(np_cudnn_graph *g, const np_cudnn_tensor *x, const np_cudnn_tensor *y) {
  cudnnBackendDescriptor_t operation = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  set_part(g, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
  set_part(g, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
  add(g, operation, "a reshape");
}

/* ---- plans ---- */

/* The plan of one of the heuristic's proposals, or NULL when the device does not take it. */
static cudnnBackendDescriptor_t try_plan(np_cudnn_graph *g, cudnnHandle_t handle, cudnnBackendDescriptor_t engine) {
  cudnnBackendDescriptor_t plan = make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  set(g, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  set(g, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
  if (g->st != NP_OK) return NULL;
  return g->cudnn->cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS ? plan : NULL;
}

static int64_t proposals(np_cudnn_graph *g, cudnnHandle_t handle, cudnnBackendDescriptor_t engine[], int64_t most) {
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  int64_t count = 0;
  cudnnBackendDescriptor_t graph = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operation_count, g->operation);
  finish(g, graph, "the graph");
  cudnnBackendDescriptor_t heuristic = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
  set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  finish(g, heuristic, "its heuristic");
  for (int64_t i = 0; i < most; i++) engine[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  if (g->st != NP_OK) return 0;
  cudnnStatus_t code = g->cudnn->cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &count, engine);
  if (code != CUDNN_STATUS_SUCCESS) g->st = failed(g->cudnn, "its heuristic's results", code);
  return g->st == NP_OK ? count < most ? count : most : 0;
}

np_status np_cudnn_plan(np_cudnn_graph *g, cudnnHandle_t handle, cudnnBackendDescriptor_t *plan, int64_t *workspace) {
  enum { MOST = 8 };
  cudnnBackendDescriptor_t engine[MOST];
  int64_t count = proposals(g, handle, engine, MOST), written;
  *plan = NULL;
  for (int64_t i = 0; i < count && !*plan && g->st == NP_OK; i++) *plan = try_plan(g, handle, engine[i]);
  if (g->st == NP_OK && !*plan) g->st = np_error(NP_ERR_LIBRARY, "cuDNN: no engine of this GPU takes the graph");
  if (g->st != NP_OK) return g->st;
  cudnnStatus_t code = g->cudnn->cudnnBackendGetAttribute(*plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                          CUDNN_TYPE_INT64, 1, &written, workspace);
  return code == CUDNN_STATUS_SUCCESS ? NP_OK : failed(g->cudnn, "a plan's workspace", code);
}

np_status np_cudnn_run(const np_cudnn_library *lib, cudnnHandle_t handle, cudnnBackendDescriptor_t plan, int count,
                       const int64_t *ids, void *const *memory, void *workspace) {
  np_cudnn_graph g;
  np_cudnn_begin(&g, lib);
  cudnnBackendDescriptor_t pack = make(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, memory);
  set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  finish(&g, pack, "a variant pack");
  if (g.st == NP_OK) {
    cudnnStatus_t code = lib->cudnnBackendExecute(handle, plan, pack);
    if (code != CUDNN_STATUS_SUCCESS) g.st = failed(lib, "attention", code);
  }
  np_cudnn_end(&g);
  return g.st;
}
#endif
