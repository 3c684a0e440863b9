#include "probe/features.h"

#include <string.h>

np_status np_features_open(np_opened *opened, const int *layers, int layer_count, int batch, np_features *out) {
  np_status st = NP_OK;
  const np_recipe_model *model = &opened->recipe->model;
  void *values = NULL;
  *out = (np_features){.opened = opened, .layer_count = layer_count};
  memcpy(out->layers, layers, (size_t)layer_count * sizeof *layers);
  out->image = (size_t)np_recipe_tokens(model) * (size_t)model->width;
  NP_TRY(np_open_float_ops(opened, &out->ops, &out->owns_ops));
  NP_TRY(out->ops->alloc(out->ops, (size_t)batch * out->image * sizeof(float), &values));
  out->values = values;
out:
  if (st != NP_OK) np_features_close(out);
  return st;
}

void np_features_close(np_features *features) {
  if (features->ops) features->ops->release(features->ops, features->values);
  if (features->ops && features->owns_ops) features->ops->destroy(features->ops);
  *features = (np_features){0};
}

np_status np_features_run(np_features *features, int count, const uint8_t *pixels) {
  np_status st;
  np_model *model = features->opened->model;
  NP_TRY(np_model_feed(model, count, pixels, NULL, NULL));
  NP_TRY(np_model_features(model, features->layers, features->layer_count, features->values));
out:
  return st;
}
