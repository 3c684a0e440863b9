/* Batches, ahead of the step: worker threads read, decode, crop, flip and jitter.
 *
 * The contents of batch t are a function of (seed, dataset, options, t) alone: not of the number of workers or of their
 * timing. Training walks epoch after epoch: sample i of epoch e stands at place i of a permutation keyed by (seed, e),
 * and a batch may straddle two epochs. Several ranks cut each batch into shares: together they read what one alone
 * would, but for a damaged image's stand-in, which each looks for by itself. Evaluation walks the dataset once, in
 * order, and its last batch may be short. */
#ifndef NP_DATA_LOADER_H
#define NP_DATA_LOADER_H

#include "data/dataset.h"
#include "image/image.h"
#include "util/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct np_loader_options {
  int height, width, channels;
  int batch;        /* images in a batch */
  int whole, first; /* training on several ranks: images in a batch of all of them, of which ours are first … first +
                       batch - 1; 0, 0: ours are all */
  uint64_t seed;
  bool train;          /* random crop, flip, jitter, shuffled, endless; else evaluation crop, in order, once */
  int64_t first_batch; /* where to begin: the step a run resumes at */
  int64_t seen, bad;   /* np_loader_stats of the batches before it: the share of damaged images is the whole run's */
  int64_t batches; /* how many batches in all, from 0; training needs it (reading ahead stops there); 0 in evaluation */
  np_crop_range crop;
  np_interpolation interpolation;
  double flip, jitter_probability, jitter[4];
  int prefix_min, prefix_max; /* S is drawn uniformly, both ends included */
  int workers, prefetch;      /* threads, 0: one a core, at most 8; batches ahead, at least 1 */
  int64_t max_pixels;
  double max_bad_share; /* with more than 10 damaged images met (0: with one) and a larger share of all met:
                           NP_ERR_FORMAT */
  const char *bad_list; /* a file that gets a line for every damaged image; beside it 20 warnings are enough. NULL: a
                           warning each */
  /* Where batches live: pinned memory on a GPU. NULL: malloc and free. */
  void *(*allocate)(size_t bytes);
  void (*release)(void *memory);
} np_loader_options;

typedef struct np_batch {
  int64_t number;   /* 0, 1, 2, … */
  int count;        /* images in it */
  uint8_t *pixels;  /* [count, H, W, C] */
  int32_t *prefix;  /* [count] prefix lengths S */
  int32_t *whole;   /* [options.whole] those of all ranks' images, ours among them; training alone */
  int32_t *labels;  /* [count]; -1 where unlabelled */
  int64_t *indices; /* [count] into the dataset: the sample that was read (the stand-in, where one was damaged) */
} np_batch;

typedef struct np_loader np_loader;

/* The dataset must outlive the loader. */
np_status np_loader_open(const np_dataset *dataset, const np_loader_options *options, np_loader **out);
/* The next batch, in order; the previous one's memory is handed back by this call. *out is NULL after the last batch.
 * An error comes at the same batch whatever the timing, and again from every later call. A damaged image's place is
 * taken by the next good sample of the dataset (index + 1, round the end) with the crop the damaged one would have had
 * drawn for it; in evaluation it is left out, so a batch may be shorter (and one without any image
 * does not appear). */
np_status np_loader_next(np_loader *loader, const np_batch **out);
void np_loader_close(np_loader *loader); /* stops and joins the workers, whatever they were doing */

typedef struct np_loader_stats {
  int64_t images;      /* handed over so far, by this loader */
  int64_t seen;        /* drawn for what was handed over, the damaged ones too, and np_loader_options.seen */
  int64_t bad;         /* of those, damaged; each path is logged once */
  double wait_seconds; /* time np_loader_next stood waiting */
} np_loader_stats;
np_loader_stats np_loader_stats_read(np_loader *loader);
/* The rule of np_loader_options.max_bad_share: NP_ERR_FORMAT where `bad` of `seen` images are too many. */
np_status np_loader_check_bad(int64_t bad, int64_t seen, double max_share);

/* Prefix lengths of training batch `number`, without reading any image: what np_batch.prefix will hold. Shuffles an
 * epoch on every call: for tests and plans, not for the loop. */
np_status np_sampler_prefix(const np_loader_options *options, int64_t dataset_count, int64_t number,
                            int32_t *prefix /* [batch] */);

#endif
