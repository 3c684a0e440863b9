#include "train/metrics.h"

#include "train/tfevents.h"
#include "util/file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LARGEST_FILE = 1 << 30 };

struct np_metrics {
  FILE *file;
  char *path;
  np_tfevents *events;
};

/* Fields of a line, in their order, with TensorBoard's tag; step comes first and has none. */
static const struct field {
  const char *name, *tag;
  size_t offset;
  int whole; /* int64_t instead of double */
} fields[] = {
    {"step", NULL, offsetof(np_metric, step), 1},
    {"epoch", "train/epoch", offsetof(np_metric, epoch), 0},
    {"loss", "train/loss", offsetof(np_metric, loss), 0},
    {"lr", "train/lr", offsetof(np_metric, lr), 0},
    {"grad_norm", "train/grad_norm", offsetof(np_metric, grad_norm), 0},
    {"images_per_s", "speed/images_per_s", offsetof(np_metric, images_per_s), 0},
    {"gflops", "speed/gflops", offsetof(np_metric, gflops), 0},
    {"data_wait_share", "speed/data_wait_share", offsetof(np_metric, data_wait_share), 0},
    {"seconds", "speed/seconds", offsetof(np_metric, seconds), 0},
    {"bad_images", "data/bad_images", offsetof(np_metric, bad_images), 1},
    {"skipped_steps", "train/skipped_steps", offsetof(np_metric, skipped_steps), 1},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static double get(const np_metric *metric, const struct field *field) {
  const char *at = (const char *)metric + field->offset;
  return field->whole ? (double)*(const int64_t *)at : *(const double *)at;
}

static void set(np_metric *metric, const struct field *field, double value) {
  char *at = (char *)metric + field->offset;
  if (field->whole) *(int64_t *)at = isfinite(value) ? (int64_t)value : 0;
  else *(double *)at = value;
}

/* One line without its end; false when it is none of ours (half written, or empty). */
static int parse(const char *text, size_t size, np_metric *out) {
  cJSON *json = cJSON_ParseWithLength(text, size);
  int good = cJSON_IsObject(json) && cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(json, "step"));
  for (int i = 0; good && i < FIELDS; i++)
    set(out, &fields[i], cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, fields[i].name)));
  cJSON_Delete(json);
  return good;
}

static np_status read_lines(const char *path, char **text, size_t *size) {
  if (access(path, F_OK) == 0) return np_file_read(path, LARGEST_FILE, text, size);
  *text = NULL;
  *size = 0;
  return NP_OK;
}

/* Lines that are kept are moved to the front; the file is replaced only when some go. */
static np_status drop_behind(const char *path, int64_t step) {
  np_status st = NP_OK;
  char *text = NULL;
  size_t size, kept = 0;
  NP_TRY(read_lines(path, &text, &size));
  for (size_t at = 0; at < size;) {
    const char *end = memchr(text + at, '\n', size - at);
    if (!end) break; /* half a line */
    size_t length = (size_t)(end - (text + at)) + 1;
    np_metric metric;
    if (parse(text + at, length - 1, &metric) && metric.step <= step) {
      memmove(text + kept, text + at, length);
      kept += length;
    }
    at += length;
  }
  if (kept < size) st = np_file_write(path, text, kept);
out:
  free(text);
  return st;
}

np_status np_metrics_open(const char *run, int64_t step, np_metrics **out) {
  np_status st = NP_OK;
  np_metrics *metrics = calloc(1, sizeof *metrics);
  *out = NULL;
  if (!metrics) return np_error(NP_ERR_MEMORY, "no memory for the metrics");
  metrics->path = np_path_join(run, "metrics.jsonl");
  NP_TRY(drop_behind(metrics->path, step));
  metrics->file = fopen(metrics->path, "abe");
  if (!metrics->file) {
    st = np_error(NP_ERR_IO, "cannot write '%s': %s", metrics->path, strerror(errno));
    goto out;
  }
  NP_TRY(np_tfevents_open(run, step, &metrics->events));
  *out = metrics;
  metrics = NULL;
out:
  np_metrics_close(metrics);
  return st;
}

static np_status put_line(np_metrics *metrics, const np_metric *metric) {
  np_status st = NP_OK;
  cJSON *json = cJSON_CreateObject();
  for (int i = 0; i < FIELDS; i++) cJSON_AddNumberToObject(json, fields[i].name, get(metric, &fields[i]));
  char *text = cJSON_PrintUnformatted(json); /* prints what is not finite as null */
  cJSON_Delete(json);
  if (!text) return np_error(NP_ERR_MEMORY, "no memory for a line of '%s'", metrics->path);
  if (fprintf(metrics->file, "%s\n", text) < 0 || fflush(metrics->file) != 0)
    st = np_error(NP_ERR_IO, "cannot write '%s': %s", metrics->path, strerror(errno));
  cJSON_free(text);
  return st;
}

np_status np_metrics_put(np_metrics *metrics, const np_metric *metric) {
  np_status st = NP_OK;
  np_scalar scalars[FIELDS];
  int count = 0;
  NP_TRY(put_line(metrics, metric));
  for (int i = 0; i < FIELDS; i++)
    if (fields[i].tag) scalars[count++] = (np_scalar){fields[i].tag, get(metric, &fields[i])};
  st = np_tfevents_put(metrics->events, metric->step, scalars, count);
out:
  return st;
}

void np_metrics_close(np_metrics *metrics) {
  if (!metrics) return;
  np_tfevents_close(metrics->events);
  if (metrics->file) fclose(metrics->file);
  free(metrics->path);
  free(metrics);
}

np_status np_metrics_read(const char *run, np_metric **out, int *count) {
  np_status st = NP_OK;
  char *text = NULL, *path = np_path_join(run, "metrics.jsonl");
  size_t size, lines = 0;
  *out = NULL;
  *count = 0;
  NP_TRY(read_lines(path, &text, &size));
  for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
  *out = calloc(lines + 1, sizeof **out);
  if (!*out) {
    st = np_error(NP_ERR_MEMORY, "no memory for the lines of '%s'", path);
    goto out;
  }
  for (size_t at = 0; at < size;) {
    const char *end = memchr(text + at, '\n', size - at);
    if (!end) break;
    if (parse(text + at, (size_t)(end - (text + at)), &(*out)[*count])) ++*count;
    at = (size_t)(end - text) + 1;
  }
out:
  free(text);
  free(path);
  return st;
}
