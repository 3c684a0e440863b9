/* Features of a frozen trunk, batch by batch: the mean of chosen blocks' outputs, on the device, float32. */
#ifndef NP_PROBE_FEATURES_H
#define NP_PROBE_FEATURES_H

#include "probe/open.h"

typedef struct np_features {
  np_opened *opened;
  int layers[NP_MAX_LAYERS], layer_count;
  np_ops *ops;   /* float32, for what is done with the features */
  bool owns_ops; /* the trunk runs in another type, so the table above is our own */
  float *values; /* [batch, N, D], on the device */
  size_t image;  /* N·D */
} np_features;

/* `opened` must outlive it; batch as the model was opened with. */
np_status np_features_open(np_opened *opened, const int *layers, int layer_count, int batch, np_features *out);
void np_features_close(np_features *features); /* a zeroed struct is fine */

/* Features of `count` images, pixels u8 [count, H, W, C] on the host, into values. */
np_status np_features_run(np_features *features, int count, const uint8_t *pixels);

/* Write the features of every good image under `root` as .npy: float32 [n, D] (mean over the tokens) or [n, N, D], and
 * beside `path`, its .npy replaced by .txt, the images' names in row order. Damaged images are skipped and logged. All
 * or nothing, `path` last. Several ranks take a part of the images each; the first writes what all have. */
np_status np_features_write(np_features *features, const char *root, int batch, bool mean, const char *path,
                            int64_t *rows, int64_t *bad);

#endif
