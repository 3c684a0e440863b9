/* Micro-batches of a training step on a bed, and the comparison of two beds in bits. */
#ifndef NP_TESTS_MODEL_PARTS_H
#define NP_TESTS_MODEL_PARTS_H

#include "unit/model_bed.h"

#include <stdint.h>

/* One micro-batch of a step: images `from` .. from + count. */
typedef struct part {
  int from, count;
  bool bytes, first;
  int32_t prefix[BATCH];
} part;

static inline void run_part(bed *b, const part *p) {
  static uint8_t bytes[BATCH * PIXELS];
  for (int i = 0; i < BATCH * PIXELS; i++) bytes[i] = (uint8_t)(127.5f + 127.5f * noise(5u * (uint32_t)i));
  const size_t at = (size_t)p->from * PIXELS;
  ok(np_model_feed(b->model, p->count, p->bytes ? bytes + at : NULL, p->bytes ? NULL : b->images + at, p->prefix));
  ok(np_model_train(b->model, 17, p->first));
}

/* Loss and gradients so far, compared in bits. */
static inline void compare(bed *a, bed *b, const char *what) {
  double x, y;
  float *p = malloc((size_t)a->total * sizeof *p), *q = malloc((size_t)b->total * sizeof *q);
  ok(np_model_read_loss(a->model, &x));
  ok(np_model_read_loss(b->model, &y));
  ok(a->ops->download(a->ops, p, np_model_gradients(a->model), (size_t)a->total * sizeof *p));
  ok(b->ops->download(b->ops, q, np_model_gradients(b->model), (size_t)b->total * sizeof *q));
  if (memcmp(&x, &y, sizeof x)) fail_msg("%s: losses %.17g and %.17g", what, x, y);
  for (int64_t i = 0; i < a->total; i++)
    if (memcmp(p + i, q + i, sizeof *p))
      fail_msg("%s: gradient %lld is %.9g and %.9g", what, (long long)i, (double)p[i], (double)q[i]);
  free(p);
  free(q);
}

#endif
