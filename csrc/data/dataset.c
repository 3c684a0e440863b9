#include "data/dataset_internal.h"

#include "util/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

/* Paths live in large chunks: one allocation for each of a million files would cost more than the text. */
enum { CHUNK_BYTES = 1 << 20 };
typedef struct chunk {
  struct chunk *before;
  size_t used, size;
  char text[];
} chunk;

/* A folder on the way from the root to where we are: a link that leads back to one of them is a circle. */
typedef struct ancestor {
  const struct ancestor *above;
  dev_t device;
  ino_t inode;
} ancestor;

typedef struct walk {
  np_dataset *dataset;
  int64_t room; /* samples allocated */
} walk;

np_status np_dataset_no_memory(const char *path) {
  return np_error(NP_ERR_MEMORY, "no memory to list the images of '%s'", path);
}

/* ---- strings and samples
 * --------------------------------------------------------------------------------------------- */

char *np_dataset_keep(np_dataset *dataset, const char *text, size_t length) {
  size_t size = length + 1;
  chunk *top = dataset->storage;
  if (!top || top->size - top->used < size) {
    size_t room = size > CHUNK_BYTES ? size : CHUNK_BYTES;
    chunk *fresh = malloc(sizeof *fresh + room);
    if (!fresh) return NULL;
    *fresh = (chunk){.before = top, .size = room};
    dataset->storage = top = fresh;
  }
  char *out = top->text + top->used;
  memcpy(out, text, length);
  out[length] = 0;
  top->used += size;
  return out;
}

static np_status add_sample(walk *w, const char *path, int label) {
  np_dataset *d = w->dataset;
  if (d->count == w->room) {
    int64_t room = w->room ? w->room * 2 : 1024;
    np_sample *larger = realloc(d->samples, (size_t)room * sizeof *larger);
    if (!larger) return np_dataset_no_memory(path);
    d->samples = larger;
    w->room = room;
  }
  const char *kept = np_dataset_keep(d, path, strlen(path));
  if (!kept) return np_dataset_no_memory(path);
  d->samples[d->count++] = (np_sample){.path = kept, .shard = -1, .label = label};
  return NP_OK;
}

static np_status add_shard(walk *w, const char *path, int label) {
  np_dataset *d = w->dataset;
  np_shard *larger = realloc(d->shards, ((size_t)d->shard_count + 1) * sizeof *larger);
  if (!larger) return np_dataset_no_memory(path);
  d->shards = larger;
  d->shards[d->shard_count++] = (np_shard){.path = np_format("%s", path), .label = label, .descriptor = -1};
  return NP_OK;
}

/* A file of any kind: an image, a tar, or nothing to us. */
static np_status add_file(walk *w, const char *path, int label) {
  if (np_image_is_name(path)) return add_sample(w, path, label);
  if (np_shard_is_name(path)) return add_shard(w, path, label);
  if (np_shard_is_compressed(path))
    return np_error(NP_ERR_ARGUMENT,
                    "'%s' is compressed: decompress it to a .tar first, whose images can be read in any order", path);
  return NP_OK;
}

/* The order of np_dataset.samples. */
static int by_place(const void *a, const void *b) {
  const np_sample *x = a, *y = b;
  if (x->label != y->label) return x->label < y->label ? -1 : 1;
  if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
  if (x->shard >= 0) return x->offset < y->offset ? -1 : x->offset > y->offset;
  return strcmp(x->path, y->path);
}

/* ---- folders
 * --------------------------------------------------------------------------------------------------------- */

static int not_hidden(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static int by_bytes(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* A link that leads nowhere is no folder: if its name is an image's, the loader will find it damaged. */
static bool is_folder(const char *path, const struct dirent *entry) {
  if (entry->d_type == DT_DIR) return true;
  if (entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN) return false;
  return np_folder_is(path);
}

/* The entries of a folder, sorted, hidden ones left out. `*count` is 0 where the folder is one of its own ancestors. */
static np_status list(const char *path, const ancestor *above, ancestor *here, struct dirent ***entries, int *count) {
  struct stat about;
  *entries = NULL;
  *count = 0;
  if (stat(path, &about) != 0) return np_error(NP_ERR_IO, "cannot read the folder '%s': %s", path, strerror(errno));
  for (const ancestor *a = above; a; a = a->above)
    if (a->device == about.st_dev && a->inode == about.st_ino) return NP_OK;
  *here = (ancestor){.above = above, .device = about.st_dev, .inode = about.st_ino};
  int n = scandir(path, entries, not_hidden, by_bytes);
  if (n < 0) return np_error(NP_ERR_IO, "cannot read the folder '%s': %s", path, strerror(errno));
  *count = n;
  return NP_OK;
}

static void free_list(struct dirent **entries, int count) {
  for (int i = 0; i < count; i++) free(entries[i]);
  free(entries);
}

/* Everything below one class folder. */
static np_status walk_class(walk *w, const char *path, int label, const ancestor *above) {
  np_status st = NP_OK;
  struct dirent **entries;
  int count;
  ancestor here;
  NP_TRY(list(path, above, &here, &entries, &count));
  for (int i = 0; i < count && st == NP_OK; i++) {
    char *below = np_path_join(path, entries[i]->d_name);
    if (is_folder(below, entries[i])) st = walk_class(w, below, label, &here);
    else st = add_file(w, below, label);
    free(below);
  }
out:
  free_list(entries, count);
  return st;
}

np_status np_dataset_add_class(np_dataset *d, int at, const char *name, size_t length) {
  char **larger = realloc(d->classes, ((size_t)d->class_count + 1) * sizeof *larger);
  if (!larger) return np_dataset_no_memory(name);
  d->classes = larger;
  char *kept = np_dataset_keep(d, name, length);
  if (!kept) return np_dataset_no_memory(name);
  memmove(larger + at + 1, larger + at, (size_t)(d->class_count - at) * sizeof *larger);
  larger[at] = kept;
  d->class_count++;
  return NP_OK;
}

static np_status walk_root(walk *w, const char *root, bool labelled) {
  np_status st = NP_OK;
  struct dirent **entries;
  int count;
  ancestor here;
  NP_TRY(list(root, NULL, &here, &entries, &count));
  for (int i = 0; i < count && st == NP_OK; i++) { /* sorted by name: so are the classes */
    char *path = np_path_join(root, entries[i]->d_name);
    const char *name = entries[i]->d_name;
    if (is_folder(path, entries[i])) {
      st = np_dataset_add_class(w->dataset, w->dataset->class_count, name, strlen(name));
      if (st == NP_OK) st = walk_class(w, path, w->dataset->class_count - 1, &here);
    } else if (labelled && np_image_is_name(name)) {
      st = np_error(NP_ERR_ARGUMENT, "'%s' stands outside the class folders: '%s' must hold CLASS/image.png and so on",
                    path, root);
    } else {
      st = add_file(w, path, -1);
    }
    free(path);
  }
out:
  free_list(entries, count);
  return st;
}

/* `root` itself may be a tar file; what else is no folder, listing it will say. */
static np_status find_files(walk *w, const char *root, bool labelled) {
  struct stat about;
  if (stat(root, &about) == 0 && !S_ISDIR(about.st_mode) && (np_shard_is_name(root) || np_shard_is_compressed(root)))
    return add_file(w, root, -1);
  return walk_root(w, root, labelled);
}

static np_status check(const np_dataset *d, const char *root, bool labelled) {
  if (d->count > 0 && d->shard_count > 0)
    return np_error(NP_ERR_ARGUMENT, "'%s' holds images and tar files ('%s' and '%s'): keep either in a folder", root,
                    d->samples[0].path, d->shards[0].path);
  if (labelled && d->class_count == 0 && d->shard_count == 0)
    return np_error(NP_ERR_ARGUMENT, "'%s' has no class folders: it must hold CLASS/image.png and so on", root);
  if (d->count == 0 && d->shard_count == 0)
    return np_error(NP_ERR_ARGUMENT, "'%s' holds no image (*.png, *.jpg, *.jpeg) and no *.tar", root);
  return NP_OK;
}

np_status np_dataset_open(const char *root, bool labelled, np_dataset **out) {
  np_status st = NP_OK;
  *out = NULL;
  np_dataset *dataset = calloc(1, sizeof *dataset);
  if (!dataset) return np_dataset_no_memory(root);
  NP_TRY(find_files(&(walk){.dataset = dataset}, root, labelled));
  NP_TRY(check(dataset, root, labelled));
  if (dataset->shard_count > 0) NP_TRY(np_dataset_list_shards(dataset, labelled));
  qsort(dataset->samples, (size_t)dataset->count, sizeof *dataset->samples, by_place);
  *out = dataset;
  return NP_OK;
out:
  np_dataset_close(dataset);
  return st;
}

void np_dataset_close(np_dataset *dataset) {
  if (!dataset) return;
  for (chunk *c = dataset->storage; c;) {
    chunk *before = c->before;
    free(c);
    c = before;
  }
  for (int i = 0; i < dataset->shard_count; i++) np_shard_close(&dataset->shards[i]);
  free(dataset->shards);
  free(dataset->classes);
  free(dataset->samples);
  free(dataset);
}

char *np_dataset_part(const char *root, const char *name) {
  struct stat about;
  char *folder = np_path_join(root, name), *tar = np_format("%s.tar", folder), *found = NULL;
  if (np_folder_is(folder)) found = folder;
  else if (stat(tar, &about) == 0 && !S_ISDIR(about.st_mode)) found = tar;
  if (found != folder) free(folder);
  if (found != tar) free(tar);
  return found;
}

char *np_dataset_held_out(const char *root) {
  char *train = np_dataset_part(root, "train"), *held_out = train ? np_dataset_part(root, "val") : NULL;
  if (train && !held_out) held_out = np_dataset_part(root, "test");
  free(train);
  return held_out ? held_out : np_format("%s", root);
}

/* ---- one sample
 * ------------------------------------------------------------------------------------------------------ */

char *np_dataset_name(const np_dataset *dataset, int64_t index) {
  const np_sample *s = &dataset->samples[index];
  if (s->shard < 0) return np_format("%s", s->path);
  return np_format("%s:%s", dataset->shards[s->shard].path, s->path);
}

static np_status read_member(const np_shard *shard, const np_sample *s, const char *name, int channels,
                             int64_t max_pixels, np_image *out) {
  np_status st = NP_OK;
  void *bytes = NULL;
  if (s->size > NP_IMAGE_MAX_BYTES)
    return np_error(NP_ERR_FORMAT, "'%s' has more than the %d bytes that are read", name, NP_IMAGE_MAX_BYTES);
  if (!(bytes = malloc(s->size + 1)))
    return np_error(NP_ERR_MEMORY, "no memory for the %u bytes of '%s'", s->size, name);
  NP_TRY(np_shard_read(shard, s->offset, s->size, name, bytes));
  st = np_image_decode(bytes, s->size, name, channels, max_pixels, out);
out:
  free(bytes);
  return st;
}

np_status np_dataset_read(const np_dataset *dataset, int64_t index, int channels, int64_t max_pixels, np_image *out) {
  const np_sample *s = &dataset->samples[index];
  *out = (np_image){0};
  if (s->shard < 0) return np_image_read(s->path, channels, max_pixels, out);
  char *name = np_dataset_name(dataset, index);
  np_status st = read_member(&dataset->shards[s->shard], s, name, channels, max_pixels, out);
  free(name);
  return st;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static uint64_t hash_below(const char *root, const char *path, uint64_t seed) {
  const size_t skip = strlen(root);
  const char *name = strncmp(path, root, skip) == 0 ? path + skip : path;
  name += strspn(name, "/");
  return XXH3_64bits_withSeed(name, strlen(name), seed);
}

uint64_t np_dataset_listing(const np_dataset *dataset, const char *root) {
  uint64_t hash = 0;
  for (int64_t i = 0; i < dataset->count; i++) {
    const np_sample *s = &dataset->samples[i];
    const uint64_t seed = hash + (uint64_t)(s->label + 1);
    if (s->shard < 0) hash = hash_below(root, s->path, seed);
    else hash = XXH3_64bits_withSeed(s->path, strlen(s->path), hash_below(root, dataset->shards[s->shard].path, seed));
  }
  return hash;
}
