/* The table of an attentive head: names, shapes, initial values, and files. */
#include "model/attentive_head.h"
#include "util/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLICES = 6, LEARNT = 4 };

np_status np_heads_layout(int width, int classes, np_params *out, int64_t *learnt) {
  const struct {
    const char *name;
    int ndim;
    int64_t shape[3], rows, columns;
    np_param_role role;
  } slices[SLICES] = {
      {"head.cls_token", 3, {1, 1, width}, 1, width, NP_PARAM_MATRIX},
      {"head.k.weight", 2, {width, width}, width, width, NP_PARAM_MATRIX},
      {"head.v.weight", 2, {width, width}, width, width, NP_PARAM_MATRIX},
      {"head.linear.weight", 2, {classes, width}, classes, width, NP_PARAM_MATRIX},
      {"head.bn.running_mean", 1, {width}, 1, width, NP_PARAM_BIAS},
      {"head.bn.running_var", 1, {width}, 1, width, NP_PARAM_BIAS},
  };
  *out = (np_params){0};
  *learnt = 0;
  if (!(out->items = calloc(SLICES, sizeof *out->items)))
    return np_error(NP_ERR_MEMORY, "attentive head: out of memory");
  for (int i = 0; i < SLICES; i++) {
    np_param *p = &out->items[out->count++];
    snprintf(p->name, sizeof p->name, "%s", slices[i].name);
    p->ndim = slices[i].ndim;
    memcpy(p->shape, slices[i].shape, sizeof slices[i].shape);
    p->rows = slices[i].rows;
    p->columns = slices[i].columns;
    p->role = slices[i].role;
    p->offset = out->total;
    p->count = p->rows * p->columns;
    out->elements += p->count;
    out->total += np_param_room(p->count);
    if (i < LEARNT) *learnt = out->total;
  }
  return NP_OK;
}

void np_heads_init(const np_params *table, uint64_t seed, float *host) {
  memset(host, 0, (size_t)table->total * sizeof *host);
  for (int i = 0; i < table->count; i++) {
    const np_param *p = &table->items[i];
    float *to = host + p->offset;
    np_rng rng = np_rng_make(seed, NP_PURPOSE_PROBE, 0, (uint64_t)i);
    if (!strcmp(p->name, "head.cls_token")) {
      for (int64_t j = 0; j < p->count; j++) to[j] = (float)(0.02 * np_rng_normal(&rng));
    } else if (p->role == NP_PARAM_MATRIX) {
      const double bound = 1 / sqrt((double)p->columns);
      for (int64_t j = 0; j < p->count; j++) to[j] = (float)(bound * (2 * np_rng_uniform(&rng) - 1));
    } else if (!strcmp(p->name, "head.bn.running_var")) {
      for (int64_t j = 0; j < p->count; j++) to[j] = 1;
    }
  }
}

np_status np_heads_load(const np_params *table, const np_safetensors *file, const char *name, float *host) {
  memset(host, 0, (size_t)table->total * sizeof *host);
  for (int i = 0; i < table->count; i++) {
    const np_param *p = &table->items[i];
    const np_tensor *tensor = np_safetensors_find(file, p->name);
    if (!tensor) return np_error(NP_ERR_FORMAT, "%s: no tensor '%s': not a file with an attentive head", name, p->name);
    /* The query has been published as [1, 1, D]; its sizes of 1 carry no meaning, the count does. */
    bool fits = np_tensor_count(tensor) == p->count && (p->ndim == 3 || tensor->ndim == p->ndim);
    for (int j = 0; fits && p->ndim < 3 && j < p->ndim; j++) fits = tensor->shape[j] == p->shape[j];
    if (!fits)
      return np_error(NP_ERR_FORMAT, "%s: tensor '%s' has %lld values, expected %lld × %lld", name, p->name,
                      (long long)np_tensor_count(tensor), (long long)p->rows, (long long)p->columns);
    np_status st = np_tensor_to_f32(tensor, host + p->offset, p->count);
    if (st != NP_OK) return np_error_context(st, "%s", name);
  }
  return NP_OK;
}

np_status np_heads_infer(const np_safetensors *file, const char *name, int *width, int *classes) {
  const np_tensor *linear = np_safetensors_find(file, "head.linear.weight");
  if (!linear || !np_safetensors_find(file, "head.cls_token"))
    return np_error(NP_ERR_FORMAT, "%s: holds no attentive head (tensors head.cls_token, head.linear.weight, ...)",
                    name);
  if (linear->ndim != 2 || linear->shape[0] < 1 || linear->shape[1] < 1 || linear->shape[0] > 1 << 24 ||
      linear->shape[1] > 1 << 20)
    return np_error(NP_ERR_FORMAT, "%s: tensor 'head.linear.weight' is not a matrix [classes, width]", name);
  *classes = (int)linear->shape[0];
  *width = (int)linear->shape[1];
  return NP_OK;
}
