#include "probe/progress.h"

#include "util/log.h"
#include "util/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* The numbers of the file, on the host, each head's behind the one before:
 *   heads [G, H]   weights and running statistics (np_heads_params)
 *   first, second [G, L]   moments (np_heads_learnt)
 *   points [G, 2] float64   Σ of training losses, steps applied
 *   images [2] int64   drawn, damaged */
typedef struct contents {
  int64_t count, head, learnt; /* G, H, L */
  float *heads, *first, *second;
  double *points;
  int64_t images[2];
} contents;

enum { TENSORS = 5, POINT = 2 };

static np_status take(const np_probe_progress *p, contents *c) {
  *c = (contents){
      .count = p->result->count, .head = np_heads_params(p->heads)->total, .learnt = np_heads_learnt(p->heads)->total};
  c->heads = malloc((size_t)(c->count * c->head) * sizeof *c->heads);
  c->first = malloc((size_t)(c->count * c->learnt) * sizeof *c->first);
  c->second = malloc((size_t)(c->count * c->learnt) * sizeof *c->second);
  c->points = malloc((size_t)(c->count * POINT) * sizeof *c->points);
  if (c->heads && c->first && c->second && c->points) return NP_OK;
  return np_error(NP_ERR_MEMORY, "probe: no memory for its progress");
}

static void release(contents *c) {
  free(c->heads);
  free(c->first);
  free(c->second);
  free(c->points);
}

static void describe(const contents *c, np_tensor tensors[TENSORS]) {
  const size_t f = sizeof(float);
  tensors[0] = (np_tensor){.name = "heads", .dtype = NP_F32, .ndim = 2, .shape = {c->count, c->head}, .data = c->heads};
  tensors[1] =
      (np_tensor){.name = "first", .dtype = NP_F32, .ndim = 2, .shape = {c->count, c->learnt}, .data = c->first};
  tensors[2] =
      (np_tensor){.name = "second", .dtype = NP_F32, .ndim = 2, .shape = {c->count, c->learnt}, .data = c->second};
  tensors[3] = (np_tensor){.name = "points", .dtype = NP_F64, .ndim = 2, .shape = {c->count, POINT}, .data = c->points};
  tensors[4] = (np_tensor){
      .name = "images", .dtype = NP_I64, .ndim = 1, .shape = {2}, .data = c->images, .bytes = sizeof c->images};
  tensors[0].bytes = (size_t)(c->count * c->head) * f;
  tensors[1].bytes = tensors[2].bytes = (size_t)(c->count * c->learnt) * f;
  tensors[3].bytes = (size_t)(c->count * POINT) * sizeof(double);
}

/* Of all that decides how a probe goes on: a bit that a disk has lost is not taken for a weight. */
static uint64_t hash_of(const np_tensor tensors[TENSORS], const char *step) {
  uint64_t hash = XXH3_64bits(step, strlen(step));
  for (int i = 0; i < TENSORS; i++) hash = XXH3_64bits_withSeed(tensors[i].data, tensors[i].bytes, hash);
  return hash;
}

np_status np_probe_progress_write(const char *path, const np_probe_progress *p) {
  np_status st = NP_OK;
  contents c;
  np_tensor tensors[TENSORS];
  char step[24], seconds[32], hash[24];
  NP_TRY(take(p, &c));
  for (int g = 0; g < p->result->count; g++) {
    np_step_outcome outcome;
    NP_TRY(np_heads_get(p->heads, g, c.heads + g * c.head));
    NP_TRY(np_optimiser_get(p->optimisers[g], c.first + g * c.learnt, c.second + g * c.learnt));
    NP_TRY(np_optimiser_read(p->optimisers[g], &outcome));
    c.points[POINT * g] = p->result->points[g].train_loss;
    c.points[POINT * g + 1] = (double)outcome.steps;
  }
  memcpy(c.images, p->images, sizeof c.images);
  describe(&c, tensors);
  snprintf(step, sizeof step, "%" PRId64, p->step);
  snprintf(seconds, sizeof seconds, "%.17g", p->seconds);
  snprintf(hash, sizeof hash, "%016" PRIx64, hash_of(tensors, step));
  const np_metadata metadata[] = {
      {"settings", p->settings}, {"machine", p->machine}, {"step", step}, {"seconds", seconds}, {"hash", hash}};
  st = np_safetensors_write(path, tensors, TENSORS, metadata, (int)(sizeof metadata / sizeof *metadata));
out:
  release(&c);
  return st;
}

/* ---- reading ---- */

static np_status check_settings(const char *path, const char *there, const char *here) {
  np_difference d = {.a = there, .b = here};
  if (!np_recipe_next_difference(&d)) return NP_OK;
  return np_error(
      NP_ERR_ARGUMENT,
      "'%s' is the progress of a probe with '%s%.*s', here it is '%s%.*s': remove the file to begin anew, or "
      "give another out=",
      path, d.section, d.a_length, d.a_line, d.section, d.b_length, d.b_line);
}

static np_status check_shapes(const char *path, const np_safetensors *file, const np_tensor wanted[TENSORS],
                              np_tensor found[TENSORS]) {
  for (int i = 0; i < TENSORS; i++) {
    const np_tensor *t = np_safetensors_find(file, wanted[i].name);
    if (!t || t->dtype != wanted[i].dtype || t->bytes != wanted[i].bytes)
      return np_error(NP_ERR_FORMAT, "'%s' is damaged: %s is missing or of another size; remove it to begin anew", path,
                      wanted[i].name);
    found[i] = *t;
  }
  return NP_OK;
}

static np_status check_hash(const char *path, const np_safetensors *file, const np_tensor found[TENSORS],
                            const char *step) {
  const char *hash = np_safetensors_metadata(file, "hash");
  char ours[24];
  snprintf(ours, sizeof ours, "%016" PRIx64, hash_of(found, step));
  if (hash && !strcmp(hash, ours)) return NP_OK;
  return np_error(NP_ERR_FORMAT, "'%s' is damaged: its bytes are not those that were written; remove it to begin anew",
                  path);
}

static np_status fill(const contents *c, np_probe_progress *p) {
  np_status st = NP_OK;
  for (int g = 0; g < p->result->count; g++) {
    const double *point = c->points + POINT * g;
    NP_TRY(np_heads_set(p->heads, g, c->heads + g * c->head));
    NP_TRY(np_optimiser_set(p->optimisers[g], c->first + g * c->learnt, c->second + g * c->learnt, (int64_t)point[1]));
    p->result->points[g].train_loss = point[0];
  }
out:
  return st;
}

np_status np_probe_progress_read(const char *path, np_probe_progress *p) {
  np_status st = NP_OK;
  np_safetensors *file = NULL;
  contents c = {0};
  np_tensor wanted[TENSORS], found[TENSORS];
  p->step = 0;
  p->seconds = 0;
  if (access(path, F_OK) != 0) return NP_OK;
  NP_TRY(np_safetensors_open(path, &file));
  const char *settings = np_safetensors_metadata(file, "settings"), *step = np_safetensors_metadata(file, "step");
  const char *seconds = np_safetensors_metadata(file, "seconds");
  if (!settings || !step || !seconds) {
    st = np_error(NP_ERR_FORMAT, "'%s' is not the progress of a probe; remove it, or give another out=", path);
    goto out;
  }
  NP_TRY(check_settings(path, settings, p->settings));
  NP_TRY(take(p, &c));
  describe(&c, wanted);
  NP_TRY(check_shapes(path, file, wanted, found));
  NP_TRY(check_hash(path, file, found, step));
  void *const to[TENSORS] = {c.heads, c.first, c.second, c.points, c.images};
  for (int i = 0; i < TENSORS; i++) memcpy(to[i], found[i].data, found[i].bytes);
  NP_TRY(fill(&c, p));
  const char *machine = np_safetensors_metadata(file, "machine");
  if (machine && strcmp(machine, p->machine) != 0)
    np_warn("'%s' was made on %s, this is %s: the last bits may be others", path, machine, p->machine);
  p->step = strtoll(step, NULL, 10);
  p->seconds = strtod(seconds, NULL);
  memcpy(p->images, c.images, sizeof c.images);
out:
  np_safetensors_close(file);
  release(&c);
  return st;
}
