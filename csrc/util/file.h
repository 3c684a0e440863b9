/* Files and folders: whole reads, writes that are all or nothing. */
#ifndef NP_UTIL_FILE_H
#define NP_UTIL_FILE_H

#include "util/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Read a whole regular file; *out is malloc'ed with a NUL behind it. Files over `limit` bytes are NP_ERR_FORMAT. */
np_status np_file_read(const char *path, size_t limit, char **out, size_t *size);

/* A file that appears whole or not at all: written as a hidden temporary beside `path`, then synced, renamed, and the
 * folder synced. Behind a symbolic link it is the link's target that is replaced; what is there and not a regular file
 * (a device, a pipe, a folder) is NP_ERR_IO. */
typedef struct np_file_writer {
  int descriptor;
  char *path, *temporary;
} np_file_writer;
np_status np_file_begin(np_file_writer *writer, const char *path);
np_status np_file_check_target(const char *path); /* whether begin would take this path: before long work */
np_status np_file_put(np_file_writer *writer, const void *bytes, size_t size);
np_status np_file_commit(np_file_writer *writer); /* on failure the temporary is removed, as by abort */
void np_file_abort(np_file_writer *writer);       /* after begin failed or commit: nothing */

np_status np_file_write(const char *path, const void *bytes, size_t size); /* begin, put, commit */
/* The same without waiting for the disk, for thousands of small files: whole or absent after a kill, not after a power
 * cut. */
np_status np_file_write_unsynced(const char *path, const void *bytes, size_t size);

bool np_folder_is(const char *path);          /* a folder, or a link to one */
np_status np_folder_make(const char *path);   /* with its parents; fine when there */
np_status np_folder_remove(const char *path); /* with what it holds; fine when absent */
np_status np_folder_sync(const char *path);

/* malloc'ed "a/b"; aborts the program when out of memory, as np_format does. */
char *np_path_join(const char *a, const char *b);
char *np_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
