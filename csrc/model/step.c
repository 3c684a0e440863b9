/* A training step as passes over parts of its batch, and the sizes that passes have.
 *
 * Passes run as recordings, which have the shapes they were recorded with. So every size that can come is known before
 * the first step, from the recipe alone: how many images, and to how many rows the loss tokens are rounded up.
 *
 *   batch         ├── options.batch ──┤├── options.batch ──┤ …     a pass each
 *                                      ├─ half ──┤├─ half ─┤       where one has more loss tokens than head_rows
 *
 *   loss tokens   1 ……… mean - 4σ … mean … mean + 4σ ……… mean + 6σ ………
 *   rounded to         least ┴──┴──┴──┴──┴──┘ fine    head_rows   cut in halves
 *
 * An image's loss tokens are N - max(S, 1) with S drawn evenly; those of a pass are a sum of many such. They leave four
 * deviations to either side once in 16,000 passes, and six once in 10^9. Rows that pad loss tokens cost time in every
 * step, a size costs a recording or two: some milliseconds of the start, some MB of the device. So sizes are fine where
 * nearly all passes are, and one does for what lies beyond. Without recordings they are finer: a size costs but the
 * products' plans when it first comes. */
#include "model/internal.h"

#include <math.h>

enum {
  LIKELY = 4, /* deviations to either side */
  ROOM = 6,
  SMALLEST_STEP = 16,
  FINE_SIZES = 24,  /* at most, where nearly all passes are */
  FINER_SIZES = 64, /* of passes that are not recorded */
  COARSE_SIZES = 32 /* where nothing is known of the prefixes */
};

static int64_t up_to(int64_t rows, int64_t step) { return (rows + step - 1) / step * step; }
static int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t coarse_step(int64_t all) {
  int64_t step = up_to(all / COARSE_SIZES, SMALLEST_STEP);
  return step > 0 ? step : SMALLEST_STEP;
}

/* Of the loss tokens of `count` images with prefixes from this range. */
static void expect_rows(const np_recipe_model *config, int count, const int range[2], double *mean, double *deviation) {
  double lengths = range[1] - range[0] + 1, squares = 0;
  *mean = 0;
  for (int32_t S = range[0]; S <= range[1]; S++) {
    double rows = (double)np_model_targets(config, 1, &S);
    *mean += rows / lengths;
    squares += rows * rows / lengths;
  }
  *deviation = sqrt(count * fmax(squares - *mean * *mean, 0));
  *mean *= count;
}

int64_t np_model_head_rows(const np_recipe_model *config, int batch, const int prefix_range[2]) {
  int64_t tokens = np_recipe_tokens(config), all = batch * tokens;
  double mean, deviation;
  expect_rows(config, batch, prefix_range, &mean, &deviation);
  double most = mean + ROOM * deviation;
  if (most < (double)tokens) most = (double)tokens; /* one image finds room in any case */
  return most < (double)all ? least_of(up_to((int64_t)most, coarse_step(all)), all) : all;
}

np_model_options np_model_training(const np_recipe *recipe, int ranks, int rank, int batch, int step) {
  const int *prefix = recipe->data.prefix;
  return (np_model_options){.batch = batch,
                            .head = true,
                            .train = true,
                            .recompute = recipe->train.recompute,
                            .head_rows = np_model_head_rows(&recipe->model, batch, prefix),
                            .step = step,
                            .prefix = {prefix[0], prefix[1]},
                            .slice_bytes = ranks > 1 ? (int64_t)fmax(recipe->train.slice_mb * (1 << 20), 1) : 0,
                            .ranks = recipe->train.shard == NP_SHARDING_OPTIM ? ranks : 1,
                            .rank = rank};
}

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

np_row_sizes np_model_row_sizes(const np_model *m, int count) {
  int64_t all = (int64_t)count * np_model_tokens(m), most = least_of(all, m->options.head_rows);
  double mean, deviation;
  np_row_sizes s = {.step = coarse_step(all), .least = most, .fine = most, .most = most};
  if (!m->options.step) {
    s.fine = s.most = all;
    s.least = least_of(s.step, all);
  } else if (count == m->options.batch) { /* what is less was cut, and comes so rarely that one size will do */
    expect_rows(&m->config, count, m->options.prefix, &mean, &deviation);
    bool recorded = !m->ops || m->ops->record_begin; /* a plan, without a backend, counts recordings */
    double sizes = recorded ? FINE_SIZES : FINER_SIZES;
    for (s.step = SMALLEST_STEP; sizes * (double)s.step < 2 * LIKELY * deviation;) s.step *= 2;
    s.least = least_of(up_to((int64_t)fmax(mean - LIKELY * deviation, 1), s.step), most);
    s.fine = least_of(up_to((int64_t)(mean + LIKELY * deviation), s.step), most);
  }
  return s;
}

int64_t np_row_size(const np_row_sizes *s, int64_t rows) {
  int64_t up = rows <= s->least ? s->least : up_to(rows, s->step);
  if (up <= s->fine) return up;
  return rows <= s->most ? s->most : rows;
}

static bool too_many(const np_model *m, int count, int64_t targets) {
  const np_row_sizes sizes = np_model_row_sizes(m, count);
  return count > 1 && np_row_size(&sizes, targets) > m->options.head_rows;
}

/* ---- passes ------------------------------------------------------------------------------------------------------ */

static size_t image_bytes(const np_recipe_model *c) {
  return (size_t)c->image_size[0] * (size_t)c->image_size[1] * (size_t)c->channels;
}

static np_status pass(np_model *m, int count, const uint8_t *pixels, const int32_t *prefix, int64_t targets,
                      bool first) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  if (too_many(m, count, np_model_targets(c, count, prefix))) {
    int half = (count + 1) / 2;
    NP_TRY(pass(m, half, pixels, prefix, targets, first));
    NP_TRY(pass(m, count - half, pixels + (size_t)half * image_bytes(c), prefix + half, targets, false));
  } else {
    NP_TRY(np_model_feed(m, count, pixels, NULL, prefix));
    NP_TRY(np_model_train(m, targets, first));
  }
out:
  return st;
}

np_status np_model_step(np_model *m, int count, const uint8_t *pixels, const int32_t *prefix, int64_t targets) {
  np_status st = NP_OK;
  for (int at = 0; at < count; at += m->options.batch) {
    int images = count - at < m->options.batch ? count - at : m->options.batch;
    NP_TRY(pass(m, images, pixels + (size_t)at * image_bytes(&m->config), prefix + at, targets, at == 0));
  }
out:
  return st;
}

static np_status add(np_model *m, const np_pass *pass) {
  for (int i = 0; i < m->recorded_count; i++)
    if (np_pass_same(&m->recorded[i].pass, pass)) return NP_OK;
  if (m->recorded_count == NP_RECORDINGS)
    return np_error(NP_ERR_ARGUMENT, "training passes of more than %d sizes", NP_RECORDINGS);
  m->recorded[m->recorded_count++].pass = *pass;
  return NP_OK;
}

/* What `pass` above may come to: every size of `count` images whose prefixes are of the range, and the halves where
 * they may be too many. */
static np_status list(np_model *m, int count, bool first, bool bytes) {
  np_status st = NP_OK;
  const np_row_sizes sizes = np_model_row_sizes(m, count);
  const int64_t fewest = count * np_model_targets(&m->config, 1, &m->options.prefix[1]),
                most = count * np_model_targets(&m->config, 1, &m->options.prefix[0]);
  for (int64_t rows = fewest > 0 ? fewest : 1; rows <= most && rows <= sizes.most; rows++) {
    rows = np_row_size(&sizes, rows);
    NP_TRY(add(m, &(np_pass){.count = count, .rows = rows, .first = first, .bytes = bytes}));
  }
  if (!too_many(m, count, most)) goto out;
  NP_TRY(list(m, (count + 1) / 2, first, bytes));
  NP_TRY(list(m, count / 2, false, bytes));
out:
  return st;
}

np_status np_model_list_passes(np_model *m, bool bytes) {
  np_status st = NP_OK;
  const int step = m->options.step, batch = m->options.batch;
  if (!m->options.train || step < 1 || step % batch != 0)
    return np_error(NP_ERR_ARGUMENT, "steps of %d images do not come in passes of %d", step, batch);
  NP_TRY(list(m, batch, true, bytes));
  if (step > batch) NP_TRY(list(m, batch, false, bytes));
out:
  return st;
}
