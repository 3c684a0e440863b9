/* shards_bench TARS [READS]: what it takes to list tar files of images, and to read READS (100,000) of their members:
 * from tars kept open, and from tars that each read opens. Printed as JSON. docs/data.md has numbers. */
#include "data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double megabytes_now(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  if (!file || fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
  if (file) fclose(file);
  return (double)pages * (double)sysconf(_SC_PAGESIZE) * 1e-6;
}

/* Seconds of `reads` reads, member after member; negative after an error. */
static double read_members(const np_dataset *set, int64_t reads, void *bytes, bool opening) {
  const double start = now();
  for (int64_t i = 0; i < reads; i++) {
    const np_sample *s = &set->samples[i % set->count];
    np_shard shard = set->shards[s->shard];
    if (opening) shard.descriptor = -1;
    if (np_shard_read(&shard, s->offset, s->size, s->path, bytes) != NP_OK) return -1;
  }
  return now() - start;
}

int main(int argc, char **argv) {
  int failed = 1;
  np_dataset *set = NULL;
  void *bytes = NULL;
  size_t largest = 1;
  struct rusage usage;
  const int64_t reads = argc > 2 ? atoll(argv[2]) : 100000;
  if (argc < 2 || argc > 3 || reads < 1) {
    fprintf(stderr, "usage: shards_bench TARS [READS]\n");
    return 2;
  }
  const double before = megabytes_now(), start = now();
  if (np_dataset_open(argv[1], false, &set) != NP_OK || set->shard_count == 0) goto report;
  const double listed = now() - start, held = megabytes_now() - before;
  getrusage(RUSAGE_SELF, &usage);
  for (int64_t i = 0; i < set->count; i++) largest = set->samples[i].size > largest ? set->samples[i].size : largest;
  if (!(bytes = malloc(largest))) goto report;
  const double warm = read_members(set, reads, bytes, false), kept = read_members(set, reads, bytes, false);
  const double opened = read_members(set, reads, bytes, true);
  if (warm < 0 || kept < 0 || opened < 0) goto report;
  printf("{\"tars\": %d, \"images\": %lld, \"list_s\": %.3f, \"held_mb\": %.1f, \"peak_mb\": %.1f, "
         "\"read_open_us\": %.2f, \"read_opening_us\": %.2f}\n",
         set->shard_count, (long long)set->count, listed, held, (double)usage.ru_maxrss * 1.024e-3,
         kept / (double)reads * 1e6, opened / (double)reads * 1e6);
  failed = 0;
  goto out;
report:
  fprintf(stderr, "error: %s\n", set && set->shard_count == 0 ? "no tar files" : np_error_message());
out:
  free(bytes);
  np_dataset_close(set);
  return failed;
}
