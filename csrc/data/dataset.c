#include "data/dataset.h"

#include "util/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

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

static np_status no_memory(const char *path) {
  return np_error(NP_ERR_MEMORY, "no memory to list the images of '%s'", path);
}

/* ---- strings and samples
 * --------------------------------------------------------------------------------------------- */

static char *keep(np_dataset *dataset, const char *text) {
  size_t size = strlen(text) + 1;
  chunk *top = dataset->storage;
  if (!top || top->size - top->used < size) {
    size_t room = size > CHUNK_BYTES ? size : CHUNK_BYTES;
    chunk *fresh = malloc(sizeof *fresh + room);
    if (!fresh) return NULL;
    *fresh = (chunk){.before = top, .size = room};
    dataset->storage = top = fresh;
  }
  char *out = top->text + top->used;
  memcpy(out, text, size);
  top->used += size;
  return out;
}

static np_status add_sample(walk *w, const char *path, int label) {
  np_dataset *d = w->dataset;
  if (d->count == w->room) {
    int64_t room = w->room ? w->room * 2 : 1024;
    np_sample *larger = realloc(d->samples, (size_t)room * sizeof *larger);
    if (!larger) return no_memory(path);
    d->samples = larger;
    w->room = room;
  }
  const char *kept = keep(d, path);
  if (!kept) return no_memory(path);
  d->samples[d->count++] = (np_sample){.path = kept, .label = label};
  return NP_OK;
}

static int by_label_and_path(const void *a, const void *b) {
  const np_sample *x = a, *y = b;
  if (x->label != y->label) return x->label < y->label ? -1 : 1;
  return strcmp(x->path, y->path);
}

/* ---- folders
 * --------------------------------------------------------------------------------------------------------- */

static bool is_image_name(const char *name) {
  static const char *const endings[] = {".png", ".jpg", ".jpeg"};
  size_t length = strlen(name);
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    size_t n = strlen(endings[i]);
    if (length > n && strcasecmp(name + length - n, endings[i]) == 0) return true;
  }
  return false;
}

static int not_hidden(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static int by_bytes(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* A link that leads nowhere is no folder: if its name is an image's, the loader will find it damaged. */
static bool is_folder(const char *path, const struct dirent *entry) {
  struct stat about;
  if (entry->d_type == DT_DIR) return true;
  if (entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN) return false;
  return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
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
    else if (is_image_name(below)) st = add_sample(w, below, label);
    free(below);
  }
out:
  free_list(entries, count);
  return st;
}

static np_status add_class(walk *w, const char *name, const char *path, const ancestor *root) {
  np_dataset *d = w->dataset;
  char **larger = realloc(d->classes, ((size_t)d->class_count + 1) * sizeof *larger);
  if (!larger) return no_memory(path);
  d->classes = larger;
  char *kept = keep(d, name);
  if (!kept) return no_memory(path);
  d->classes[d->class_count++] = kept;
  return walk_class(w, path, d->class_count - 1, root);
}

static np_status walk_root(walk *w, const char *root, bool labelled) {
  np_status st = NP_OK;
  struct dirent **entries;
  int count;
  ancestor here;
  NP_TRY(list(root, NULL, &here, &entries, &count));
  for (int i = 0; i < count && st == NP_OK; i++) { /* sorted by name: so are the classes */
    char *path = np_path_join(root, entries[i]->d_name);
    if (is_folder(path, entries[i])) {
      st = add_class(w, entries[i]->d_name, path, &here);
    } else if (is_image_name(path)) {
      st = labelled
               ? np_error(NP_ERR_ARGUMENT,
                          "'%s' stands outside the class folders: '%s' must hold CLASS/image.png and so on", path, root)
               : add_sample(w, path, -1);
    }
    free(path);
  }
out:
  free_list(entries, count);
  return st;
}

np_status np_dataset_open(const char *root, bool labelled, np_dataset **out) {
  np_status st = NP_OK;
  *out = NULL;
  np_dataset *dataset = calloc(1, sizeof *dataset);
  if (!dataset) return no_memory(root);
  NP_TRY(walk_root(&(walk){.dataset = dataset}, root, labelled));
  if (labelled && dataset->class_count == 0) {
    st = np_error(NP_ERR_ARGUMENT, "'%s' has no class folders: it must hold CLASS/image.png and so on", root);
    goto out;
  }
  if (dataset->count == 0) {
    st = np_error(NP_ERR_ARGUMENT, "'%s' holds no image (*.png, *.jpg, *.jpeg)", root);
    goto out;
  }
  qsort(dataset->samples, (size_t)dataset->count, sizeof *dataset->samples, by_label_and_path);
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
  free(dataset->classes);
  free(dataset->samples);
  free(dataset);
}
