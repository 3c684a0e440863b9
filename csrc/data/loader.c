#include "data/loader.h"

#include "data/sampler.h"
#include "data/transform.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/machine.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The ring: batch t lives in slot t % slots. Workers take the images of the batches in order, one at a time; a batch
 * may be begun once its slot was handed back, so at most `slots` batches are open, one of them in the caller's hands.
 *
 *     base                      next_batch
 *      |                            |
 *   [ caller's | ready | filling | filling ] (not begun: its slot is the caller's)
 *
 * What a batch holds, which images count as damaged and at which batch an error comes up is settled when the batch is
 * handed over, in order: so nothing depends on which worker was first. */

enum { LOGGED_BAD = 20, FREE_BAD = 10, MAX_STAND_INS = 1000, MAX_WORKERS = 8 };
enum { ALIGNMENT = 64, MESSAGE_BYTES = 1024 };

typedef struct slot {
  np_batch batch;   /* number -1: never begun */
  void *memory;     /* pixels, indices, prefix, labels in one piece */
  int64_t *drawn;   /* [B] what the sampler gave */
  uint32_t *epoch;  /* [B] */
  bool *damaged;    /* [B] the drawn image could not be read */
  int filling;      /* images not finished yet */
  np_status status; /* of the first image that failed for another reason than being damaged */
  int failed_image; /* which one; INT_MAX: none */
  char message[MESSAGE_BYTES];
} slot;

struct np_loader {
  const np_dataset *dataset;
  np_loader_options options;
  np_sampler sampler;
  slot *slots;
  int slot_count;
  int64_t end; /* one past the last batch */

  pthread_mutex_t lock; /* over all below */
  pthread_cond_t work;  /* a slot came free, or stop */
  pthread_cond_t ready; /* a batch is complete */
  int64_t base;         /* the oldest batch not handed back */
  int64_t next_batch;
  int next_image; /* the next work item */
  bool taken;     /* the caller holds `base` */
  bool stop;
  uint8_t *known_bad; /* [n bits] files found damaged: not read again */
  uint8_t *told_bad;  /* [n bits] files logged: those, and what could not be read */
  int logged;
  FILE *bad_list; /* opened at the first damaged image */
  np_loader_stats stats;
  np_status status; /* what np_loader_next returned once, it returns again */
  char message[MESSAGE_BYTES];

  pthread_t *threads;
  int thread_count;
};

/* ---- one image (a worker, without the lock)
 * -------------------------------------------------------------------------- */

static bool is_known_bad(np_loader *loader, int64_t index) {
  pthread_mutex_lock(&loader->lock);
  bool bad = loader->known_bad[index / 8] >> (index % 8) & 1;
  pthread_mutex_unlock(&loader->lock);
  return bad;
}

/* Adds a line to the list; false where there is none or it cannot be written. */
static bool list_bad(np_loader *loader, const char *line) {
  if (!loader->options.bad_list) return false;
  if (!loader->bad_list) loader->bad_list = fopen(loader->options.bad_list, "ae");
  return loader->bad_list && fprintf(loader->bad_list, "%s\n", line) > 0 && fflush(loader->bad_list) == 0;
}

/* for_good: the file itself is damaged. What the system did not let us read may be there the next time. */
static void note_bad(np_loader *loader, int64_t index, bool for_good) {
  pthread_mutex_lock(&loader->lock);
  uint8_t *told = &loader->told_bad[index / 8], bit = (uint8_t)(1u << (index % 8));
  if (for_good) loader->known_bad[index / 8] |= bit;
  if (!(*told & bit)) {
    *told |= bit;
    const bool listed = list_bad(loader, np_error_message());
    if (!listed || loader->logged < LOGGED_BAD) np_warn("damaged image left out: %s", np_error_message());
    else if (loader->logged == LOGGED_BAD) np_warn("more damaged images, listed in '%s'", loader->options.bad_list);
    loader->logged++;
  }
  pthread_mutex_unlock(&loader->lock);
}

/* Fill place `i` of a batch, with the stand-in where the drawn image is damaged. */
static np_status fill(np_loader *loader, slot *s, int i) {
  const np_loader_options *o = &loader->options;
  const int64_t n = loader->dataset->count, drawn = s->drawn[i];
  const size_t bytes = (size_t)o->height * (size_t)o->width * (size_t)o->channels;
  const np_transform transform = {.options = o, .epoch = s->epoch[i], .index = drawn};
  int64_t tries = n < MAX_STAND_INS ? n : MAX_STAND_INS;
  for (int64_t t = 0; t < tries; t++) {
    int64_t index = (drawn + t) % n;
    if (!is_known_bad(loader, index)) {
      np_status st = np_transform_load(&transform, loader->dataset, index, s->batch.pixels + (size_t)i * bytes);
      if (st == NP_OK) {
        s->batch.indices[i] = index;
        s->batch.labels[i] = loader->dataset->samples[index].label;
        return NP_OK;
      }
      if (st != NP_ERR_FORMAT && st != NP_ERR_IO) return st;
      note_bad(loader, index, st == NP_ERR_FORMAT);
    }
    s->damaged[i] = true;
    if (!o->train) return NP_OK;
  }
  char *name = np_dataset_name(loader->dataset, drawn);
  np_status st = np_error(NP_ERR_FORMAT, "%lld damaged images in a row, from '%s' on", (long long)tries, name);
  free(name);
  return st;
}

/* ---- the workers (the lock is held)
 * ---------------------------------------------------------------------------------- */

static slot *slot_of(np_loader *loader, int64_t batch) { return &loader->slots[batch % loader->slot_count]; }

/* Which samples stand in the batch. Those of other ranks are drawn for their prefix lengths alone. */
static void draw_batch(np_loader *loader, slot *s) {
  const np_loader_options *o = &loader->options;
  for (int i = 0; i < o->whole; i++) {
    uint32_t epoch;
    int64_t drawn = np_sampler_at(&loader->sampler, s->batch.number * o->whole + i, &epoch);
    int mine = i - o->first;
    s->batch.whole[i] = np_sampler_draw_prefix(o, epoch, drawn);
    if (mine < 0 || mine >= o->batch) continue;
    s->epoch[mine] = epoch;
    s->drawn[mine] = drawn;
  }
}

static void begin_batch(np_loader *loader, int64_t number) {
  const np_loader_options *o = &loader->options;
  slot *s = slot_of(loader, number);
  int64_t first = number * o->batch, left = loader->dataset->count - first;
  s->batch.number = number;
  s->batch.count = o->train || left > o->batch ? o->batch : (int)left;
  s->filling = s->batch.count;
  s->status = NP_OK;
  s->failed_image = INT_MAX;
  memset(s->damaged, 0, (size_t)s->batch.count * sizeof *s->damaged);
  if (o->train) {
    draw_batch(loader, s);
    return;
  }
  for (int i = 0; i < s->batch.count; i++) {
    s->epoch[i] = 0;
    s->drawn[i] = first + i;
    s->batch.prefix[i] = np_sampler_draw_prefix(o, 0, s->drawn[i]);
  }
}

static bool has_work(const np_loader *loader) {
  return loader->next_batch < loader->end &&
         (loader->next_image > 0 || loader->next_batch < loader->base + loader->slot_count);
}

static slot *take_work(np_loader *loader, int *image) {
  if (loader->next_image == 0) begin_batch(loader, loader->next_batch);
  slot *s = slot_of(loader, loader->next_batch);
  *image = loader->next_image++;
  if (loader->next_image == s->batch.count) {
    loader->next_image = 0;
    loader->next_batch++;
  }
  if (has_work(loader)) pthread_cond_signal(&loader->work);
  return s;
}

static void finish_work(np_loader *loader, slot *s, int image, np_status st) {
  if (st != NP_OK && image < s->failed_image) {
    s->failed_image = image;
    s->status = st;
    strcpy(s->message, np_error_message());
  }
  if (--s->filling == 0) pthread_cond_signal(&loader->ready);
}

static void *work(void *argument) {
  np_loader *loader = argument;
  pthread_mutex_lock(&loader->lock);
  for (;;) {
    int image;
    while (!loader->stop && !has_work(loader)) pthread_cond_wait(&loader->work, &loader->lock);
    if (loader->stop) break;
    slot *s = take_work(loader, &image);
    pthread_mutex_unlock(&loader->lock);
    np_status st = fill(loader, s, image);
    pthread_mutex_lock(&loader->lock);
    finish_work(loader, s, image, st);
  }
  pthread_mutex_unlock(&loader->lock);
  return NULL;
}

/* ---- the caller (the lock is held)
 * ----------------------------------------------------------------------------------- */

static void hand_back(np_loader *loader) {
  loader->taken = false;
  loader->base++;
  pthread_cond_broadcast(&loader->work);
}

static slot *wait_for_base(np_loader *loader) {
  slot *s = slot_of(loader, loader->base);
  double begin = np_seconds();
  while (s->batch.number != loader->base || s->filling > 0) pthread_cond_wait(&loader->ready, &loader->lock);
  loader->stats.wait_seconds += np_seconds() - begin;
  return s;
}

/* Evaluation leaves damaged images out: close the gaps. */
static void compact(np_loader *loader, slot *s) {
  const np_loader_options *o = &loader->options;
  size_t bytes = (size_t)o->height * (size_t)o->width * (size_t)o->channels;
  int kept = 0;
  np_batch *b = &s->batch;
  for (int i = 0; i < b->count; i++) {
    if (s->damaged[i]) continue;
    if (kept != i) {
      memcpy(b->pixels + (size_t)kept * bytes, b->pixels + (size_t)i * bytes, bytes);
      b->prefix[kept] = b->prefix[i];
      b->labels[kept] = b->labels[i];
      b->indices[kept] = b->indices[i];
    }
    kept++;
  }
  b->count = kept;
}

/* Count what a complete batch met and decide whether the run may go on. */
static np_status settle(np_loader *loader, slot *s) {
  if (s->status != NP_OK) return np_error(s->status, "%s", s->message);
  int damaged = 0;
  for (int i = 0; i < s->batch.count; i++) damaged += s->damaged[i];
  loader->stats.seen += s->batch.count;
  loader->stats.bad += damaged;
  if (!loader->options.train && damaged > 0) compact(loader, s);
  loader->stats.images += s->batch.count;
  return np_loader_check_bad(loader->stats.bad, loader->stats.seen, loader->options.max_bad_share);
}

np_status np_loader_check_bad(int64_t bad, int64_t seen, double max_share) {
  if (bad <= (max_share > 0 ? FREE_BAD : 0) || (double)bad <= max_share * (double)seen) return NP_OK;
  return np_error(NP_ERR_FORMAT, "%lld of %lld images are damaged: more than the allowed share of %g", (long long)bad,
                  (long long)seen, max_share);
}

np_status np_loader_next(np_loader *loader, const np_batch **out) {
  np_status st = NP_OK;
  *out = NULL;
  pthread_mutex_lock(&loader->lock);
  if (loader->taken) hand_back(loader);
  if (loader->status != NP_OK) st = np_error(loader->status, "%s", loader->message);
  while (st == NP_OK && !loader->taken && loader->base < loader->end) {
    slot *s = wait_for_base(loader);
    st = settle(loader, s);
    if (st != NP_OK) {
      loader->status = st;
      strcpy(loader->message, np_error_message());
      loader->stop = true; /* nobody will ask for what lies ahead */
      pthread_cond_broadcast(&loader->work);
    } else if (s->batch.count == 0) { /* an evaluation batch of damaged images only */
      hand_back(loader);
    } else {
      loader->taken = true;
      *out = &s->batch;
    }
  }
  pthread_mutex_unlock(&loader->lock);
  return st;
}

np_loader_stats np_loader_stats_read(np_loader *loader) {
  pthread_mutex_lock(&loader->lock);
  np_loader_stats stats = loader->stats;
  pthread_mutex_unlock(&loader->lock);
  return stats;
}

/* ---- open and close
 * -------------------------------------------------------------------------------------------------- */

static np_status check_options(const np_dataset *dataset, const np_loader_options *o) {
  bool good = dataset->count > 0 && o->height > 0 && o->width > 0 && (o->channels == 1 || o->channels == 3) &&
              o->batch > 0 && o->first_batch >= 0 && o->seen >= 0 && o->bad >= 0 && o->batches >= 0 && o->whole >= 0 &&
              o->first >= 0 && o->first + o->batch <= (o->whole ? o->whole : o->batch) && o->prefix_min >= 0 &&
              o->prefix_max >= o->prefix_min && o->workers >= 0 && o->prefetch > 0 && o->max_pixels > 0;
  return good ? NP_OK : np_error(NP_ERR_ARGUMENT, "the loader was asked for sizes or counts that cannot be");
}

static np_status open_slot(np_loader *loader, slot *s) {
  const np_loader_options *o = &loader->options;
  size_t n = (size_t)o->batch, pixels = n * (size_t)o->height * (size_t)o->width * (size_t)o->channels;
  pixels = (pixels + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  size_t whole = (size_t)o->whole;
  size_t bytes = pixels + n * (sizeof *s->batch.indices + sizeof *s->batch.labels) + whole * sizeof *s->batch.whole;
  s->memory = o->allocate ? o->allocate(bytes) : malloc(bytes);
  s->drawn = malloc(n * sizeof *s->drawn);
  s->epoch = malloc(n * sizeof *s->epoch);
  s->damaged = malloc(n * sizeof *s->damaged);
  if (!s->memory || !s->drawn || !s->epoch || !s->damaged)
    return np_error(NP_ERR_MEMORY, "no memory for a batch of %d images (%zu bytes)", o->batch, bytes);
  s->batch.number = -1;
  s->batch.pixels = s->memory;
  s->batch.indices = (int64_t *)(s->batch.pixels + pixels);
  s->batch.labels = (int32_t *)(s->batch.indices + n);
  s->batch.whole = s->batch.labels + n;
  s->batch.prefix = s->batch.whole + o->first;
  return NP_OK;
}

static void close_slot(const np_loader_options *o, slot *s) {
  if (o->allocate && s->memory) o->release(s->memory);
  else if (!o->allocate) free(s->memory);
  free(s->drawn);
  free(s->epoch);
  free(s->damaged);
}

/* Workers block every signal: SIGTERM and its like are for the thread that trains. */
static np_status start_workers(np_loader *loader, int workers) {
  np_status st = NP_OK;
  sigset_t all, old;
  loader->threads = calloc((size_t)workers, sizeof *loader->threads);
  if (!loader->threads) return np_error(NP_ERR_MEMORY, "no memory for %d loader threads", workers);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  while (loader->thread_count < workers && st == NP_OK) {
    int failed = pthread_create(&loader->threads[loader->thread_count], NULL, work, loader);
    if (failed) st = np_error(NP_ERR_IO, "cannot start loader thread %d: %s", loader->thread_count, strerror(failed));
    else loader->thread_count++;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return st;
}

static int default_workers(void) {
  int cores = np_machine_cores();
  return cores > MAX_WORKERS ? MAX_WORKERS : cores;
}

np_status np_loader_open(const np_dataset *dataset, const np_loader_options *options, np_loader **out) {
  np_status st = NP_OK;
  np_loader *loader = NULL;
  *out = NULL;
  NP_TRY(check_options(dataset, options));
  loader = calloc(1, sizeof *loader);
  if (!loader) return np_error(NP_ERR_MEMORY, "no memory for the loader");
  pthread_mutex_init(&loader->lock, NULL);
  pthread_cond_init(&loader->work, NULL);
  pthread_cond_init(&loader->ready, NULL);
  loader->dataset = dataset;
  loader->options = *options;
  if (!options->whole) loader->options.whole = options->batch;
  loader->base = loader->next_batch = options->first_batch;
  loader->stats.seen = options->seen;
  loader->stats.bad = options->bad;
  loader->end = options->train ? options->batches : (dataset->count - 1) / options->batch + 1;
  loader->slots = calloc((size_t)options->prefetch + 1, sizeof *loader->slots);
  loader->known_bad = calloc((size_t)dataset->count / 8 + 1, 1);
  loader->told_bad = calloc((size_t)dataset->count / 8 + 1, 1);
  if (!loader->slots || !loader->known_bad || !loader->told_bad) {
    st = np_error(NP_ERR_MEMORY, "no memory for the loader");
    goto out;
  }
  loader->slot_count = options->prefetch + 1;
  for (int i = 0; i < loader->slot_count; i++) NP_TRY(open_slot(loader, &loader->slots[i]));
  if (options->train) NP_TRY(np_sampler_open(&loader->sampler, options->seed, dataset->count));
  NP_TRY(start_workers(loader, options->workers ? options->workers : default_workers()));
  *out = loader;
  return NP_OK;
out:
  np_loader_close(loader);
  return st;
}

void np_loader_close(np_loader *loader) {
  if (!loader) return;
  pthread_mutex_lock(&loader->lock);
  loader->stop = true;
  pthread_cond_broadcast(&loader->work);
  pthread_mutex_unlock(&loader->lock);
  for (int i = 0; i < loader->thread_count; i++) pthread_join(loader->threads[i], NULL);
  for (int i = 0; i < loader->slot_count; i++) close_slot(&loader->options, &loader->slots[i]);
  np_sampler_close(&loader->sampler);
  pthread_cond_destroy(&loader->ready);
  pthread_cond_destroy(&loader->work);
  pthread_mutex_destroy(&loader->lock);
  free(loader->known_bad);
  free(loader->told_bad);
  if (loader->bad_list) fclose(loader->bad_list);
  free(loader->threads);
  free(loader->slots);
  free(loader);
}
