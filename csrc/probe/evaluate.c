#include "probe/evaluate.h"

#include "probe/walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int np_rank(const float *logits, int classes, int label) {
  int above = 0;
  for (int c = 0; c < classes; c++) {
    if (isnan(logits[c])) return classes;
    above += logits[c] > logits[label] || (logits[c] == logits[label] && c < label);
  }
  return above;
}

static double cross_entropy(const float *logits, int classes, int label) {
  double most = logits[0], sum = 0;
  for (int c = 1; c < classes; c++) most = fmax(most, logits[c]);
  for (int c = 0; c < classes; c++) sum += exp(logits[c] - most);
  return log(sum) + most - logits[label];
}

np_status np_classes_equal(const char *a_name, char *const *a, int a_count, const char *b_name, char *const *b,
                           int b_count) {
  for (int i = 0; i < a_count && i < b_count; i++)
    if (strcmp(a[i], b[i]))
      return np_error(NP_ERR_ARGUMENT, "classes differ: class %d is '%s' in %s but '%s' in %s", i, a[i], a_name, b[i],
                      b_name);
  if (a_count < b_count)
    return np_error(NP_ERR_ARGUMENT, "classes differ: '%s' of %s is missing in %s", b[a_count], b_name, a_name);
  if (b_count < a_count)
    return np_error(NP_ERR_ARGUMENT, "classes differ: '%s' of %s is missing in %s", a[b_count], a_name, b_name);
  return NP_OK;
}

static void count_hits(const float *logits, const np_batch *batch, int classes, np_score *score, int64_t *per_class) {
  for (int b = 0; b < batch->count; b++) {
    const float *row = logits + (size_t)b * (size_t)classes;
    const int label = batch->labels[b], rank = np_rank(row, classes, label);
    score->images++;
    score->top1 += rank < 1;
    score->top5 += rank < 5 && rank < classes;
    score->loss += cross_entropy(row, classes, label);
    if (!per_class) continue;
    per_class[label]++;
    per_class[classes + label] += rank < 1;
  }
}

typedef struct scoring {
  np_features *features;
  np_heads *heads;
  int grid, classes;
  float *logits; /* [batch, classes] */
  np_score *scores;
  int64_t *per_class;
} scoring;

static np_status score_batch(const scoring *s, const np_batch *now) {
  np_status st = NP_OK;
  NP_TRY(np_features_run(s->features, now->count, now->pixels));
  NP_TRY(np_heads_normalise(s->heads, now->count, 0, s->features->values));
  for (int g = 0; g < s->grid; g++) {
    NP_TRY(np_heads_forward(s->heads, g, now->count, s->features->values, s->logits));
    count_hits(s->logits, now, s->classes, &s->scores[g], g == 0 ? s->per_class : NULL);
  }
out:
  return st;
}

/* This rank's part of the images. */
static np_status score_part(scoring *s, const np_dataset *set, int batch) {
  np_status st = NP_OK;
  const np_opened *opened = s->features->opened;
  np_walk walk = {0};
  const np_batch *now;
  s->logits = malloc((size_t)batch * (size_t)s->classes * sizeof *s->logits);
  if (!s->logits) st = np_error(NP_ERR_MEMORY, "evaluation: out of memory");
  if (st == NP_OK) st = np_walk_open(opened, set, batch, "evaluating", &walk);
  NP_TRY(np_comm_settle(opened->comm, st));
  for (;;) {
    NP_TRY(np_walk_next(&walk, st, &now));
    if (!now) break;
    st = score_batch(s, now);
  }
  for (int g = 0; g < s->grid; g++) s->scores[g].bad = np_walk_bad(&walk);
out:
  np_walk_close(&walk);
  free(s->logits);
  return st;
}

/* Every rank's scores and counts, added up. */
static np_status add_up(np_comm *comm, int grid, int classes, np_score *scores, int64_t *per_class) {
  enum { IMAGES, BAD, TOP1, TOP5, LOSS, EACH };
  const size_t of_classes = per_class ? 2 * (size_t)classes : 0, count = EACH * (size_t)grid + of_classes;
  double *all = malloc(count * sizeof *all), *counts = all + EACH * (size_t)grid; /* exact up to 2^53 */
  if (!all) return np_error(NP_ERR_MEMORY, "evaluation: out of memory");
  for (int g = 0; g < grid; g++) {
    const np_score *s = &scores[g];
    const double row[EACH] = {(double)s->images, (double)s->bad, (double)s->top1, (double)s->top5, s->loss};
    memcpy(all + EACH * g, row, sizeof row);
  }
  for (size_t i = 0; i < of_classes; i++) counts[i] = (double)per_class[i];
  np_status st = np_comm_total(comm, all, (int64_t)count);
  for (int g = 0; g < grid; g++) {
    const double *row = all + EACH * g;
    scores[g] = (np_score){.images = (int64_t)row[IMAGES],
                           .bad = (int64_t)row[BAD],
                           .top1 = (int64_t)row[TOP1],
                           .top5 = (int64_t)row[TOP5],
                           .loss = row[LOSS]};
  }
  for (size_t i = 0; i < of_classes; i++) per_class[i] = (int64_t)counts[i];
  free(all);
  return st;
}

np_status np_evaluate(np_features *features, np_heads *heads, int grid, int classes, const np_dataset *set, int batch,
                      np_score *scores, int64_t *per_class) {
  np_status st = NP_OK;
  np_comm *comm = features->opened->comm;
  scoring s = {
      .features = features, .heads = heads, .grid = grid, .classes = classes, .scores = scores, .per_class = per_class};
  memset(scores, 0, (size_t)grid * sizeof *scores);
  if (per_class) memset(per_class, 0, 2 * (size_t)classes * sizeof *per_class);
  NP_TRY(score_part(&s, set, batch));
  NP_TRY(add_up(comm, grid, classes, scores, per_class));
  st = np_loader_check_bad(scores[0].bad, scores[0].images + scores[0].bad,
                           features->opened->recipe->data.max_bad_share);
  if (scores[0].images == 0)
    st = np_error(NP_ERR_FORMAT, "evaluation: none of the %lld images can be read", (long long)set->count);
  NP_TRY(np_comm_settle(comm, st));
  for (int g = 0; g < grid; g++) scores[g].loss /= (double)scores[g].images;
out:
  return st;
}
