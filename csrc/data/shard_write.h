/* A tar file of images, written: it appears whole or not at all. */
#ifndef NP_DATA_SHARD_WRITE_H
#define NP_DATA_SHARD_WRITE_H

#include "util/file.h"

struct archive;
typedef struct np_shard_writer {
  np_file_writer file;
  struct archive *archive;
  np_status status; /* of the writes below libarchive */
} np_shard_writer;

/* As np_file_begin, put, commit and abort. The same members give the same bytes, whoever writes them when. */
np_status np_shard_begin(np_shard_writer *writer, const char *path);
np_status np_shard_put(np_shard_writer *writer, const char *name, const void *bytes, size_t size);
np_status np_shard_commit(np_shard_writer *writer);
void np_shard_abort(np_shard_writer *writer); /* after begin failed or commit: nothing */

#endif
