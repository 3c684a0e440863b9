/* Any bytes as a tar file: refused with a reason, or every byte of every member can be read. */
#include "data/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look(np_shard *shard, const np_member *members, int64_t count, size_t size) {
  if (count < 1) abort();
  for (int64_t i = 0; i < count; i++) {
    const np_member *m = &members[i];
    const char *name = shard->names + m->name;
    if (m->offset < 0 || (size_t)m->offset + m->size > size || !*name || *name == '/') abort();
    char *bytes = malloc(m->size + 1);
    if (!bytes || np_shard_read(shard, m->offset, m->size, name, bytes) != NP_OK) abort();
    free(bytes);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char path[32];
  np_member *members;
  int64_t count;
  int descriptor = memfd_create("fuzz", 0);
  if (descriptor < 0 || write(descriptor, data, size) != (ssize_t)size) abort();
  snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  np_shard shard = {.path = strdup(path), .descriptor = -1};
  if (np_shard_open(&shard, size % 2, size % 4 < 2, &members, &count) == NP_OK) look(&shard, members, count, size);
  else if (members || count || !*np_error_message()) abort();
  free(members);
  np_shard_close(&shard);
  close(descriptor);
  return 0;
}
