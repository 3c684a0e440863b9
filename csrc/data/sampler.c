#include "data/sampler.h"

#include "util/philox.h"

#include <stdlib.h>

np_status np_sampler_open(np_sampler *sampler, uint64_t seed, int64_t count) {
  *sampler = (np_sampler){.seed = seed, .epoch = -1};
  if (count < 1 || count > UINT32_MAX)
    return np_error(NP_ERR_ARGUMENT, "a dataset of %lld images cannot be shuffled: 1 to 4294967295 are allowed",
                    (long long)count);
  sampler->count = (uint32_t)count;
  sampler->order = malloc((size_t)count * sizeof *sampler->order);
  if (!sampler->order) return np_error(NP_ERR_MEMORY, "no memory for the order of %lld images", (long long)count);
  return NP_OK;
}

void np_sampler_close(np_sampler *sampler) {
  free(sampler->order);
  sampler->order = NULL;
}

static void shuffle(np_sampler *sampler, uint32_t epoch) {
  np_rng rng = np_rng_make(sampler->seed, NP_PURPOSE_ORDER, epoch, 0);
  uint32_t *order = sampler->order;
  for (uint32_t i = 0; i < sampler->count; i++) order[i] = i;
  for (uint32_t i = sampler->count - 1; i > 0; i--) {
    uint32_t j = np_rng_below(&rng, i + 1), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
  sampler->epoch = epoch;
}

int64_t np_sampler_at(np_sampler *sampler, int64_t position, uint32_t *epoch) {
  *epoch = (uint32_t)(position / sampler->count);
  if (sampler->epoch != *epoch) shuffle(sampler, *epoch);
  return sampler->order[position % sampler->count];
}

int32_t np_sampler_draw_prefix(const np_loader_options *options, uint32_t epoch, int64_t index) {
  np_rng rng = np_rng_make(options->seed, NP_PURPOSE_PREFIX, epoch, (uint64_t)index);
  return options->prefix_min + (int32_t)np_rng_below(&rng, (uint32_t)(options->prefix_max - options->prefix_min) + 1);
}

np_status np_sampler_prefix(const np_loader_options *options, int64_t dataset_count, int64_t number, int32_t *prefix) {
  np_status st = NP_OK;
  np_sampler sampler;
  const int64_t first = options->whole ? number * options->whole + options->first : number * options->batch;
  NP_TRY(np_sampler_open(&sampler, options->seed, dataset_count));
  for (int i = 0; i < options->batch; i++) {
    uint32_t epoch;
    int64_t index = np_sampler_at(&sampler, first + i, &epoch);
    prefix[i] = np_sampler_draw_prefix(options, epoch, index);
  }
out:
  np_sampler_close(&sampler);
  return st;
}
