#include "probe/features.h"

#include "util/file.h"
#include "util/log.h"
#include "util/npy.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

np_loader_options np_features_loader(const np_recipe *recipe, int batch) {
  return (np_loader_options){
      .height = recipe->model.image_size[0],
      .width = recipe->model.image_size[1],
      .channels = recipe->model.channels,
      .batch = batch,
      .seed = recipe->seed,
      .interpolation = NP_BICUBIC,
      .workers = recipe->data.workers,
      .prefetch = recipe->data.prefetch,
      .max_pixels = recipe->data.max_pixels,
      .max_bad_share = recipe->data.max_bad_share,
  };
}

/* ---- to a file ---- */

/* A name as one line: a line break in it becomes "\n". */
static np_status put_line(np_file_writer *to, const char *text) {
  np_status st = NP_OK;
  for (const char *line_break; (line_break = strchr(text, '\n')); text = line_break + 1) {
    NP_TRY(np_file_put(to, text, (size_t)(line_break - text)));
    NP_TRY(np_file_put(to, "\\n", 2));
  }
  NP_TRY(np_file_put(to, text, strlen(text)));
  st = np_file_put(to, "\n", 1);
out:
  return st;
}

typedef struct sink {
  np_file_writer array, names;
  int64_t shape[3];
  int ndim;
  float *host; /* [batch, N, D] */
} sink;

/* Bring one batch home, average over tokens where asked, and write its rows and names. */
static np_status put_batch(const np_features *f, sink *to, const np_batch *batch, const np_dataset *set) {
  np_status st;
  const size_t width = (size_t)f->opened->recipe->model.width, tokens = f->image / width;
  char *name = NULL;
  NP_TRY(f->ops->download(f->ops, to->host, f->values, (size_t)batch->count * f->image * sizeof(float)));
  for (int b = 0; b < batch->count; b++) {
    float *row = to->host + (size_t)b * f->image;
    for (size_t j = 0; to->ndim == 2 && j < width; j++) {
      double sum = 0;
      for (size_t n = 0; n < tokens; n++) sum += row[n * width + j];
      row[j] = (float)(sum / (double)tokens);
    }
    const size_t values = to->ndim == 2 ? width : f->image;
    free(name);
    name = np_dataset_name(set, batch->indices[b]);
    for (size_t j = 0; j < values; j++)
      if (!isfinite(row[j])) {
        st = np_error(NP_ERR_NUMERIC, "features of '%s' are not finite: value %zu is %g", name, j, (double)row[j]);
        goto out;
      }
    NP_TRY(np_file_put(&to->array, row, values * sizeof(float)));
    NP_TRY(put_line(&to->names, name));
  }
  to->shape[0] += batch->count;
out:
  free(name);
  return st;
}

/* The header is written before the rows, with the most there can be, and again over itself once damaged images have
 * been left out: .npy pads it to a multiple of 64 bytes, so it has the same length. */
static np_status put_header_again(sink *to, const char *path) {
  if (lseek(to->array.descriptor, 0, SEEK_SET) != 0)
    return np_error(NP_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
  np_status st = np_npy_header_f32(&to->array, to->shape, to->ndim);
  if (st == NP_OK && lseek(to->array.descriptor, 0, SEEK_END) < 0)
    return np_error(NP_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
  return st;
}

np_status np_features_write(np_features *f, const char *root, int batch, bool mean, const char *path, int64_t *rows,
                            int64_t *bad) {
  np_status st = NP_OK;
  np_dataset *set = NULL;
  np_loader *loader = NULL;
  const np_batch *now = NULL;
  const np_recipe *recipe = f->opened->recipe;
  const size_t length = strlen(path);
  const bool dotted = length > 4 && !strcmp(path + length - 4, ".npy");
  char *list = np_format("%.*s.txt", (int)(dotted ? length - 4 : length), path);
  sink to = {.array = {.descriptor = -1}, .names = {.descriptor = -1}, .ndim = mean ? 2 : 3};
  const np_loader_options options = np_features_loader(recipe, batch);
  to.shape[mean ? 1 : 2] = recipe->model.width;
  if (!mean) to.shape[1] = np_recipe_tokens(&recipe->model);
  NP_TRY(np_dataset_open(root, false, &set));
  if (!(to.host = malloc((size_t)batch * f->image * sizeof(float)))) {
    st = np_error(NP_ERR_MEMORY, "features: out of memory");
    goto out;
  }
  NP_TRY(np_file_begin(&to.array, path));
  NP_TRY(np_file_begin(&to.names, list));
  to.shape[0] = set->count;
  NP_TRY(np_npy_header_f32(&to.array, to.shape, to.ndim));
  to.shape[0] = 0;
  NP_TRY(np_loader_open(set, &options, &loader));
  for (;;) {
    NP_TRY(np_loader_next(loader, &now));
    if (!now) break;
    NP_TRY(np_features_run(f, now->count, now->pixels));
    NP_TRY(put_batch(f, &to, now, set));
    char *status = np_format("features: %lld of %lld images", (long long)to.shape[0], (long long)set->count);
    np_log_set_status(status);
    free(status);
  }
  if (to.shape[0] == 0) {
    st = np_error(NP_ERR_FORMAT, "%s: none of its %lld images can be read", root, (long long)set->count);
    goto out;
  }
  NP_TRY(put_header_again(&to, path));
  *rows = to.shape[0];
  *bad = np_loader_stats_read(loader).bad;
  NP_TRY(np_file_commit(&to.names));
  NP_TRY(np_file_commit(&to.array));
out:
  np_log_set_status(NULL);
  np_file_abort(&to.array);
  np_file_abort(&to.names);
  np_loader_close(loader);
  np_dataset_close(set);
  free(to.host);
  free(list);
  return st;
}
