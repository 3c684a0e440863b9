#include "util/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGEST_WRITE = 1 << 30 }; /* Linux writes at most 2 GiB - 4 KiB at once */

static np_status io_error(const char *verb, const char *path) {
  return np_error(NP_ERR_IO, "cannot %s '%s': %s", verb, path, strerror(errno));
}

char *np_format(const char *format, ...) {
  char *text = NULL;
  va_list args;
  va_start(args, format);
  int n = vasprintf(&text, format, args);
  va_end(args);
  if (n < 0) abort();
  return text;
}

char *np_path_join(const char *a, const char *b) {
  size_t length = strlen(a);
  const char *between = length == 0 || a[length - 1] == '/' ? "" : "/";
  return np_format("%s%s%s", a, between, b);
}

/* The folder a path stands in, and where its last component begins. */
static char *folder_of(const char *path, const char **last) {
  const char *slash = strrchr(path, '/');
  *last = slash ? slash + 1 : path;
  if (!slash) return np_format(".");
  int length = slash == path ? 1 : (int)(slash - path);
  return np_format("%.*s", length, path);
}

/* ---- whole reads
 * ----------------------------------------------------------------------------------------------------- */

static np_status read_all(int descriptor, const char *path, char *bytes, size_t *size) {
  size_t used = 0;
  while (used < *size) {
    ssize_t n = read(descriptor, bytes + used, *size - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error("read", path);
    if (n == 0) break; /* became shorter since fstat */
    used += (size_t)n;
  }
  *size = used;
  return NP_OK;
}

np_status np_file_read(const char *path, size_t limit, char **out, size_t *size) {
  np_status st = NP_OK;
  char *bytes = NULL;
  struct stat about;
  *out = NULL;
  *size = 0;
  /* O_NONBLOCK: opening a pipe that nobody writes to must not hang */
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return io_error("open", path);
  if (fstat(descriptor, &about) != 0) {
    st = io_error("read", path);
    goto out;
  }
  if (!S_ISREG(about.st_mode)) {
    st = np_error(NP_ERR_IO, "cannot read '%s': not a regular file", path);
    goto out;
  }
  if ((uint64_t)about.st_size > limit) {
    st = np_error(NP_ERR_FORMAT, "'%s' has %lld bytes; at most %zu are read", path, (long long)about.st_size, limit);
    goto out;
  }
  size_t length = (size_t)about.st_size;
  bytes = malloc(length + 1);
  if (!bytes) {
    st = np_error(NP_ERR_MEMORY, "no memory for the %zu bytes of '%s'", length, path);
    goto out;
  }
  NP_TRY(read_all(descriptor, path, bytes, &length));
  bytes[length] = 0;
  *out = bytes;
  *size = length;
  bytes = NULL;
out:
  free(bytes);
  close(descriptor);
  return st;
}

/* ---- writes that are all or nothing
 * ---------------------------------------------------------------------------------- */

/* Open and lock the temporary. Its name is fixed, so that what a killed program left behind is taken over by the next
 * write of the same file instead of piling up; the lock keeps two writers of one file apart. `*stale`: between open and
 * lock another writer renamed or removed the file we opened, which then must not be touched. */
static np_status open_locked(const char *temporary, const char *path, int *descriptor, bool *stale) {
  struct stat opened, named;
  *stale = false;
  int fd = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return io_error("write", path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) { /* other errors: a file system without locks */
    close(fd);
    return np_error(NP_ERR_IO, "cannot write '%s': another program is writing it", path);
  }
  if (fstat(fd, &opened) != 0 || stat(temporary, &named) != 0 || opened.st_ino != named.st_ino ||
      opened.st_dev != named.st_dev) {
    close(fd);
    *stale = true;
    return NP_OK;
  }
  if (ftruncate(fd, 0) != 0) {
    np_status st = io_error("write", path);
    close(fd);
    return st;
  }
  *descriptor = fd;
  return NP_OK;
}

/* The file that `path` names: behind a link the link's, so that the rename replaces that. Only a regular file is ever
 * replaced: not a device, not a pipe. */
static np_status target_of(const char *path, char **out) {
  struct stat about;
  *out = NULL;
  if (lstat(path, &about) != 0) {
    if (errno != ENOENT) return io_error("write", path);
    *out = np_format("%s", path);
    return NP_OK;
  }
  if (S_ISLNK(about.st_mode)) {
    *out = realpath(path, NULL);
    if (!*out && errno == ENOENT) return np_error(NP_ERR_IO, "cannot write '%s': a symbolic link to nothing", path);
    if (!*out || stat(*out, &about) != 0) {
      free(*out);
      *out = NULL;
      return io_error("write", path);
    }
  } else {
    *out = np_format("%s", path);
  }
  if (S_ISREG(about.st_mode)) return NP_OK;
  free(*out);
  *out = NULL;
  return np_error(NP_ERR_IO, "cannot write: '%s' %s; expected the name of a file", path,
                  S_ISDIR(about.st_mode) ? "is a folder" : "is there and no regular file");
}

np_status np_file_check_target(const char *path) {
  char *target;
  np_status st = target_of(path, &target);
  free(target);
  return st;
}

np_status np_file_begin(np_file_writer *writer, const char *path) {
  const char *last;
  char *folder = NULL, *name = NULL, *temporary = NULL, *target = NULL;
  *writer = (np_file_writer){.descriptor = -1};
  np_status st = NP_OK;
  bool stale = true;
  NP_TRY(target_of(path, &target));
  folder = folder_of(target, &last);
  if (!*last) {
    st = np_error(NP_ERR_IO, "cannot write '%s': not the name of a file", path);
    goto out;
  }
  name = np_format(".%s.tmp", last);
  temporary = np_path_join(folder, name);
  while (stale) NP_TRY(open_locked(temporary, path, &writer->descriptor, &stale));
  writer->path = target;
  writer->temporary = temporary;
  temporary = target = NULL;
out:
  free(target);
  free(temporary);
  free(name);
  free(folder);
  return st;
}

np_status np_file_put(np_file_writer *writer, const void *bytes, size_t size) {
  const char *from = bytes;
  while (size > 0) {
    ssize_t n = write(writer->descriptor, from, size < LARGEST_WRITE ? size : LARGEST_WRITE);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error("write", writer->path);
    if (n == 0) return np_error(NP_ERR_IO, "cannot write '%s': no progress", writer->path);
    from += n;
    size -= (size_t)n;
  }
  return NP_OK;
}

static void writer_clear(np_file_writer *writer) {
  if (writer->descriptor >= 0) close(writer->descriptor);
  free(writer->path);
  free(writer->temporary);
  *writer = (np_file_writer){.descriptor = -1};
}

static np_status commit(np_file_writer *writer, bool sync) {
  np_status st = NP_OK;
  const char *last;
  char *folder = folder_of(writer->path, &last);
  if ((sync && fsync(writer->descriptor) != 0) || rename(writer->temporary, writer->path) != 0) {
    st = io_error("write", writer->path);
    np_file_abort(writer);
    goto out;
  }
  writer_clear(writer); /* the lock outlives the rename, see open_locked */
  if (sync) st = np_folder_sync(folder);
out:
  free(folder);
  return st;
}

np_status np_file_commit(np_file_writer *writer) { return commit(writer, true); }

void np_file_abort(np_file_writer *writer) {
  if (writer->descriptor < 0) return;
  unlink(writer->temporary);
  writer_clear(writer);
}

static np_status write_whole(const char *path, const void *bytes, size_t size, bool sync) {
  np_status st = NP_OK;
  np_file_writer writer;
  NP_TRY(np_file_begin(&writer, path));
  NP_TRY(np_file_put(&writer, bytes, size));
  return commit(&writer, sync);
out:
  np_file_abort(&writer);
  return st;
}

np_status np_file_write(const char *path, const void *bytes, size_t size) {
  return write_whole(path, bytes, size, true);
}

np_status np_file_write_unsynced(const char *path, const void *bytes, size_t size) {
  return write_whole(path, bytes, size, false);
}

/* ---- folders
 * --------------------------------------------------------------------------------------------------------- */

static np_status make_one(const char *path) {
  struct stat about;
  if (mkdir(path, 0777) == 0) return NP_OK;
  int reason = errno;
  if (stat(path, &about) == 0) {
    if (S_ISDIR(about.st_mode)) return NP_OK;
    reason = ENOTDIR;
  }
  errno = reason;
  return io_error("make the folder", path);
}

bool np_folder_is(const char *path) {
  struct stat about;
  return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

np_status np_folder_make(const char *path) {
  np_status st = NP_OK;
  char *part = np_format("%s", path);
  for (char *p = part; *p; p++) {
    if (*p != '/' || p == part || p[-1] == '/') continue;
    *p = 0;
    NP_TRY(make_one(part));
    *p = '/';
  }
  st = make_one(part);
out:
  free(part);
  return st;
}

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *where) {
  (void)about, (void)kind, (void)where;
  return remove(path) != 0 && errno != ENOENT ? errno : 0;
}

np_status np_folder_remove(const char *path) {
  struct stat about;
  if (lstat(path, &about) != 0) {
    if (errno == ENOENT) return NP_OK;
    return io_error("remove", path);
  }
  if (!S_ISDIR(about.st_mode)) return np_error(NP_ERR_IO, "cannot remove '%s': not a folder", path);
  int result = nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
  if (result == 0) return NP_OK;
  if (result > 0) errno = result;
  return io_error("remove", path);
}

np_status np_folder_sync(const char *path) {
  int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return io_error("sync the folder", path);
  np_status st = NP_OK;
  if (fsync(descriptor) != 0 && errno != EINVAL) st = io_error("sync the folder", path); /* EINVAL: cannot be synced */
  close(descriptor);
  return st;
}
