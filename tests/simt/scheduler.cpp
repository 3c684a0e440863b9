/* Fibers of a block: switching, meetings, barriers, what to do when nobody can go on. */
#include "queue.h"
#include "run.h"

#include <boost/context/detail/fcontext.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

namespace ctx = boost::context::detail;

__thread block here;

namespace {

enum : size_t { STACK = 64 * 1024, GUARD = 4096 };

struct event {
  void (*run)(void *);
  std::vector<unsigned char> of;
};

/* Everything of a host thread that runs blocks; kept from block to block. */
struct machine {
  unsigned char *stacks = nullptr; /* MOST_THREADS of them, a page without access below each */
  std::vector<thread> threads;
  std::vector<warp> warps;
  meeting groups[MOST_THREADS / GROUP];
  barrier barriers[BARRIERS];
  uint32_t ready[MOST_WARPS]; /* [place in order] bits of places of lanes */
  int order[MOST_WARPS], place[MOST_WARPS];
  int turn;      /* place of the warp that runs */
  uint32_t left; /* threads that have not returned */
  std::deque<event> events;
  uint64_t random;
  const launch *what;
  ctx::fcontext_t main;
  bool failed;
  char message[512];
};

thread_local machine *m;

uint64_t draw() { /* splitmix64 */
  uint64_t z = m->random += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

template <class I> void permute(I *order, I *place, int n) {
  for (int i = 0; i < n; i++) order[i] = static_cast<I>(i);
  for (int i = n - 1; i > 0; i--) std::swap(order[i], order[draw() % static_cast<uint64_t>(i + 1)]);
  for (int i = 0; i < n; i++) place[order[i]] = static_cast<I>(i);
}

void make_ready(const thread *t) { m->ready[m->place[t->home->number]] |= 1u << t->home->place[t->number % LANES]; }

/* ---- who runs next ---- */

/* "np_block_sync", "barrier 3", … for messages. */
std::string named(const char *what, int key) {
  if (strcmp(what, "np_named_sync") == 0) return std::string(what) + " " + std::to_string(key);
  return what;
}

[[noreturn]] void fail_stuck() {
  std::string text = "no thread can go on:";
  int runs = 0;
  for (uint32_t from = 0; from < here.threads;) {
    const thread &t = m->threads[from];
    uint32_t to = from + 1;
    while (to < here.threads && m->threads[to].exited == t.exited &&
           (t.exited || (m->threads[to].waits == t.waits && m->threads[to].key == t.key)))
      to++;
    if (++runs <= 6) {
      text += runs > 1 ? ", " : " ";
      text += to == from + 1 ? "thread " + std::to_string(from)
                             : "threads " + std::to_string(from) + "-" + std::to_string(to - 1);
      text += t.exited ? " left" : (to == from + 1 ? " waits at " : " wait at ") + named(t.waits, t.key);
    }
    from = to;
  }
  if (runs > 6) text += ", …";
  here.self = nullptr;
  fail("%s", text.c_str());
}

/* The first ready lane of the warp at this place of the order. */
thread *first_ready(int at) {
  int lane = __builtin_ctz(m->ready[at]);
  m->ready[at] &= m->ready[at] - 1;
  const warp *home = &m->warps[static_cast<size_t>(m->order[at])];
  return &m->threads[static_cast<size_t>(home->number * LANES + home->order[lane])];
}

thread *try_ready() {
  const int warps = static_cast<int>(here.warps);
  if (m->ready[m->turn] != 0) return first_ready(m->turn);
  for (int i = 1; i < warps; i++) {
    int at = (m->turn + i) % warps;
    if (m->ready[at] == 0) continue;
    m->turn = at;
    return first_ready(at);
  }
  return nullptr;
}

bool look_at_conditions() {
  bool any = false;
  for (uint32_t i = 0; i < here.threads; i++) {
    thread *t = &m->threads[i];
    if (t->condition == nullptr) continue;
    here.self = t; /* a condition may ask who it is */
    if (!t->condition(t->condition_of)) continue;
    t->condition = nullptr;
    make_ready(t);
    any = true;
  }
  return any;
}

/* Never NULL: without anybody to run the launch fails. */
thread *next_thread() {
  thread *next;
  while ((next = try_ready()) == nullptr) {
    if (look_at_conditions()) continue;
    if (m->events.empty()) fail_stuck();
    event first = std::move(m->events.front());
    m->events.pop_front();
    here.self = nullptr;
    first.run(first.of.data());
  }
  return next;
}

/* Leave the running fiber for another. */
void switch_to(thread *next) {
  thread *self = here.self;
  if (next == self) return;
  here.self = next;
  ctx::transfer_t back = ctx::jump_fcontext(next->context, self);
  if (back.data != nullptr) static_cast<thread *>(back.data)->context = back.fctx;
}

/* The running thread cannot go on before somebody makes it ready. */
void suspend(const char *what, int key) {
  thread *self = here.self;
  self->waits = what;
  self->key = key;
  thread *next = next_thread();
  here.self = self;
  switch_to(next);
  self->waits = nullptr;
}

/* Where a fiber starts. from.data: the thread that made room, NULL for one that has left, or the machine for run_block.
 */
void enter(ctx::transfer_t from) {
  if (from.data == m) m->main = from.fctx;
  else if (from.data != nullptr) static_cast<thread *>(from.data)->context = from.fctx;
  (*m->what->body)();
  here.self->exited = true;
  if (--m->left == 0) ctx::jump_fcontext(m->main, nullptr);
  thread *next = next_thread();
  here.self = next;
  ctx::jump_fcontext(next->context, nullptr);
}

unsigned char *stack_top(uint32_t thread) { return m->stacks + (thread + 1) * (STACK + GUARD); }

void take_stacks() {
  size_t bytes = MOST_THREADS * (STACK + GUARD);
  void *all = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) abort();
  m->stacks = static_cast<unsigned char *>(all);
  for (uint32_t t = 0; t < MOST_THREADS; t++)
    if (mprotect(m->stacks + t * (STACK + GUARD), GUARD, PROT_NONE) != 0) abort();
}

/* One block, from its first thread to its last. */
void run_block() {
  start_memory();
  start_copies();
  m->events.clear();
  m->left = here.threads;
  m->turn = 0;
  memset(m->groups, 0, sizeof m->groups);
  memset(m->barriers, 0, sizeof m->barriers);
  permute(m->order, m->place, static_cast<int>(here.warps));
  for (uint32_t w = 0; w < here.warps; w++) {
    warp *home = &m->warps[w];
    home->number = static_cast<int>(w);
    home->lanes = meeting();
    permute(home->order, home->place, LANES);
    m->ready[w] = 0xffffffffu;
  }
  for (uint32_t t = 0; t < here.threads; t++) {
    thread fresh = {};
    fresh.index = {t, 0, 0};
    fresh.number = t;
    fresh.home = &m->warps[t / LANES];
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack_top(t) - STACK, STACK); /* a dropped fiber leaves its frames behind */
#endif
    fresh.context = ctx::make_fcontext(stack_top(t), STACK, enter);
    m->threads[t] = fresh;
  }
  here.self = try_ready();
  ctx::jump_fcontext(here.self->context, m);
  here.self = nullptr;
}

} // namespace

thread *thread_of(uint32_t number) { return &m->threads[number]; }
warp *warp_of(int number) { return &m->warps[static_cast<size_t>(number)]; }
meeting *group_meeting(int group) { return &m->groups[group]; }

void fail(const char *format, ...) {
  int n = snprintf(m->message, sizeof m->message, "block (%u, %u, %u)", here.at.x, here.at.y, here.at.z);
  if (here.self != nullptr)
    n += snprintf(m->message + n, sizeof m->message - static_cast<size_t>(n), ", thread %u", here.self->number);
  n += snprintf(m->message + n, sizeof m->message - static_cast<size_t>(n), ": ");
  va_list args;
  va_start(args, format);
  vsnprintf(m->message + n, sizeof m->message - static_cast<size_t>(n), format, args);
  va_end(args);
  m->failed = true;
  ctx::jump_fcontext(m->main, nullptr);
  abort();
}

/* ---- meetings ---- */

bool meet(meeting *at, int size, int slot, const char *what, int key, void *brought) {
  if (at->what == nullptr) {
    at->what = what;
    at->key = key;
  } else if ((at->what != what && strcmp(at->what, what) != 0) || at->key != key) {
    fail("comes to %s while %d other threads of its %s wait at %s", named(what, key).c_str(), at->arrived,
         size == LANES ? "warp" : "warpgroup", named(at->what, at->key).c_str());
  }
  at->brought[slot] = brought;
  if (++at->arrived == size) return true;
  suspend(what, key);
  return false;
}

/* All threads of these warps but the running one. */
static void let_go(int first, int warps) {
  for (int w = first; w < first + warps; w++) m->ready[m->place[w]] = 0xffffffffu;
  const thread *self = here.self;
  if (self->home->number >= first && self->home->number < first + warps)
    m->ready[m->place[self->home->number]] &= ~(1u << self->home->place[self->number % LANES]);
}

void dismiss(meeting *at, int first, int warps) {
  at->what = nullptr;
  at->arrived = 0;
  let_go(first, warps);
}

void warp_barrier() {
  char nothing = 0;
  together("np_warp_sync", 0, nothing, [](char *const *) { order_warp(here.self->home); });
}

void block_barrier(const char *what, int id, int threads) {
  warp *home = here.self->home;
  if (id < 0 || id >= BARRIERS || (id == 0 && threads != static_cast<int>(here.threads)))
    fail("%s %d: barriers of parts of a block are 1 to 15", what, id);
  if (threads <= 0 || threads % LANES != 0) fail("%s %d: %d threads, which are not whole warps", what, id, threads);
  if (!meet(&home->lanes, LANES, static_cast<int>(here.self->number % LANES), what, id, nullptr)) return;
  home->lanes.what = nullptr;
  home->lanes.arrived = 0;
  barrier *b = &m->barriers[id];
  if (b->arrived != 0 && b->threads != threads)
    fail("%s %d of %d threads, and others came for one of %d", what, id, threads, b->threads);
  b->threads = threads;
  b->warps[b->arrived++] = home->number;
  if (b->arrived * LANES < threads) {
    suspend(what, id);
    return;
  }
  order_warps(b->warps, b->arrived);
  for (int i = 0; i < b->arrived; i++) let_go(b->warps[i], 1);
  b->arrived = 0;
}

void wait_for(const char *what, bool (*condition)(void *), void *of) {
  here.self->condition = condition;
  here.self->condition_of = of;
  suspend(what, 0);
}

void later(void (*run)(void *), const void *of, size_t bytes) {
  const unsigned char *from = static_cast<const unsigned char *>(of);
  m->events.push_back({run, std::vector<unsigned char>(from, from + bytes)});
}

np_status run(const launch &what) {
  if (what.threads <= 0 || what.threads % LANES != 0 || what.threads > MOST_THREADS)
    return np_error(NP_ERR_LIBRARY, "kernel %s: %d threads a block: expected whole warps, at most %d threads",
                    what.kernel, what.threads, MOST_THREADS);
  if (m == nullptr) {
    m = new machine();
    take_stacks();
    m->threads.resize(MOST_THREADS);
    m->warps.resize(MOST_WARPS);
  }
  m->what = &what;
  m->failed = false;
  m->random = 20240108;
  here.threads = static_cast<uint32_t>(what.threads);
  here.warps = here.threads / LANES;
  here.grid = {what.grid.x, what.grid.y, what.grid.z};
  here.size = {here.threads, 1, 1};
  here.kernel = what.kernel;
  take_memory(what.shared_bytes, here.threads);
  for (unsigned z = 0; z < what.grid.z && !m->failed; z++)
    for (unsigned y = 0; y < what.grid.y && !m->failed; y++)
      for (unsigned x = 0; x < what.grid.x && !m->failed; x++) {
        here.at = {x, y, z};
        run_block();
      }
  return m->failed ? np_error(NP_ERR_LIBRARY, "kernel %s: %s", what.kernel, m->message) : NP_OK;
}

/* ---- the queue ---- */

thread_local std::vector<work> *recording;

np_status submit(work what) {
  if (recording == nullptr) return what();
  recording->push_back(std::move(what));
  return NP_OK;
}

} // namespace simt
