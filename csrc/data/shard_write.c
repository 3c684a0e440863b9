#include "data/shard_write.h"

#include <archive.h>
#include <archive_entry.h>

static la_ssize_t write_block(struct archive *archive, void *context, const void *bytes, size_t size) {
  np_shard_writer *writer = context;
  (void)archive;
  writer->status = np_file_put(&writer->file, bytes, size);
  return writer->status == NP_OK ? (la_ssize_t)size : -1;
}

/* What libarchive's result means: a write that failed has left its message. */
static np_status check(const np_shard_writer *writer, int result) {
  if (writer->status != NP_OK) return writer->status;
  if (result == ARCHIVE_OK) return NP_OK;
  const char *reason = archive_error_string(writer->archive);
  return np_error(NP_ERR_LIBRARY, "cannot write '%s': %s", writer->file.path, reason ? reason : "libarchive failed");
}

np_status np_shard_begin(np_shard_writer *writer, const char *path) {
  np_status st = NP_OK;
  *writer = (np_shard_writer){.file = {.descriptor = -1}};
  NP_TRY(np_file_begin(&writer->file, path));
  if (!(writer->archive = archive_write_new())) {
    st = np_error(NP_ERR_MEMORY, "no memory to write '%s'", path);
    goto out;
  }
  archive_write_set_format_pax_restricted(writer->archive); /* ustar, and pax headers where a name needs them */
  NP_TRY(check(writer, archive_write_open(writer->archive, writer, NULL, write_block, NULL)));
out:
  if (st != NP_OK) np_shard_abort(writer);
  return st;
}

np_status np_shard_put(np_shard_writer *writer, const char *name, const void *bytes, size_t size) {
  np_status st = NP_OK;
  struct archive_entry *entry = archive_entry_new();
  if (!entry) return np_error(NP_ERR_MEMORY, "no memory to write '%s'", name);
  archive_entry_set_pathname(entry, name);
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_entry_set_perm(entry, 0644);
  archive_entry_set_size(entry, (la_int64_t)size);
  NP_TRY(check(writer, archive_write_header(writer->archive, entry)));
  if (archive_write_data(writer->archive, bytes, size) != (la_ssize_t)size) st = check(writer, ARCHIVE_FATAL);
out:
  archive_entry_free(entry);
  return st;
}

static void release(np_shard_writer *writer) {
  archive_write_free(writer->archive);
  writer->archive = NULL;
}

np_status np_shard_commit(np_shard_writer *writer) {
  np_status st = NP_OK;
  NP_TRY(check(writer, archive_write_close(writer->archive)));
  release(writer);
  return np_file_commit(&writer->file);
out:
  np_shard_abort(writer);
  return st;
}

void np_shard_abort(np_shard_writer *writer) {
  if (writer->archive) { /* not to write an end behind what failed */
    archive_write_fail(writer->archive);
    release(writer);
  }
  np_file_abort(&writer->file);
}
