#include "probe/evaluate.h"

#include "util/file.h"
#include "util/log.h"

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

static np_status score_part(np_features *features, np_heads *heads, int grid, int classes, const np_dataset *part,
                            int batch, np_score *scores, int64_t *per_class) {
  np_status st = NP_OK;
  np_loader *loader = NULL;
  const np_batch *now = NULL;
  np_loader_options options = np_features_loader(features->opened->recipe, batch);
  options.max_bad_share = 1;          /* all ranks' images are judged together */
  if (part->count == 0) return NP_OK; /* fewer images than ranks */
  float *logits = malloc((size_t)batch * (size_t)classes * sizeof *logits);
  if (!logits) return np_error(NP_ERR_MEMORY, "evaluation: out of memory");
  NP_TRY(np_loader_open(part, &options, &loader));
  for (;;) {
    NP_TRY(np_loader_next(loader, &now));
    if (!now) break;
    NP_TRY(np_features_run(features, now->count, now->pixels));
    NP_TRY(np_heads_normalise(heads, now->count, 0, features->values));
    for (int g = 0; g < grid; g++) {
      NP_TRY(np_heads_forward(heads, g, now->count, features->values, logits));
      count_hits(logits, now, classes, &scores[g], g == 0 ? per_class : NULL);
    }
    char *status = np_format("evaluating: %lld of %lld images", (long long)scores[0].images, (long long)part->count);
    if (np_comm_rank(features->opened->comm) == 0) np_log_set_status(status);
    free(status);
  }
  for (int g = 0; g < grid; g++) scores[g].bad = np_loader_stats_read(loader).bad;
out:
  np_log_set_status(NULL);
  np_loader_close(loader);
  free(logits);
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
  int64_t begin;
  const np_dataset part = np_open_part(features->opened, set, &begin);
  memset(scores, 0, (size_t)grid * sizeof *scores);
  if (per_class) memset(per_class, 0, 2 * (size_t)classes * sizeof *per_class);
  NP_TRY(np_comm_settle(comm, score_part(features, heads, grid, classes, &part, batch, scores, per_class)));
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
