/* One block of memory, planned before it is taken: the same code first counts (base NULL) and then hands out. */
#ifndef NP_UTIL_ARENA_H
#define NP_UTIL_ARENA_H

#include <stddef.h>

typedef struct np_arena {
  unsigned char *base; /* NULL while planning */
  size_t used;
} np_arena;

/* The next `bytes`, 64-byte aligned; NULL while planning. The block must be as large as the plan's `used`. */
static inline void *np_arena_take(np_arena *arena, size_t bytes) {
  size_t at = arena->used;
  arena->used = at + ((bytes + 63) & ~(size_t)63);
  return arena->base ? arena->base + at : NULL;
}

#endif
