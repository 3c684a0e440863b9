/* A tar file of images: what it holds, and the bytes of any one of them. */
#ifndef NP_DATA_SHARD_H
#define NP_DATA_SHARD_H

#include "util/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct np_shard {
  char *path;     /* owned */
  int label;      /* the dataset's: class of the folder that the tar lies in; -1: none */
  int descriptor; /* of the open file; -1: each read opens it */
  char *names;    /* owned; those of the members, one behind the other */
} np_shard;

/* A member that is an image. */
typedef struct np_member {
  size_t name;    /* where it begins in np_shard.names; without "./" or "/" in front */
  int64_t offset; /* where its bytes begin in the file */
  uint32_t size;  /* of larger ones UINT32_MAX, which no image has */
  int32_t number; /* of its class, from the .cls member beside it; -1: there is none, or none was asked for */
} np_member;

enum { NP_SHARD_NUMBERS = 1 << 20 }; /* classes are numbered 0 … this - 1 */

bool np_shard_is_name(const char *name);       /* *.tar, in any case */
bool np_shard_is_compressed(const char *name); /* *.tar.gz, *.tgz, *.tar.zst and their like */

/* Read the headers of the tar at shard->path and fill shard->names and, malloc'ed, the image members in the order of
 * the file: *.png, *.jpg, *.jpeg in any case; others are passed over, hidden ones and those in hidden folders too. The
 * file stays open where `keep_open`. `numbers`: also what WebDataset keeps beside images, NAME.cls with a number as
 * text, right before or behind the images NAME.* (up to the first dot of its last part a name is the same). ustar, GNU
 * and pax headers are understood; so are archives one behind the other. NP_ERR_FORMAT for a tar that is damaged, cut
 * off, empty or without an image, NP_ERR_ARGUMENT for an image that is stored as a link or sparse, and for a .cls that
 * holds no number; messages name the file. What was taken is np_shard_close's to free in any case. */
np_status np_shard_open(np_shard *shard, bool keep_open, bool numbers, np_member **members, int64_t *count);
void np_shard_close(np_shard *shard);

/* `size` bytes from `offset` on; any thread, at any time. NP_ERR_IO where they are not there (any more); `name` stands
 * in messages. */
np_status np_shard_read(const np_shard *shard, int64_t offset, size_t size, const char *name, void *bytes);

#endif
