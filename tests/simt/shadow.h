/* The shadow of shared memory: for each two bytes who wrote them last and who has read them since.
 *
 *   cell.write   0                         nobody has written: reading is an error
 *                clock·2^11 | thread       written by that thread in that interval of its warp's clock
 *                UNDER_WAY | thread        a copy is on its way here: reading or writing is an error
 *   cell.read    0                         nobody since
 *                clock·2^11 | thread       one thread, or several whose reads are ordered: the last of them
 *                SEVERAL                   readers[cell][warp] holds, for each warp, the clock and the lanes
 *
 * A reader must know of the last write, a writer of the last write and of every read since; to know of an access is to
 * have its clock in `known` (block.h), or to have done it oneself. */
#ifndef NP_SIMT_SHADOW_H
#define NP_SIMT_SHADOW_H

#include "block.h"

namespace simt {

enum : uint32_t {
  NUMBER_BITS = 11,
  NUMBER = (1u << NUMBER_BITS) - 1,
  FLAG = 1u << 31,
  UNDER_WAY = FLAG,
  SEVERAL = FLAG
};
enum : uint32_t { MOST_CLOCK = (1u << (31 - NUMBER_BITS)) - 1 };
enum { CELL = 2 }; /* bytes */

struct cell {
  uint32_t write, read;
};

struct reader {
  uint32_t clock, lanes;
};

inline uint32_t stamp() { return here.self->home->clock << NUMBER_BITS | here.self->number; }

[[noreturn]] void fail_read(size_t at); /* cell number: which rule, and who */
[[noreturn]] void fail_write(size_t at);
[[noreturn]] void fail_place(const void *p, size_t bytes, size_t alignment); /* outside, or not aligned */
void another_reader(size_t at);
bool readers_are_known(size_t at);

/* The first cell of `bytes` at p, once that lies inside and is aligned. */
inline size_t place(const void *p, size_t bytes, size_t alignment) {
  size_t offset = static_cast<size_t>(static_cast<const unsigned char *>(p) - here.memory);
  if (__builtin_expect(offset > here.bytes || here.bytes - offset < bytes || offset % alignment != 0, 0))
    fail_place(p, bytes, alignment);
  return offset / CELL;
}

inline bool is_known(uint32_t mark) {
  uint32_t by = mark & NUMBER;
  return by == here.self->number || here.self->home->known[by] >= mark >> NUMBER_BITS;
}

inline void note_read(size_t at, size_t cells) {
  uint32_t now = stamp();
  for (size_t i = at; i < at + cells; i++) {
    cell &c = here.cells[i];
    if (__builtin_expect(c.write == 0 || c.write >= UNDER_WAY || !is_known(c.write), 0)) fail_read(i);
    if (c.read == now) continue;
    if (c.read == 0) c.read = now;
    else another_reader(i);
  }
}

inline void note_write(size_t at, size_t cells, uint32_t mark) {
  for (size_t i = at; i < at + cells; i++) {
    cell &c = here.cells[i];
    if (__builtin_expect(c.write >= UNDER_WAY || (c.write != 0 && !is_known(c.write)), 0)) fail_write(i);
    if (c.read != 0 && !readers_are_known(i)) fail_write(i);
    c.write = mark;
    c.read = 0;
  }
}

inline void check_read(const void *p, size_t bytes, size_t alignment) {
  note_read(place(p, bytes, alignment), bytes / CELL);
}
inline void check_write(void *p, size_t bytes, size_t alignment) {
  note_write(place(p, bytes, alignment), bytes / CELL, stamp());
}

/* A read that serves the whole warp: what a lane has written itself the other lanes have to know of, too. */
void check_collective_read(const void *p, size_t bytes, size_t alignment);

/* A copy sets out for shared memory: from now on nobody may touch the place. */
inline void copy_leaves(void *p, size_t bytes) {
  note_write(place(p, bytes, bytes < 16 ? bytes : 16), bytes / CELL, UNDER_WAY | here.self->number);
}
/* It has arrived; `mark` says as whose write: stamp() for a copy that its thread has waited for. */
void copy_arrives(void *p, const void *from, size_t bytes, uint32_t mark);

} // namespace simt

#endif
