#include "data/dataset_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { KEPT_OPEN = 256, MESSAGE_BYTES = 1024 };

/* So many tars are kept open; others are opened for every read. Other rooms need files, too, and a probe holds two
 * datasets. */
static int kept_open(void) {
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur / 4 > KEPT_OPEN) return KEPT_OPEN;
  return (int)(files.rlim_cur / 4);
}

typedef struct listing {
  np_member *members;
  int64_t count;
} listing;

/* ---- what the tars hold ------------------------------------------------------------------------------------------ */

/* Tars share the threads as they like: they wait for the disk, or for a server. Behind one that fails no other is
 * begun, and of several the first is told. */
static np_status open_all(np_dataset *d, bool labelled, listing *listings) {
  np_status st = NP_OK;
  char message[MESSAGE_BYTES] = "";
  int failed = d->shard_count;
  const int kept = kept_open();
#pragma omp parallel for schedule(dynamic, 1)
  for (int s = 0; s < d->shard_count; s++) {
    int before;
#pragma omp atomic read
    before = failed;
    if (before < s) continue;
    np_status one = np_shard_open(&d->shards[s], s < kept, labelled, &listings[s].members, &listings[s].count);
    if (one == NP_OK) continue;
#pragma omp critical(np_dataset_failure)
    if (s < failed) {
      snprintf(message, sizeof message, "%s", np_error_message()); /* messages belong to a thread */
      st = one;
#pragma omp atomic write
      failed = s;
    }
  }
  return st == NP_OK ? NP_OK : np_error(st, "%s", message);
}

/* *most: the largest number that a .cls member gave; -1: none did. Then the labels are these numbers. */
static np_status gather(np_dataset *d, listing *listings, int *most) {
  int64_t total = 0;
  *most = -1;
  for (int s = 0; s < d->shard_count; s++) {
    total += listings[s].count;
    for (int64_t m = 0; m < listings[s].count; m++)
      if (listings[s].members[m].number > *most) *most = listings[s].members[m].number;
  }
  if (!(d->samples = malloc((size_t)total * sizeof *d->samples))) return np_dataset_no_memory(d->shards[0].path);
  for (int s = 0; s < d->shard_count; s++) {
    for (int64_t m = 0; m < listings[s].count; m++) {
      const np_member *member = &listings[s].members[m];
      d->samples[d->count++] = (np_sample){.path = d->shards[s].names + member->name,
                                           .offset = member->offset,
                                           .size = member->size,
                                           .shard = s,
                                           .label = *most < 0 ? d->shards[s].label : member->number};
    }
    free(listings[s].members);
    listings[s].members = NULL;
  }
  return NP_OK;
}

/* ---- classes ----------------------------------------------------------------------------------------------------- */

/* Length of the name of a member's top folder; 0: it lies in none. */
static size_t top_folder(const np_sample *sample) {
  const char *slash = strchr(sample->path, '/');
  return slash ? (size_t)(slash - sample->path) : 0;
}

/* Where the class stands, or where it would. */
static bool find_class(const np_dataset *d, const char *name, size_t length, int *at) {
  int low = 0, high = d->class_count;
  while (low < high) {
    const int middle = low + (high - low) / 2, order = strncmp(d->classes[middle], name, length);
    if (order == 0 && !d->classes[middle][length]) {
      *at = middle;
      return true;
    }
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  *at = low;
  return false;
}

static np_status label_by_members(np_dataset *d) {
  np_status st = NP_OK;
  int at;
  d->class_count = 0; /* the folders of the tars are none */
  for (int64_t i = 0; i < d->count; i++) {
    const size_t length = top_folder(&d->samples[i]);
    if (length > 0 && !find_class(d, d->samples[i].path, length, &at))
      NP_TRY(np_dataset_add_class(d, at, d->samples[i].path, length));
  }
  for (int64_t i = 0; i < d->count; i++) {
    const size_t length = top_folder(&d->samples[i]);
    d->samples[i].label = length > 0 && find_class(d, d->samples[i].path, length, &at) ? at : -1;
  }
out:
  return st;
}

/* The numbers that .cls members gave stay the labels. */
static np_status label_by_number(np_dataset *d, int most) {
  np_status st = NP_OK;
  char name[16];
  d->class_count = 0;
  for (int c = 0; c <= most; c++)
    NP_TRY(np_dataset_add_class(d, c, name, (size_t)snprintf(name, sizeof name, "%d", c)));
out:
  return st;
}

static np_status check_labels(const np_dataset *d) {
  for (int64_t i = 0; i < d->count; i++) {
    if (d->samples[i].label >= 0) continue;
    char *name = np_dataset_name(d, i);
    np_status st = np_error(NP_ERR_ARGUMENT,
                            "'%s' has no class: in tar files labels come from NAME.cls beside NAME.png, or from "
                            "folders, as CLASS/image.png (of the members, or CLASS/shard.tar)",
                            name);
    free(name);
    return st;
  }
  return NP_OK;
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const np_shard *)a)->path, ((const np_shard *)b)->path);
}

np_status np_dataset_list_shards(np_dataset *d, bool labelled) {
  np_status st = NP_OK;
  bool folders = false;
  int most;
  listing *listings = calloc((size_t)d->shard_count, sizeof *listings);
  if (!listings) return np_dataset_no_memory(d->shards[0].path);
  qsort(d->shards, (size_t)d->shard_count, sizeof *d->shards, by_path);
  NP_TRY(open_all(d, labelled, listings));
  NP_TRY(gather(d, listings, &most));
  for (int64_t i = 0; i < d->count && !folders; i++) folders = top_folder(&d->samples[i]) > 0;
  if (most >= 0) NP_TRY(label_by_number(d, most));
  else if (folders) NP_TRY(label_by_members(d));
  if (labelled) st = check_labels(d);
out:
  for (int s = 0; s < d->shard_count; s++) free(listings[s].members);
  free(listings);
  return st;
}
