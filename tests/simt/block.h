/* A block of the emulated GPU: its threads as fibers, who waits for what, and in which order they go on.
 *
 *   np_launch ── for each block: a fiber a thread, warps of 32 ─────────────────────────────────────┐
 *                                                                                                   │
 *     ready [warp]: bits of lanes that can run          a lane that has to wait jumps straight to   │
 *       warp 2  1 1 0 1 …   ◄── runs until no lane      the next ready one: its own warp first,     │
 *       warp 0  0 0 0 0 …       of it is ready          then the next warp of this block's order.   │
 *       warp 1  1 1 1 1 …                               Nobody ready: conditions are looked at,     │
 *       (order permuted from a fixed seed)              then the oldest deferred event happens,     │
 *                                                       then it is a deadlock and is reported.      │
 *
 * Meetings. A collective is `together`: each lane brings its operands, the last one to arrive acts for all of them,
 * then all go on. The lanes must have come for the same thing; a lane that comes for another, or never, is an error.
 *
 * Who has seen what. A warp has a clock, that moves on whenever one of its threads publishes what it did (barrier, warp
 * barrier, arrival at an mbarrier), and for each thread of the block the last clock up to which it has seen that
 * thread's doings: known[warp][thread]. An access is stamped (thread, clock of its warp); another thread may rely on it
 * when known[its warp][thread] >= that clock. shadow.h keeps the stamps.
 *
 * To add an instruction (say of a warpgroup, or one that completes later), use: together, wait_until, later, publish,
 * see, and the marks of shadow.h. Nothing here is reset by hand: np_launch starts each block afresh. */
#ifndef NP_SIMT_BLOCK_H
#define NP_SIMT_BLOCK_H

#include <cstddef>
#include <cstdint>
#include <functional>

extern "C" {
#include "util/status.h"
}

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {

enum { LANES = 32, MOST_THREADS = 1024, MOST_WARPS = MOST_THREADS / LANES, GROUP = 128, BARRIERS = 16 };

struct cell;
struct reader;

struct index3 {
  unsigned x, y, z;
};

/* Where threads of a warp or a warpgroup gather. */
struct meeting {
  const char *what; /* the operation that the first one came for; NULL: nobody is here */
  int key;          /* what besides has to agree, a barrier's number for instance */
  int arrived;
  void *brought[GROUP];
};

struct warp {
  int number;
  uint32_t clock;                           /* 1 … */
  uint32_t *known;                          /* [threads + 1]: clock seen of each thread, and of the copy engine */
  unsigned char order[LANES], place[LANES]; /* order[i]: the lane that runs as i-th; place is its inverse */
  meeting lanes;
};

struct thread {
  index3 index;
  uint32_t number; /* = index.x */
  warp *home;
  void *context;
  const char *waits; /* for what; NULL: it runs or could */
  int key;
  bool exited;
  bool (*condition)(void *);
  void *condition_of;
  uint32_t groups; /* of copies, committed so far */
};

struct barrier {
  int threads; /* that it waits for; 0: nobody is here */
  int arrived; /* warps */
  int warps[MOST_WARPS];
};

struct block {
  thread *self;          /* who runs */
  unsigned char *memory; /* the dynamic shared memory */
  size_t bytes;
  cell *cells;     /* a shadow of each two bytes */
  reader *readers; /* [cells, warps] where a place has several readers */
  uint32_t threads, warps;
  uint32_t engine_clock; /* the copy engine is a thread of its own: number `threads` */
  index3 at, grid, size;
  const char *kernel;
};

/* The block that this thread of the host runs at the moment. */
extern __thread block here __attribute__((tls_model("initial-exec")));

/* Give up the launch: np_launch returns NP_ERR_LIBRARY with this message and the place. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

/* Arrive at a meeting of `size` threads as number `slot`. True: you are the last, act and call dismiss. False: the last
 * one has acted, and you were let go on. */
bool meet(meeting *at, int size, int slot, const char *what, int key, void *brought);
/* Let the others of a complete meeting go on. `warps` of them from `first` on. */
void dismiss(meeting *at, int first, int warps);

/* All lanes of the warp: the last to arrive calls act(M *const *lanes) with what each lane brought. */
template <class M, class F> inline void together(const char *what, int key, M &mine, F &&act) {
  warp *home = here.self->home;
  if (!meet(&home->lanes, LANES, static_cast<int>(here.self->number % LANES), what, key, &mine)) return;
  act(reinterpret_cast<M *const *>(home->lanes.brought));
  dismiss(&home->lanes, home->number, 1);
}

/* The same for a warpgroup: four warps, the first a multiple of four. act(M *const *threads) gets 128 of them. */
meeting *group_meeting(int group);
template <class M, class F> inline void together_group(const char *what, int key, M &mine, F &&act) {
  int group = static_cast<int>(here.self->number) / GROUP;
  meeting *at = group_meeting(group);
  if (!meet(at, GROUP, static_cast<int>(here.self->number) % GROUP, what, key, &mine)) return;
  act(reinterpret_cast<M *const *>(at->brought));
  dismiss(at, group * (GROUP / LANES), GROUP / LANES);
}

/* Wait until condition() holds; it is looked at again when no other thread can run. */
void wait_for(const char *what, bool (*condition)(void *), void *of);
template <class F> inline void wait_until(const char *what, F condition) {
  if (condition()) return;
  wait_for(
      what, [](void *of) { return (*static_cast<F *>(of))(); }, &condition);
}

/* Something that happens of itself, as late as it can: when no thread is able to go on. In the order of the calls. An
 * event runs outside all threads: it may change memory and shadow, not wait. What has not happened when all threads
 * have left does not happen. */
void later(void (*event)(void *), const void *of, size_t bytes); /* *of is copied */
template <class F> inline void later(const F &event) {
  later([](void *of) { (*static_cast<F *>(of))(); }, &event, sizeof event);
}

/* What a thread has done or seen is handed on through clocks (one an mbarrier, say), [threads + 1] and 0 at first. */
void publish(uint32_t *clocks);
void see(const uint32_t *clocks);

/* __syncwarp; bar.sync: whole warps. id 0 is the block's. */
void warp_barrier();
void block_barrier(const char *what, int id, int threads);

struct launch {
  const char *kernel;
  dim3 grid;
  int threads;
  size_t shared_bytes;
  const std::function<void()> *body; /* what a thread does */
};
/* All blocks, one after another. NP_ERR_LIBRARY and the message on a violation. */
np_status run(const launch &what);

} // namespace simt

#endif
