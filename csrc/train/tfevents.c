#include "train/tfevents.h"

#include "tfevents.pb-c.h"
#include "util/file.h"

#include <errno.h>
#include <isa-l/crc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct np_tfevents {
  FILE *file;
  char *path;
};

uint32_t np_tfevents_crc(const void *bytes, size_t size) {
  uint32_t crc = ~crc32_iscsi((unsigned char *)(uintptr_t)bytes, (int)size, 0xffffffffu);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void little_endian(uint64_t value, int bytes, unsigned char *out) {
  for (int i = 0; i < bytes; i++) out[i] = (unsigned char)(value >> (8 * i));
}

static np_status put_event(np_tfevents *events, NpTf__Event *event) {
  np_status st = NP_OK;
  enum { BEFORE = 12, AFTER = 4 };
  event->wall_time = now();
  size_t size = np_tf__event__get_packed_size(event);
  unsigned char *record = malloc(BEFORE + size + AFTER);
  if (!record) return np_error(NP_ERR_MEMORY, "no memory for an event of %zu bytes", size);
  np_tf__event__pack(event, record + BEFORE);
  little_endian(size, 8, record);
  little_endian(np_tfevents_crc(record, 8), 4, record + 8);
  little_endian(np_tfevents_crc(record + BEFORE, size), 4, record + BEFORE + size);
  if (fwrite(record, BEFORE + size + AFTER, 1, events->file) != 1 || fflush(events->file) != 0)
    st = np_error(NP_ERR_IO, "cannot write '%s': %s", events->path, strerror(errno));
  free(record);
  return st;
}

np_status np_tfevents_open(const char *folder, int64_t step, np_tfevents **out) {
  np_status st = NP_OK;
  char host[256] = "unknown", version[] = "brain.Event:2";
  np_tfevents *events = calloc(1, sizeof *events);
  *out = NULL;
  if (!events) return np_error(NP_ERR_MEMORY, "no memory for the event file");
  gethostname(host, sizeof host - 1);
  /* Readers take files in the order of their names. */
  events->path =
      np_format("%s/events.out.tfevents.%010lld.%s.%ld", folder, (long long)time(NULL), host, (long)getpid());
  events->file = fopen(events->path, "wbe");
  if (!events->file) {
    st = np_error(NP_ERR_IO, "cannot write '%s': %s", events->path, strerror(errno));
    goto out;
  }
  NpTf__Event first = NP_TF__EVENT__INIT;
  first.what_case = NP_TF__EVENT__WHAT_FILE_VERSION;
  first.file_version = version;
  NP_TRY(put_event(events, &first));
  NpTf__SessionLog log = NP_TF__SESSION_LOG__INIT;
  log.status = NP_TF__SESSION_LOG__STATUS__START;
  NpTf__Event start = NP_TF__EVENT__INIT;
  start.step = step + 1; /* events from this step on, in earlier files, are void */
  start.what_case = NP_TF__EVENT__WHAT_SESSION_LOG;
  start.session_log = &log;
  NP_TRY(put_event(events, &start));
  *out = events;
  events = NULL;
out:
  np_tfevents_close(events);
  return st;
}

np_status np_tfevents_put(np_tfevents *events, int64_t step, const np_scalar *scalars, int count) {
  enum { MOST = 32 };
  NpTf__Summary__Value values[MOST], *list[MOST];
  NpTf__Summary summary = NP_TF__SUMMARY__INIT;
  NpTf__Event event = NP_TF__EVENT__INIT;
  if (count > MOST) return np_error(NP_ERR_ARGUMENT, "an event of %d scalars; at most %d", count, MOST);
  for (int i = 0; i < count; i++) {
    np_tf__summary__value__init(&values[i]);
    values[i].tag = (char *)(uintptr_t)scalars[i].tag; /* packing does not write to it */
    values[i].value_case = NP_TF__SUMMARY__VALUE__VALUE_SIMPLE_VALUE;
    values[i].simple_value = (float)scalars[i].value;
    list[i] = &values[i];
  }
  summary.n_value = (size_t)count;
  summary.value = list;
  event.step = step;
  event.what_case = NP_TF__EVENT__WHAT_SUMMARY;
  event.summary = &summary;
  return put_event(events, &event);
}

void np_tfevents_close(np_tfevents *events) {
  if (!events) return;
  if (events->file) fclose(events->file);
  free(events->path);
  free(events);
}
