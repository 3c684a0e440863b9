/* Features as a file. Several ranks take a part of the images each, and leave its rows and names beside the file; the
 * first, whose rows come first, then puts theirs behind its own:
 *
 *   rank 0   header, rows of the first images ───────┬─▶ rows of 1 ─┬─▶ rows of 2 … ──▶ header again, rename
 *   rank 1   .OUT.part1: rows of the next, and names ┤   removed    │
 *   rank 2   .OUT.part2                              ┘              └─  removed
 *
 * Nobody begins before the first rank has locked the file's temporary name: parts are one job's alone. */
#include "probe/features.h"
#include "probe/walk.h"
#include "util/file.h"
#include "util/log.h"
#include "util/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

typedef struct sink {
  char *array_path, *names_path; /* of this rank */
  bool there;                    /* its parts, under these names */
  np_file_writer array, names;
  int64_t shape[3]; /* of the array; [0] counts */
  int ndim;
  float *host; /* [batch, N, D] */
} sink;

/* A name as one line: a line break in it becomes "\n". */
static np_status put_line(np_file_writer *to, const char *text) {
  np_status st = NP_OK;
  for (const char *line_break; (line_break = strchr(text, '\n')); text = line_break + 1) {
    NP_TRY(np_file_put(to, text, (size_t)(line_break - text)));
    NP_TRY(np_file_put(to, "\\n", 2));
  }
  NP_TRY(np_file_put(to, text, strlen(text)));
  st = np_file_put(to, "\n", 1);
out:
  return st;
}

/* Bring one batch home, average over tokens where asked, and write its rows and names. */
static np_status put_batch(const np_features *f, sink *to, const np_batch *batch, const np_dataset *set) {
  np_status st;
  const size_t width = (size_t)f->opened->recipe->model.width, tokens = f->image / width;
  char *name = NULL;
  NP_TRY(f->ops->download(f->ops, to->host, f->values, (size_t)batch->count * f->image * sizeof(float)));
  for (int b = 0; b < batch->count; b++) {
    float *row = to->host + (size_t)b * f->image;
    for (size_t j = 0; to->ndim == 2 && j < width; j++) {
      double sum = 0;
      for (size_t n = 0; n < tokens; n++) sum += row[n * width + j];
      row[j] = (float)(sum / (double)tokens);
    }
    const size_t values = to->ndim == 2 ? width : f->image;
    free(name);
    name = np_dataset_name(set, batch->indices[b]);
    for (size_t j = 0; j < values; j++)
      if (!isfinite(row[j])) {
        st = np_error(NP_ERR_NUMERIC, "features of '%s' are not finite: value %zu is %g", name, j, (double)row[j]);
        goto out;
      }
    NP_TRY(np_file_put(&to->array, row, values * sizeof(float)));
    NP_TRY(put_line(&to->names, name));
  }
  to->shape[0] += batch->count;
out:
  free(name);
  return st;
}

/* The header is written before the rows, with the most there can be, and again over itself once damaged images have
 * been left out: .npy pads it to a multiple of 64 bytes, so it has the same length. */
static np_status put_header_again(sink *to, const char *path) {
  if (lseek(to->array.descriptor, 0, SEEK_SET) != 0)
    return np_error(NP_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
  np_status st = np_npy_header_f32(&to->array, to->shape, to->ndim);
  if (st == NP_OK && lseek(to->array.descriptor, 0, SEEK_END) < 0)
    return np_error(NP_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
  return st;
}

/* "FOLDER/FILE", or "FOLDER/.FILE.part2" of rank 2; malloc'ed. */
static char *part_path(const char *path, int rank) {
  const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
  if (rank == 0) return np_format("%s", path);
  return np_format("%.*s.%s.part%d", (int)(file - path), path, file, rank);
}

/* `path` with .txt instead of .npy, malloc'ed. */
static char *names_path(const char *path) {
  const size_t length = strlen(path);
  const bool dotted = length > 4 && !strcmp(path + length - 4, ".npy");
  return np_format("%.*s.txt", (int)(dotted ? length - 4 : length), path);
}

static np_status open_sink(const np_features *f, const np_dataset *set, int batch, int rank, const char *path,
                           sink *to) {
  np_status st = NP_OK;
  const np_recipe_model *model = &f->opened->recipe->model;
  char *list = names_path(path);
  to->array_path = part_path(path, rank);
  to->names_path = part_path(list, rank);
  free(list);
  to->shape[to->ndim - 1] = model->width;
  if (to->ndim == 3) to->shape[1] = np_recipe_tokens(model);
  if (!(to->host = malloc((size_t)batch * f->image * sizeof(float))))
    return np_error(NP_ERR_MEMORY, "features: out of memory");
  NP_TRY(np_file_begin(&to->array, to->array_path));
  NP_TRY(np_file_begin(&to->names, to->names_path));
  to->shape[0] = set->count;
  if (rank == 0) NP_TRY(np_npy_header_f32(&to->array, to->shape, to->ndim));
  to->shape[0] = 0;
out:
  return st;
}

static void remove_parts(sink *to) {
  if (to->there) (void)unlink(to->array_path);
  if (to->there) (void)unlink(to->names_path);
  to->there = false;
}

static void close_sink(sink *to) {
  np_file_abort(&to->array);
  np_file_abort(&to->names);
  remove_parts(to);
  free(to->host);
  free(to->array_path);
  free(to->names_path);
}

/* This rank's rows and names, behind the first one's header or as parts. *bad: damaged images. */
static np_status write_part(np_features *f, const np_dataset *set, int batch, sink *to, int64_t *bad) {
  np_status st = NP_OK;
  const np_opened *opened = f->opened;
  np_walk walk;
  const np_batch *now;
  NP_TRY(np_comm_settle(opened->comm, np_walk_open(opened, set, batch, "features", &walk)));
  for (;;) {
    NP_TRY(np_walk_next(&walk, st, &now));
    if (!now) break;
    st = np_features_run(f, now->count, now->pixels);
    if (st == NP_OK) st = put_batch(f, to, now, &walk.part);
  }
  *bad = np_walk_bad(&walk);
  if (np_comm_rank(opened->comm) > 0) {
    to->there = true;
    st = np_file_commit(&to->names);
    if (st == NP_OK) st = np_file_commit(&to->array);
  }
  st = np_comm_settle(opened->comm, st);
out:
  np_walk_close(&walk);
  return st;
}

static np_status put_file(np_file_writer *to, const char *path) {
  enum { CHUNK = 1 << 20 };
  np_status st = NP_OK;
  ssize_t n = 0;
  char *chunk = malloc(CHUNK);
  const int from = open(path, O_RDONLY | O_CLOEXEC);
  if (!chunk) st = np_error(NP_ERR_MEMORY, "features: out of memory");
  else if (from < 0) st = np_error(NP_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
  while (st == NP_OK && ((n = read(from, chunk, CHUNK)) > 0 || (n < 0 && errno == EINTR)))
    if (n > 0) st = np_file_put(to, chunk, (size_t)n);
  if (st == NP_OK && n < 0) st = np_error(NP_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
  if (from >= 0) close(from);
  free(chunk);
  return st;
}

static np_status put_part(sink *to, int rank) {
  char *array = part_path(to->array_path, rank), *names = part_path(to->names_path, rank);
  np_status st = put_file(&to->array, array);
  if (st == NP_OK) st = put_file(&to->names, names);
  free(array);
  free(names);
  return st;
}

/* Left by jobs that were killed, and had more ranks. */
static void remove_others(const sink *to, int world) {
  for (bool found = true; found; world++) {
    char *array = part_path(to->array_path, world), *names = part_path(to->names_path, world);
    found = unlink(array) == 0;
    found = unlink(names) == 0 || found;
    free(array);
    free(names);
  }
}

static np_status finish(sink *to, int world, int64_t rows) {
  np_status st = NP_OK;
  to->shape[0] = rows;
  NP_TRY(put_header_again(to, to->array_path));
  NP_TRY(np_file_commit(&to->names));
  NP_TRY(np_file_commit(&to->array));
  remove_others(to, world);
out:
  return st;
}

/* The others' parts behind the first one's, which then is the whole; they meet after each, which may take long. */
static np_status put_together(np_comm *comm, sink *to, int64_t rows) {
  np_status st = NP_OK;
  const bool first = np_comm_rank(comm) == 0;
  for (int rank = 1; rank < np_comm_world(comm); rank++) {
    NP_TRY(np_comm_settle(comm, first ? put_part(to, rank) : NP_OK));
    if (rank == np_comm_rank(comm)) remove_parts(to);
  }
  st = np_comm_settle(comm, first ? finish(to, np_comm_world(comm), rows) : NP_OK);
out:
  return st;
}

/* What all ranks must have been told alike, beside the recipe. */
static np_status compare(const np_features *f, const np_dataset *set, const char *root, const char *path, bool mean) {
  np_status st = NP_OK;
  np_comm *comm = f->opened->comm;
  const uint64_t layers = XXH3_64bits(f->layers, (size_t)f->layer_count * sizeof *f->layers);
  NP_TRY(np_comm_same(comm, "the images", (int64_t)np_dataset_listing(set, root)));
  NP_TRY(np_comm_same(comm, "layers", (int64_t)layers));
  NP_TRY(np_comm_same(comm, "pool", mean));
  NP_TRY(np_comm_same(comm, "out", (int64_t)XXH3_64bits(path, strlen(path))));
out:
  return st;
}

static np_status judge(const np_features *f, const char *root, int64_t rows, int64_t bad) {
  if (rows == 0) return np_error(NP_ERR_FORMAT, "%s: none of its %lld images can be read", root, (long long)bad);
  return np_loader_check_bad(bad, rows + bad, f->opened->recipe->data.max_bad_share);
}

np_status np_features_write(np_features *f, const char *root, int batch, bool mean, const char *path, int64_t *rows,
                            int64_t *bad) {
  np_status st = NP_OK;
  np_dataset *set = NULL;
  np_comm *comm = f->opened->comm;
  sink to = {.array = {.descriptor = -1}, .names = {.descriptor = -1}, .ndim = mean ? 2 : 3};
  NP_TRY(np_comm_settle(comm, np_dataset_open(root, false, &set)));
  NP_TRY(compare(f, set, root, path, mean));
  NP_TRY(np_comm_settle(comm, open_sink(f, set, batch, np_comm_rank(comm), path, &to)));
  NP_TRY(write_part(f, set, batch, &to, bad));
  double counts[2] = {(double)to.shape[0], (double)*bad};
  NP_TRY(np_comm_total(comm, counts, 2));
  *rows = (int64_t)counts[0], *bad = (int64_t)counts[1];
  NP_TRY(np_comm_settle(comm, judge(f, root, *rows, *bad)));
  st = put_together(comm, &to, *rows);
out:
  close_sink(&to);
  np_dataset_close(set);
  return st;
}
