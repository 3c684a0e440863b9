/* The trunk is the expensive part and does not change, so it runs once for each batch of random crops, and every head
 * of the grid takes its step on the same features. All heads begin with the same weights: they differ by their learning
 * rate and decay alone.
 *
 * Several ranks take a share of each batch, and every step is the whole batch's: they add up what the BatchNorm's
 * statistics are made of and each head's gradients, and keep all heads alike.
 *
 *   rank 0   images ─▶ trunk ─▶ moments ─┐   ┌─▶ normalise ─▶ head g ─▶ gradients ─┐   ┌─▶ AdamW
 *                                        ├ Σ ┤                                     ├ Σ ┤
 *   rank 1   images ─▶ trunk ─▶ moments ─┘   └─▶ normalise ─▶ head g ─▶ gradients ─┘   └─▶ AdamW */
#include "probe/probe.h"

#include "data/loader.h"
#include "optim/optimiser.h"
#include "optim/schedule.h"
#include "probe/progress.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/log.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct probe {
  np_opened *opened;
  const np_recipe *recipe;
  np_dataset *train, *val;
  uint64_t listing, val_listing; /* np_dataset_listing of train, and of val */
  np_features features;
  np_heads *heads;
  np_optimiser **optimisers; /* [G] */
  np_loader *loader;
  np_probe_result *result;
  np_comm *comm;              /* the opened model's */
  int batch;                  /* images of a step that are this rank's */
  char *settings, *progress;  /* as np_probe_progress; its file, NULL: none */
  int64_t step, first;        /* steps done; when this process began */
  double started, before;     /* when this process began; seconds by then */
  int64_t images[2], past[2]; /* drawn for the steps done, and damaged; when this process began */
} probe;

/* ---- set-up ---- */

static np_status open_data(probe *p, const np_probe_options *options) {
  np_status st;
  NP_TRY(np_dataset_open(options->train, true, &p->train));
  p->listing = np_dataset_listing(p->train, options->train);
  NP_TRY(np_dataset_open(options->val, true, &p->val));
  p->val_listing = np_dataset_listing(p->val, options->val);
  NP_TRY(np_classes_equal(options->train, p->train->classes, p->train->class_count, options->val, p->val->classes,
                          p->val->class_count));
  if (p->train->class_count < 2)
    st = np_error(NP_ERR_ARGUMENT, "%s: a probe needs two classes at least, found only '%s'", options->train,
                  p->train->classes[0]);
out:
  return st;
}

static np_status open_grid(probe *p) {
  const np_recipe_probe *how = &p->recipe->probe;
  const int ranks = np_comm_world(p->comm);
  np_probe_result *r = p->result;
  if (how->batch % ranks)
    return np_error(NP_ERR_ARGUMENT, "probe.batch: %d among %d ranks; expected a multiple of %d", how->batch, ranks,
                    ranks);
  p->batch = how->batch / ranks;
  r->count = (int)(how->lr_count * how->weight_decay_count);
  if (r->count < 1) return np_error(NP_ERR_ARGUMENT, "probe.lr and probe.weight_decay need one value each at least");
  if (!(r->points = calloc((size_t)r->count, sizeof *r->points)))
    return np_error(NP_ERR_MEMORY, "probe: out of memory");
  for (unsigned i = 0, g = 0; i < how->lr_count; i++)
    for (unsigned j = 0; j < how->weight_decay_count; j++, g++) {
      r->points[g].lr = how->lr[i];
      r->points[g].weight_decay = how->weight_decay[j];
    }
  r->classes = p->train->class_count;
  r->train_images = p->train->count;
  r->batch = how->batch;
  /* Batches straddle epochs, so nothing is left over; a set smaller than one batch still takes a step. */
  r->steps = (p->train->count * how->epochs + how->batch - 1) / how->batch;
  return NP_OK;
}

static np_status open_heads(probe *p) {
  np_status st = NP_OK;
  const np_recipe_model *model = &p->recipe->model;
  np_probe_result *r = p->result;
  const np_heads_shape shape = {.width = model->width,
                                .heads = model->heads,
                                .classes = r->classes,
                                .tokens = np_recipe_tokens(model),
                                .batch = p->batch,
                                .count = r->count};
  float *host = NULL;
  NP_TRY(np_heads_create(p->features.ops, &shape, true, &p->heads));
  p->optimisers = calloc((size_t)r->count, sizeof *p->optimisers);
  host = malloc((size_t)np_heads_params(p->heads)->total * sizeof *host);
  if (!p->optimisers || !host) {
    st = np_error(NP_ERR_MEMORY, "probe: out of memory");
    goto out;
  }
  np_heads_init(np_heads_params(p->heads), p->recipe->seed, host);
  for (int g = 0; g < r->count; g++) {
    const np_recipe_optim optim = {.betas = {0.9, 0.999}, .eps = 1e-8, .weight_decay = r->points[g].weight_decay};
    NP_TRY(np_heads_set(p->heads, g, host));
    NP_TRY(np_optimiser_create(p->features.ops, np_heads_learnt(p->heads), NULL, &optim, &p->optimisers[g]));
    np_optimiser_decay_all(p->optimisers[g]);
  }
out:
  free(host);
  return st;
}

static np_status open_loader(probe *p) {
  np_loader_options options = np_open_loader(p->recipe, p->batch);
  options.train = true;
  options.max_bad_share = 1; /* all ranks' images are judged together */
  options.whole = p->result->batch;
  options.first = np_comm_rank(p->comm) * p->batch;
  options.first_batch = p->step;
  options.batches = p->result->steps;
  options.crop = (np_crop_range){p->recipe->probe.crop_scale[0], p->recipe->probe.crop_scale[1],
                                 p->recipe->data.crop_ratio[0], p->recipe->data.crop_ratio[1]};
  options.flip = p->recipe->probe.flip;
  return np_loader_open(p->train, &options, &p->loader);
}

/* ---- progress ---- */

static double seconds_spent(const probe *p) { return p->before + np_seconds() - p->started; }

static np_probe_progress progress_of(probe *p) {
  return (np_probe_progress){.settings = p->settings,
                             .machine = p->opened->machine,
                             .step = p->step,
                             .seconds = seconds_spent(p),
                             .images = {p->images[0], p->images[1]},
                             .heads = p->heads,
                             .optimisers = p->optimisers,
                             .result = p->result};
}

/* All that decides what becomes of the heads, as YAML: keys of the recipe, and what they were trained on. Images count
 * by their names and classes, as in a run. */
static np_status describe(probe *p, const np_probe_options *options) {
  np_status st = NP_OK;
  np_recipe *defaults = NULL;
  char *recipe = NULL, *layers = np_layers_text(p->result->layers, p->result->layer_count);
  NP_TRY(np_recipe_load(NULL, NULL, 0, &defaults));
  np_recipe kept = *defaults; /* borrows strings */
  kept.seed = p->recipe->seed;
  kept.model = p->recipe->model;
  memcpy(kept.data.crop_ratio, p->recipe->data.crop_ratio, sizeof kept.data.crop_ratio);
  kept.data.max_pixels = p->recipe->data.max_pixels;
  kept.probe = p->recipe->probe;
  kept.probe.log_every = defaults->probe.log_every;
  kept.probe.save_every = defaults->probe.save_every;
  NP_TRY(np_recipe_dump_common(&kept, &recipe));
  p->settings =
      np_format("weights: %016llx\ninit: %s\nlayers: %s\nprecision: %s\nclasses: %d\nimages: %lld, %016llx\n%s",
                (unsigned long long)p->opened->weights, options->init, layers,
                np_model_ops(p->opened->model)->act == NP_BF16 ? "bf16" : "fp32", p->result->classes,
                (long long)p->train->count, (unsigned long long)p->listing, recipe);
out:
  free(layers);
  free(recipe);
  np_recipe_free(defaults);
  return st;
}

/* Where an earlier start of the same command was stopped. */
static np_status go_on(probe *p, const np_probe_options *options) {
  np_status st = NP_OK;
  np_probe_progress progress;
  if (!options->out) return NP_OK;
  NP_TRY(describe(p, options));
  p->progress = np_probe_beside(options->out, ".progress");
  progress = progress_of(p);
  NP_TRY(np_probe_progress_read(p->progress, &progress));
  p->step = p->first = progress.step;
  p->before = progress.seconds;
  memcpy(p->images, progress.images, sizeof p->images);
  memcpy(p->past, progress.images, sizeof p->past);
  if (p->step > 0)
    np_info("going on from '%s': step %lld of %lld", p->progress, (long long)p->step, (long long)p->result->steps);
out:
  return st;
}

/* All ranks have the same heads; the first one writes. What cannot be kept now may be later: a warning, but where the
 * probe is to stop. */
static np_status save(probe *p, bool stop) {
  np_status st = NP_OK;
  const np_probe_progress progress = progress_of(p);
  if (!p->progress) return NP_OK;
  if (np_comm_rank(p->comm) == 0) st = np_probe_progress_write(p->progress, &progress);
  if (stop) return np_comm_settle(p->comm, st);
  if (st != NP_OK) np_warn("%s: the probe goes on without having been saved", np_error_message());
  return NP_OK;
}

static np_status forget(probe *p) {
  if (!p->progress || np_comm_rank(p->comm) > 0 || unlink(p->progress) == 0 || errno == ENOENT) return NP_OK;
  return np_error(NP_ERR_IO, "cannot remove '%s': %s", p->progress, strerror(errno));
}

/* ---- training ---- */

static void report(const probe *p, const double *losses) {
  const np_probe_result *r = p->result;
  const double rate = (double)((p->step - p->first) * r->batch) / (np_seconds() - p->started);
  const bool terminal = isatty(STDERR_FILENO), last = p->step == r->steps;
  double best = INFINITY;
  if (np_comm_rank(p->comm) > 0) return;
  for (int g = 0; g < r->count; g++)
    if (losses[g] < best) best = losses[g];
  if (!terminal && !last && p->step % p->recipe->probe.log_every) return;
  char *line =
      np_format("probe: step %lld/%lld  loss %.4f (best of %d)  %.1f images/s  %.0f s left", (long long)p->step,
                (long long)r->steps, best, r->count, rate, (double)((r->steps - p->step) * r->batch) / rate);
  if (terminal) np_log_set_status(line);
  else np_info("%s", line);
  free(line);
}

/* Features of this rank's share of the next batch, and their moments. */
static np_status look(probe *p, const np_batch **batch, double **moments, int64_t *size) {
  np_status st;
  NP_TRY(np_loader_next(p->loader, batch));
  NP_TRY(np_features_run(&p->features, (*batch)->count, (*batch)->pixels));
  st = np_heads_moments(p->heads, (*batch)->count, p->features.values, moments, size);
out:
  return st;
}

/* Behind each head's loss: how many ranks were asked to stop, and images drawn and found damaged since they
 * began. */
enum { STOP, SEEN, BAD, SAID };

/* One step of every head on the same features. said [G + SAID]: of all ranks; losses over the whole batch. */
static np_status train_step(probe *p, double *said) {
  np_status st;
  np_probe_result *r = p->result;
  const np_batch *batch = NULL;
  double *moments = NULL;
  int64_t size = 0;
  NP_TRY(np_comm_settle(p->comm, look(p, &batch, &moments, &size)));
  NP_TRY(np_comm_sum_f64(p->comm, -1, moments, size));
  NP_TRY(np_comm_join(p->comm));
  NP_TRY(np_heads_normalise(p->heads, batch->count, r->batch, p->features.values));
  for (int g = 0; g < r->count; g++) {
    const np_schedule schedule = {.lr = r->points[g].lr, .warmup = p->recipe->probe.warmup, .steps = r->steps};
    float *gradients = np_heads_gradients(p->heads);
    NP_TRY(np_heads_forward(p->heads, g, batch->count, p->features.values, NULL));
    NP_TRY(np_heads_backward(p->heads, g, batch->count, r->batch, p->features.values, batch->labels, &said[g]));
    NP_TRY(np_comm_sum_f32(p->comm, -1, gradients, np_heads_learnt(p->heads)->total));
    NP_TRY(np_comm_join(p->comm));
    const np_optimised head = {.weights = np_heads_weights(p->heads, g), .grads = gradients};
    NP_TRY(np_optimiser_step(p->optimisers[g], &head, np_schedule_lr(&schedule, p->step)));
  }
  const np_loader_stats loader = np_loader_stats_read(p->loader);
  said[r->count + STOP] = np_interrupt_signal() != 0;
  said[r->count + SEEN] = (double)loader.seen;
  said[r->count + BAD] = (double)loader.bad;
  NP_TRY(np_comm_total(p->comm, said, r->count + SAID));
  p->images[0] = p->past[0] + (int64_t)said[r->count + SEEN];
  p->images[1] = p->past[1] + (int64_t)said[r->count + BAD];
  st = np_loader_check_bad(p->images[1], p->images[0], p->recipe->data.max_bad_share);
  NP_TRY(np_comm_settle(p->comm, st));
  p->step++;
out:
  return st;
}

/* Until the last step, or until a rank is asked to stop: then *stop, behind the same step on all. */
static np_status train_steps(probe *p, double *said, bool *stop) {
  np_status st = NP_OK;
  np_probe_result *r = p->result;
  const int64_t epoch = (p->train->count + r->batch - 1) / r->batch, last = r->steps < epoch ? r->steps : epoch;
  const int64_t every = p->recipe->probe.save_every;
  while (p->step < r->steps && !*stop) {
    NP_TRY(train_step(p, said));
    for (int g = 0; g < r->count && p->step > r->steps - last; g++) r->points[g].train_loss += said[g] / (double)last;
    report(p, said);
    *stop = said[r->count + STOP] > 0; /* behind the last step, too: scoring takes its time */
    if (*stop || p->step == r->steps || (every > 0 && p->step % every == 0)) NP_TRY(save(p, *stop));
  }
  for (int g = 0; g < r->count; g++) {
    np_step_outcome outcome;
    NP_TRY(np_optimiser_read(p->optimisers[g], &outcome));
    r->points[g].skipped = p->step - outcome.steps;
  }
out:
  return st;
}

static np_status stopped(const probe *p, int signal) {
  return np_error(NP_ERR_INTERRUPTED, "%s after step %lld of %lld; %s",
                  signal ? strsignal(signal) : "a signal to another rank", (long long)p->step,
                  (long long)p->result->steps,
                  p->progress ? "the same command goes on from there" : "nothing is kept where nothing is written");
}

static np_status train(probe *p) {
  np_status st = NP_OK;
  bool stop = false;
  double *said = calloc((size_t)p->result->count + SAID, sizeof *said);
  if (!said) return np_error(NP_ERR_MEMORY, "probe: out of memory");
  if (p->step < p->result->steps) NP_TRY(np_comm_settle(p->comm, open_loader(p)));
  np_interrupt_watch();
  st = train_steps(p, said, &stop);
  const int signal = np_interrupt_signal();
  np_interrupt_release();
  np_log_set_status(NULL);
  if (st == NP_OK && stop) st = np_comm_part(p->comm, stopped(p, signal));
out:
  np_loader_close(p->loader);
  p->loader = NULL;
  free(said);
  return st;
}

/* ---- scoring ---- */

static np_status score(probe *p) {
  np_status st = NP_OK;
  np_probe_result *r = p->result;
  np_score *scores = calloc((size_t)r->count, sizeof *scores);
  if (!scores) return np_error(NP_ERR_MEMORY, "probe: out of memory");
  NP_TRY(np_evaluate(&p->features, p->heads, r->count, r->classes, p->val, p->batch, scores, NULL));
  r->best = -1;
  for (int g = 0; g < r->count; g++) {
    const np_score *best = r->best < 0 ? NULL : &scores[r->best];
    r->points[g].score = scores[g];
    if (!isfinite(scores[g].loss)) continue; /* it learnt nothing that could be used */
    if (!best || scores[g].top1 > best->top1 || (scores[g].top1 == best->top1 && scores[g].top5 > best->top5))
      r->best = g;
  }
  if (r->best >= 0) goto out;
  NP_TRY(np_comm_settle(p->comm, forget(p))); /* nobody can go on from there */
  st = np_error(NP_ERR_NUMERIC,
                "probe: no head's outputs are finite; expected smaller probe.lr, or a trunk whose features are finite");
  st = np_comm_part(p->comm, st);
out:
  free(scores);
  return st;
}

/* The best head is the same on all ranks, to the bit; the first one writes it. */
static np_status write_best(probe *p, const np_probe_options *options) {
  np_status st = NP_OK;
  const int64_t total = np_heads_params(p->heads)->total;
  double squares = 0;
  float *host = malloc((size_t)total * sizeof *host);
  if (!host) return np_error(NP_ERR_MEMORY, "probe: out of memory");
  NP_TRY(np_comm_settle(p->comm, np_heads_get(p->heads, p->result->best, host)));
  for (int64_t i = 0; i < total; i++) squares += (double)host[i] * (double)host[i];
  NP_TRY(np_comm_near(p->comm, "the weights of the best head", squares));
  if (options->out && np_comm_rank(p->comm) == 0) {
    st = np_probe_write(p->opened, options, p->result, p->heads, host, p->train->classes);
    if (st == NP_OK) st = forget(p);
  }
  st = np_comm_part(p->comm, st);
out:
  free(host);
  return st;
}

/* What all ranks must find alike, beside the recipe. */
static np_status compare(probe *p) {
  np_status st;
  NP_TRY(np_comm_same(p->comm, "the training images", (int64_t)p->listing));
  NP_TRY(np_comm_same(p->comm, "the validation images", (int64_t)p->val_listing));
out:
  return st;
}

static np_status open_all(probe *p) {
  np_status st;
  NP_TRY(np_features_open(p->opened, p->result->layers, p->result->layer_count, p->batch, &p->features));
  st = open_heads(p);
out:
  return st;
}

np_status np_probe_run(np_opened *opened, const np_probe_options *options, np_probe_result *result) {
  np_status st;
  probe p = {
      .opened = opened, .recipe = opened->recipe, .result = result, .comm = opened->comm, .started = np_seconds()};
  *result = (np_probe_result){0};
  st = np_open_layers(opened->recipe, options->layers, NULL, result->layers, &result->layer_count);
  if (st == NP_OK) st = open_data(&p, options);
  NP_TRY(np_comm_settle(p.comm, st));
  NP_TRY(compare(&p));
  NP_TRY(np_comm_settle(p.comm, open_grid(&p)));
  NP_TRY(np_comm_settle(p.comm, open_all(&p)));
  NP_TRY(np_comm_settle(p.comm, go_on(&p, options)));
  NP_TRY(np_comm_same(p.comm, "the probe's progress", p.step));
  NP_TRY(train(&p));
  NP_TRY(score(&p));
  result->seconds = seconds_spent(&p);
  st = write_best(&p, options);
out:
  for (int g = 0; p.optimisers && g < result->count; g++) np_optimiser_destroy(p.optimisers[g]);
  free(p.optimisers);
  np_heads_destroy(p.heads);
  np_features_close(&p.features);
  np_dataset_close(p.train);
  np_dataset_close(p.val);
  free(p.settings);
  free(p.progress);
  return st;
}

void np_probe_result_free(np_probe_result *result) {
  free(result->points);
  *result = (np_probe_result){0};
}
