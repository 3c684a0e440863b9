/* Images as a list of samples: files in folders, or members of tar files. */
#ifndef NP_DATA_DATASET_H
#define NP_DATA_DATASET_H

#include "data/shard.h"
#include "image/image.h"
#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct np_sample {
  const char *path; /* of a file: absolute or relative to the working folder, as given; of a member: its name there */
  int64_t offset;   /* of a member's bytes in its tar file */
  uint32_t size;    /* of them */
  int32_t shard;    /* index into shards; -1: a file */
  int32_t label;    /* index into classes; -1: none */
} np_sample;

typedef struct np_dataset {
  int64_t count;
  np_sample *samples; /* sorted by class, then path (bytewise), so that an index means the same on every machine;
                         members by class, their tar's path, their place in it */
  int class_count;    /* 0: unlabelled */
  char **classes;     /* sorted; names of the top folders */
  int shard_count;    /* 0: files in folders */
  np_shard *shards;   /* sorted by path */
  void *storage;
} np_dataset;

/* List `root`: class folders (root/CLASS/ and any depth below, links followed but never in a circle), a flat folder of
 * images, or a mix; or tar files of images: one, or a folder that holds them at any depth. Files are *.png, *.jpg,
 * *.jpeg in any case; others are ignored, hidden ones too, in folders as in tars.
 *
 * Classes are folders. In tars: where `labelled` and any image has a .cls member beside it, the numbers in these are
 * the labels, and the classes "0", "1" … in their order; else where any image member lies in a folder, the members' top
 * folders are the classes, and one that lies in none has no class; where none does, the top folders below `root` are,
 * for the tars in them.
 *
 * `labelled` demands a class for every image. An empty class folder is a class all the same; one in a tar is none. An
 * empty result, an unreadable folder or tar or a missing one is an error naming it; so are a compressed tar, and images
 * and tars in one folder. */
np_status np_dataset_open(const char *root, bool labelled, np_dataset **out);
void np_dataset_close(np_dataset *dataset);

/* Where a part of a set lies, malloc'ed: root/name where that is a folder, root/name.tar where that is a file; NULL
 * where neither is there. */
char *np_dataset_part(const char *root, const char *name);
/* The held-out part of a set of two parts (train, and val or test), else the set itself; malloc'ed. */
char *np_dataset_held_out(const char *root);

/* What a sample is called in messages and lists, malloc'ed: its path, or shard.tar:member. */
char *np_dataset_name(const np_dataset *dataset, int64_t index);
/* Read and decode a sample, from any thread; contract of np_image_read. */
np_status np_dataset_read(const np_dataset *dataset, int64_t index, int channels, int64_t max_pixels, np_image *out);

/* Hash of the samples' names below `root` (of members: their tar's and their own) and of their labels: the same
 * folder elsewhere has the same. */
uint64_t np_dataset_listing(const np_dataset *dataset, const char *root);

#endif
