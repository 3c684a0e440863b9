#include "data/shard.h"

#include "image/image.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 512, READ_BYTES = 4096 };

/* ---- names ------------------------------------------------------------------------------------------------------- */

static bool ends_in(const char *name, const char *ending) {
  size_t length = strlen(name), n = strlen(ending);
  return length > n && strcasecmp(name + length - n, ending) == 0;
}

bool np_shard_is_name(const char *name) { return ends_in(name, ".tar"); }

bool np_shard_is_compressed(const char *name) {
  static const char *const endings[] = {".tar.gz", ".tgz", ".tar.zst", ".tzst",   ".tar.bz2",
                                        ".tbz2",   ".txz", ".tar.xz",  ".tar.lz4"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
    if (ends_in(name, endings[i])) return true;
  return false;
}

/* "./a/b.png" and "/a/b.png" are a/b.png. */
static const char *below_root(const char *name) {
  while (*name == '/' || (name[0] == '.' && name[1] == '/')) name++;
  return name;
}

/* As in a folder: neither the file nor one above it is hidden. */
static bool is_hidden(const char *name) {
  for (const char *part = name; part; part = strchr(part, '/')) {
    part += *part == '/';
    if (*part == '.') return true;
  }
  return false;
}

static bool is_image(const char *name) { return !is_hidden(name) && np_image_is_name(name); }
static bool is_number(const char *name) { return !is_hidden(name) && ends_in(name, ".cls"); }

/* How much of a name those of one sample have in common, as WebDataset has it: up to the first dot of its last part. */
static size_t stem_length(const char *name) {
  const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
  return (size_t)(last - name) + strcspn(last, ".");
}

/* ---- reading headers --------------------------------------------------------------------------------------------- */

typedef struct reader {
  np_shard *shard;
  struct archive *archive;
  int descriptor;
  int64_t size, position; /* of the file; of the next read */
  size_t names_used, names_room;
  np_member *members;
  int64_t count, room;
  bool numbers;
  char *stem;    /* of the sample that the last member belongs to; NULL: none was met */
  int64_t first; /* of its images, among the members */
  int32_t number;
  char block[READ_BYTES];
} reader;

/* Headers alone are read, in small pieces: what lies between them may be a hundred times as much. */
static la_ssize_t read_block(struct archive *archive, void *context, const void **block) {
  reader *r = context;
  ssize_t n;
  do n = pread(r->descriptor, r->block, sizeof r->block, r->position);
  while (n < 0 && errno == EINTR);
  if (n < 0) archive_set_error(archive, errno, "%s", strerror(errno));
  else r->position += n;
  *block = r->block;
  return n;
}

static la_int64_t skip_bytes(struct archive *archive, void *context, la_int64_t request) {
  reader *r = context;
  (void)archive;
  int64_t left = r->size - r->position, skipped = request < left ? request : left;
  if (skipped < 0) skipped = 0;
  r->position += skipped;
  return skipped;
}

static np_status open_file(const char *path, int *descriptor, int64_t *size) {
  struct stat about;
  *descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to hang in a pipe that nobody writes to */
  if (*descriptor < 0) return np_error(NP_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
  if (fstat(*descriptor, &about) != 0) return np_error(NP_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
  if (!S_ISREG(about.st_mode)) return np_error(NP_ERR_IO, "cannot read '%s': not a regular file", path);
  *size = about.st_size;
  return NP_OK;
}

static np_status damaged(const reader *r) {
  const char *reason = archive_error_string(r->archive);
  return np_error(NP_ERR_FORMAT, "'%s' is no tar file or a damaged one: %s, near byte %lld", r->shard->path,
                  reason ? reason : "unreadable", (long long)archive_filter_bytes(r->archive, 0));
}

static np_status open_archive(reader *r) {
  struct archive *a = r->archive = archive_read_new();
  if (!a) return np_error(NP_ERR_MEMORY, "no memory to read '%s'", r->shard->path);
  archive_read_support_format_tar(a);
  /* Without this option, zeros in the place of a header, as in a file that was never filled, would pass for its end. */
  archive_read_set_format_option(a, "tar", "read_concatenated_archives", "1");
  archive_read_set_read_callback(a, read_block);
  archive_read_set_skip_callback(a, skip_bytes);
  archive_read_set_callback_data(a, r);
  return archive_read_open1(a) == ARCHIVE_OK ? NP_OK : damaged(r);
}

/* ---- one member -------------------------------------------------------------------------------------------------- */

static np_status keep_member(reader *r, const char *name, int64_t size) {
  size_t length = strlen(name) + 1;
  if (r->names_used + length > r->names_room) {
    size_t room = 2 * r->names_room + length + READ_BYTES;
    char *larger = realloc(r->shard->names, room);
    if (!larger) goto no_memory;
    r->shard->names = larger;
    r->names_room = room;
  }
  if (r->count == r->room) {
    int64_t room = 2 * r->room + 64;
    np_member *larger = realloc(r->members, (size_t)room * sizeof *larger);
    if (!larger) goto no_memory;
    r->members = larger;
    r->room = room;
  }
  memcpy(r->shard->names + r->names_used, name, length);
  r->members[r->count++] = (np_member){.name = r->names_used,
                                       .offset = archive_filter_bytes(r->archive, 0),
                                       .size = size < UINT32_MAX ? (uint32_t)size : UINT32_MAX,
                                       .number = r->number};
  r->names_used += length;
  return NP_OK;
no_memory:
  return np_error(NP_ERR_MEMORY, "no memory to list the images of '%s'", r->shard->path);
}

/* Whether the sample that came last goes on with this member, or it begins the next. */
static np_status find_sample(reader *r, const char *name) {
  const size_t length = stem_length(name);
  if (r->stem && strlen(r->stem) == length && !strncmp(r->stem, name, length)) return NP_OK;
  free(r->stem);
  r->first = r->count;
  r->number = -1;
  r->stem = strndup(name, length);
  return r->stem ? NP_OK : np_error(NP_ERR_MEMORY, "no memory to list the images of '%s'", r->shard->path);
}

/* The bytes of a .cls member come next: the class of its sample's images, those that came and those that will. */
static np_status take_number(reader *r, const char *name) {
  char text[16] = "", *end = text;
  la_ssize_t size = archive_read_data(r->archive, text, sizeof text - 1);
  if (size < 0) return damaged(r);
  text[size] = 0;
  const long number = text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
  if (number < 0 || number >= NP_SHARD_NUMBERS || end[strspn(end, " \r\n")])
    return np_error(NP_ERR_ARGUMENT, "'%s:%s' does not hold the number of a class: expected 0 to %d, as text",
                    r->shard->path, name, NP_SHARD_NUMBERS - 1);
  r->number = (int32_t)number;
  for (int64_t i = r->first; i < r->count; i++) r->members[i].number = r->number;
  return NP_OK;
}

/* The header of a member is read, its bytes come next. */
static np_status take_member(reader *r, struct archive_entry *entry) {
  np_status st = NP_OK;
  const char *tar = r->shard->path, *name = archive_entry_pathname(entry);
  const bool file = archive_entry_filetype(entry) == AE_IFREG, hard_link = archive_entry_hardlink(entry) != NULL;
  const bool sparse = archive_entry_sparse_count(entry) > 0;
  const int64_t begin = archive_filter_bytes(r->archive, 0), size = archive_entry_size(entry);
  if (!name)
    return np_error(NP_ERR_FORMAT, "'%s' is damaged: a member near byte %lld has no name", tar, (long long)begin);
  name = below_root(name);
  if (archive_entry_filetype(entry) == AE_IFDIR) return NP_OK;
  if (is_image(name)) {
    if (archive_entry_filetype(entry) == AE_IFLNK || hard_link)
      return np_error(NP_ERR_ARGUMENT,
                      "'%s:%s' is a link: make the tar with --dereference and --hard-dereference, which store files",
                      tar, name);
    if (!file) return np_error(NP_ERR_ARGUMENT, "'%s:%s' is no regular file", tar, name);
    if (sparse) return np_error(NP_ERR_ARGUMENT, "'%s:%s' is stored sparse: make the tar without --sparse", tar, name);
  }
  if (file && !hard_link && !sparse && (size < 0 || size > r->size - begin))
    return np_error(NP_ERR_FORMAT, "'%s' is cut off: of the %lld bytes of '%s' it holds %lld", tar, (long long)size,
                    name, (long long)(r->size - begin));
  if (r->numbers) NP_TRY(find_sample(r, name));
  if (r->numbers && file && !hard_link && !sparse && is_number(name)) return take_number(r, name);
  if (is_image(name)) st = keep_member(r, name, size);
out:
  return st;
}

static np_status read_members(reader *r) {
  np_status st = NP_OK;
  struct archive_entry *entry;
  for (;;) {
    int got = archive_read_next_header(r->archive, &entry);
    if (got != ARCHIVE_OK && got != ARCHIVE_EOF) return damaged(r); /* warnings too: a name may have suffered */
    if (got == ARCHIVE_EOF) {
      if (r->size - archive_read_header_position(r->archive) >= BLOCK) return NP_OK;
      return np_error(NP_ERR_FORMAT, "'%s' is cut off: it lacks the zeros that end a tar file", r->shard->path);
    }
    NP_TRY(take_member(r, entry));
  }
out:
  return st;
}

/* Names in pax headers are UTF-8, and libarchive gives them in the thread's locale: in "C" it would lose letters. */
static np_status read_headers(reader *r) {
  np_status st = NP_OK;
  locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = (locale_t)0;
  if (utf8) before = uselocale(utf8);
  NP_TRY(open_archive(r));
  NP_TRY(read_members(r));
  if (r->count == 0) st = np_error(NP_ERR_FORMAT, "'%s' holds no image (*.png, *.jpg, *.jpeg)", r->shard->path);
out:
  archive_read_free(r->archive);
  if (utf8) {
    uselocale(before);
    freelocale(utf8);
  }
  return st;
}

/* ---- the shard --------------------------------------------------------------------------------------------------- */

np_status np_shard_open(np_shard *shard, bool keep_open, bool numbers, np_member **members, int64_t *count) {
  np_status st = NP_OK;
  reader r = {.shard = shard, .descriptor = -1, .numbers = numbers, .number = -1};
  *members = NULL;
  *count = 0;
  shard->descriptor = -1;
  NP_TRY(open_file(shard->path, &r.descriptor, &r.size));
  if (r.size == 0) {
    st = np_error(NP_ERR_FORMAT, "'%s' is empty, expected a tar file", shard->path);
    goto out;
  }
  NP_TRY(read_headers(&r));
  char *tight = realloc(shard->names, r.names_used);
  if (tight) shard->names = tight;
  *members = r.members;
  *count = r.count;
  r.members = NULL;
  if (keep_open) {
    shard->descriptor = r.descriptor;
    r.descriptor = -1;
  }
out:
  free(r.stem);
  free(r.members);
  if (r.descriptor >= 0) close(r.descriptor);
  return st;
}

void np_shard_close(np_shard *shard) {
  if (shard->descriptor >= 0) close(shard->descriptor);
  free(shard->names);
  free(shard->path);
  *shard = (np_shard){.descriptor = -1};
}

np_status np_shard_read(const np_shard *shard, int64_t offset, size_t size, const char *name, void *bytes) {
  np_status st = NP_OK;
  int descriptor = shard->descriptor;
  int64_t whole;
  if (descriptor < 0) NP_TRY(open_file(shard->path, &descriptor, &whole));
  for (size_t used = 0; used < size;) {
    ssize_t n = pread(descriptor, (char *)bytes + used, size - used, offset + (int64_t)used);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      st = np_error(NP_ERR_IO, "cannot read '%s': %s", name, n < 0 ? strerror(errno) : "the tar file became shorter");
      goto out;
    }
    used += (size_t)n;
  }
out:
  if (shard->descriptor < 0 && descriptor >= 0) close(descriptor);
  return st;
}
