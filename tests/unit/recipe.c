/* Recipes: every kind of mistake is one line that says where, what and what is allowed; what is dumped reads back
 * equal. */
#include "recipe/recipe.h"
#include "util/file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static np_recipe *good(const char *text, const char *const *overrides, int count) {
  np_recipe *recipe = NULL;
  np_status st = text ? np_recipe_parse(text, strlen(text), "r.yaml", overrides, count, &recipe)
                      : np_recipe_load(NULL, overrides, count, &recipe);
  if (st != NP_OK) fail_msg("%s", np_error_message());
  assert_non_null(recipe);
  return recipe;
}

static void expect_error(np_status st, const np_recipe *recipe, const char *line) {
  assert_int_equal(st, NP_ERR_ARGUMENT);
  assert_null(recipe);
  assert_string_equal(np_error_message(), line);
}

/* Parse a document and demand exactly this line. */
static void bad(const char *text, const char *line) {
  np_recipe *recipe = NULL;
  np_status st = np_recipe_parse(text, strlen(text), "r.yaml", NULL, 0, &recipe);
  expect_error(st, recipe, line);
}

static void bad_override(const char *override, const char *line) {
  np_recipe *recipe = NULL;
  np_status st = np_recipe_load(NULL, &override, 1, &recipe);
  expect_error(st, recipe, line);
}

/* model.md, "Training": the released AIMv1-600M configuration. */
static void defaults(void **state) {
  (void)state;
  np_recipe *r = good(NULL, NULL, 0);
  assert_true(r->seed == 0 && r->backend == NP_BACKEND_AUTO && r->precision == NP_PRECISION_AUTO && r->threads == 0);
  const np_recipe_model *m = &r->model;
  assert_true(m->image_size[0] == 224 && m->image_size[1] == 224 && m->channels == 3 && m->patch_size == 14);
  assert_true(m->width == 1536 && m->blocks == 24 && m->heads == 12 && m->mlp_ratio == 4 && m->norm_eps == 1e-5);
  assert_true(m->head_width == 2048 && m->head_blocks == 12 && m->head_block == NP_HEAD_L3M);
  assert_true(m->pixel_mean[0] == 0.485 && m->pixel_mean[1] == 0.456 && m->pixel_mean[2] == 0.406);
  assert_true(m->pixel_std[0] == 0.229 && m->pixel_std[1] == 0.224 && m->pixel_std[2] == 0.225);
  assert_int_equal(np_recipe_tokens(m), 256);
  assert_int_equal(np_recipe_patch_values(m), 588);
  const np_recipe_data *d = &r->data;
  assert_true(d->crop_scale[0] == 0.4 && d->crop_scale[1] == 1 && d->crop_ratio[0] == 3.0 / 4 &&
              d->crop_ratio[1] == 4.0 / 3);
  assert_true(d->interpolation == NP_RECIPE_BICUBIC && d->flip == 0.5 && d->jitter_probability == 0.8);
  assert_true(d->jitter[0] == 0.4 && d->jitter[1] == 0.4 && d->jitter[2] == 0.2 && d->jitter[3] == 0.1);
  assert_true(d->prefix[0] == 1 && d->prefix[1] == 255 && d->workers == 0 && d->prefetch == 2);
  assert_true(d->max_pixels == 178956970 && d->max_bad_share == 0.01);
  const np_recipe_optim *o = &r->optim;
  assert_true(o->lr == 1e-3 && o->lr_start == 1e-6 && o->lr_end == 0 && o->warmup == 0.025 && o->eps == 1e-8);
  assert_true(o->betas[0] == 0.9 && o->betas[1] == 0.95 && o->weight_decay == 0.05 && o->grad_clip == 1);
  assert_true(r->train.steps == 125000 && r->train.batch == 4096 && r->train.micro_batch == 0);
  assert_true(r->train.log_every == 10 && r->train.max_bad_steps == 10);
  assert_true(r->checkpoint.every == 1000 && r->checkpoint.keep_last == 2 && r->checkpoint.keep_every == 0);
  assert_string_equal(r->run.dir, "");
  assert_string_equal(r->data.train, "");
  assert_true(r->run.resume == NP_RESUME_AUTO && r->probe.layers_count == 0);
  assert_true(r->probe.lr_count == 4 && r->probe.lr[3] == 3e-3 && r->probe.weight_decay_count == 2);
  np_recipe_free(r);
}

static void file_and_overrides(void **state) {
  (void)state;
  const char *text = "seed: 7\nmodel: {image_size: [64, 32], patch_size: 16, heads: 6}\n\ntrain:\n  steps: 10 # few\n";
  /* The later override wins; overrides win over the file; an override mends what the file has wrong. */
  const char *overrides[] = {"train.steps=20", "train.steps=30",  "model.patch_size=8", "probe.layers=[1, 3]",
                             "backend=cpu",    "run.dir=a: b #c", "optim.lr=5e-4"};
  np_recipe *r = good(text, overrides, 7);
  assert_true(r->seed == 7 && r->model.heads == 6 && r->train.steps == 30 && r->model.patch_size == 8);
  assert_true(r->model.image_size[0] == 64 && r->model.image_size[1] == 32 && r->data.prefix[1] == 31);
  assert_true(r->probe.layers_count == 2 && r->probe.layers[0] == 1 && r->probe.layers[1] == 3);
  assert_true(r->backend == NP_BACKEND_CPU && r->optim.lr == 5e-4 && r->model.width == 1536);
  assert_string_equal(r->run.dir, "a: b #c");
  np_recipe_free(r);

  r = good("data: {prefix: [0, 0]}\nseed: 18446744073709551615\n", NULL, 0);
  np_recipe_free(r);
}

static void unknown_keys(void **state) {
  (void)state;
  bad("seed: 1\ntrain:\n  stepz: 3\n", "r.yaml:3: train.stepz: no such key; did you mean train.steps?");
  bad("train:\n  batch: 4\n  lr: 3\n", "r.yaml:3: train.lr: no such key; did you mean optim.lr or probe.lr?");
  bad("mdoel: {width: 3}\n", "r.yaml:1: mdoel: no such key; did you mean model?");
  bad("sede: 3\n", "r.yaml:1: sede: no such key; did you mean seed?"); /* a swap is one slip */
  bad("\ntrain.steps: 3\n",
      "r.yaml:2: train.steps: no such key; in a file write it under its section, train: {steps: ...}");
  bad("run: {zzzzzzzz: 3}\n", "r.yaml:1: run.zzzzzzzz: no such key; keys of run: dir, init, resume, patience");
  bad("<<: 3\n", "r.yaml:1: <<: no such key; top-level keys: seed, backend, precision, threads, device, attention, "
                 "model, data, optim, train, "
                 "checkpoint, run, probe");
  bad_override("train.stepz=3", "command line: train.stepz: no such key; did you mean train.steps?");
  bad_override("lr=3", "command line: lr: no such key; did you mean optim.lr or probe.lr?");
  bad_override("run=3", "command line: run: no such key; keys of run: dir, init, resume, patience");
  bad_override("foo", "command line: 'foo': expected key=value, such as train.steps=1000");
  bad_override("=3", "command line: '=3': expected key=value, such as train.steps=1000");
}

static void wrong_types(void **state) {
  (void)state;
  bad("optim:\n  lr: fast\n", "r.yaml:2: optim.lr: fast: expected a number from 0 to 1000000");
  bad("optim:\n  lr: 1 apple\n", "r.yaml:2: optim.lr: 1 apple: expected a number from 0 to 1000000");
  bad("optim:\n  lr: .nan\n", "r.yaml:2: optim.lr: .nan: expected a number from 0 to 1000000");
  bad("optim:\n  lr: 1e999\n", "r.yaml:2: optim.lr: 1e999: expected a number from 0 to 1000000");
  bad("seed: -1\n", "r.yaml:1: seed: -1: expected a whole number from 0 to 18446744073709551615");
  bad("seed:\n", "r.yaml:1: seed: '': expected a whole number from 0 to 18446744073709551615");
  bad("train:\n  steps: 5 apples\n",
      "r.yaml:2: train.steps: 5 apples: expected a whole number from 1 to 1000000000000");
  bad("train: {batch: 4294967297}\n", "r.yaml:1: train.batch: 4294967297: expected a whole number from 1 to 16777216");
  bad("model:\n  head_block: paper\n", "r.yaml:2: model.head_block: paper: expected one of mlp, l3m");
  bad("model:\n  image_size: 32\n",
      "r.yaml:2: model.image_size: 32: expected a list of 2 whole numbers from 1 to 16384");
  bad("model:\n  image_size: [32]\n",
      "r.yaml:2: model.image_size: [32]: expected a list of 2 whole numbers from 1 to 16384");
  bad("model:\n  image_size:\n    - 1\n    - 2\n    - 3\n",
      "r.yaml:2: model.image_size: [1, 2, 3]: expected a list of 2 whole numbers from 1 to 16384");
  bad("model:\n  channels: [3]\n", "r.yaml:2: model.channels: [3]: expected a whole number from 1 to 3");
  bad("run:\n  dir: {a: b}\n", "r.yaml:2: run.dir: {}: expected text in UTF-8");
  bad("run:\n  dir: \"a\\0b\"\n", "r.yaml:2: run.dir: a: expected text in UTF-8");
  bad("train: 5\n", "r.yaml:1: train: a section; expected its keys, indented on the lines below");
  bad_override("optim.lr=fast", "command line: optim.lr=fast: expected a number from 0 to 1000000");
  bad_override("optim.lr=", "command line: optim.lr=: expected a number from 0 to 1000000");
  bad_override("optim.lr=3\nseed: 4", "command line: optim.lr=3: expected a number from 0 to 1000000");
  bad_override("seed=1\xc2\x85threads: 4", "command line: seed=1\xc2\x85threads: 4: expected a whole number from 0 to "
                                           "18446744073709551615");
  bad_override("model.image_size=[32",
               "command line: model.image_size=[32: expected a list of 2 whole numbers from 1 to 16384");
  bad_override("run.dir=\xff", "command line: run.dir=\xff: expected text in UTF-8");
}

static void documents(void **state) {
  (void)state;
  const char *empty = "r.yaml:1: an empty recipe; expected keys, such as train: {steps: 1000}";
  bad("", empty);
  bad("\n# nothing\n---\n", "r.yaml:4: an empty recipe; expected keys, such as train: {steps: 1000}");
  bad("hello", "r.yaml:1: expected keys, such as train: {steps: 1000}");
  bad("seed: 1\n---\nseed: 2\n", "r.yaml:2: a second YAML document; one is allowed");
  bad("train:\n  steps: 3\n  batch: 2\n  steps: 4\n",
      "r.yaml:4: train.steps: given twice, first on line 2; once is allowed");
  bad("train: {steps: 3}\ntrain: {batch: 3}\n", "r.yaml:2: train: section given twice; once is allowed");
  bad("seed: &x 1\nthreads: *x\n", "r.yaml:1: YAML anchors are not taken here; write the value out");
  bad("seed: 1\nthreads: *x\n", "r.yaml:2: YAML aliases are not taken here; write the value out");
  bad("seed: !!int 1\n", "r.yaml:1: YAML tags are not taken here; write the plain value");
  bad("? [a]\n: b\n", "r.yaml:1: expected a key, such as train:");
  bad("train:\n  steps: [3\nmodel: x\n", "r.yaml:3: not valid YAML: did not find expected ',' or ']'");
  bad("train:\n\tsteps: 3\n", "r.yaml:2: not valid YAML: found character that cannot start any token");
  bad("seed: 1\nrun:\n  dir: \xff\n", "r.yaml:3: not UTF-8: invalid leading UTF-8 octet");
}

static void hostile_documents(void **state) {
  (void)state;
  enum { DEPTH = 100000, LIMIT = 1 << 20 };
  np_recipe *recipe = NULL;
  char *text = malloc(LIMIT + 1);
  assert_non_null(text);
  memset(text, '[', DEPTH);
  assert_int_equal(np_recipe_parse(text, DEPTH, "r.yaml", NULL, 0, &recipe), NP_ERR_ARGUMENT);
  memset(text, '#', LIMIT + 1);
  expect_error(np_recipe_parse(text, LIMIT + 1, "r.yaml", NULL, 0, &recipe), recipe,
               "r.yaml: 1048577 bytes; a recipe has at most 1048576");
  free(text);
}

static void ranges(void **state) {
  (void)state;
  bad("seed: 1\noptim: {lr: -1}\n", "r.yaml:2: optim.lr: -1: expected a number from 0 to 1000000");
  bad("optim:\n  betas: [0.9, 1]\n", "r.yaml:2: optim.betas: [0.9, 1]: expected a list of 2 numbers >= 0 and < 1");
  bad("optim: {warmup: 1.5}\n", "r.yaml:1: optim.warmup: 1.5: expected a number from 0 to 1");
  bad("optim: {eps: 0}\n", "r.yaml:1: optim.eps: 0: expected a number > 0 and <= 1");
  bad("train:\n  steps: 0\n", "r.yaml:2: train.steps: 0: expected a whole number from 1 to 1000000000000");
  bad("model:\n  blocks: 129\n", "r.yaml:2: model.blocks: 129: expected a whole number from 1 to 128");
  bad("data: {crop_scale: [0.5, 1.5]}\n",
      "r.yaml:1: data.crop_scale: [0.5, 1.5]: expected a list of 2 numbers > 0 and <= 1");
  bad("data: {crop_scale: [0.5, 0.4]}\n", "r.yaml:1: data.crop_scale: [0.5, 0.4]: expected the smaller value first");
  bad("probe: {crop_scale: [0.5, 0.4]}\n", "r.yaml:1: probe.crop_scale: [0.5, 0.4]: expected the smaller value first");
  bad("data: {crop_ratio: [2, 1]}\n", "r.yaml:1: data.crop_ratio: [2, 1]: expected the smaller value first");
  bad("data: {jitter: [0, 0, 0, 0.6]}\n",
      "r.yaml:1: data.jitter: [0, 0, 0, 0.6]: expected a hue (the last value) from 0 to 0.5");
  bad("probe: {lr: []}\n", "r.yaml:1: probe.lr: []: expected at least one value");
  bad("probe: {weight_decay: []}\n", "r.yaml:1: probe.weight_decay: []: expected at least one value");
}

static void combinations(void **state) {
  (void)state;
  bad("model:\n  image_size: [32, 32]\n  patch_size: 5\n",
      "r.yaml:3: model.patch_size: 5 does not divide model.image_size [32, 32]; allowed: a divisor of both");
  /* The default patch of 14 cannot be found in the file: the line is that of what clashes with it. */
  bad("model:\n  image_size: [28, 32]\n",
      "r.yaml:2: model.patch_size: 14 does not divide model.image_size [28, 32]; allowed: a divisor of both");
  bad("model: {channels: 2}\n", "r.yaml:1: model.channels: 2: expected 1 (grey) or 3 (RGB)");
  bad("model: {width: 50, heads: 2}\n",
      "r.yaml:1: model.width: 50: expected a multiple of 4 (the position table has four parts)");
  bad("model: {head_width: 50}\n",
      "r.yaml:1: model.head_width: 50: expected a multiple of 4 (the position table has four parts)");
  bad("model:\n  width: 64\n  heads: 5\n",
      "r.yaml:3: model.heads: 5 does not divide model.width 64; allowed: a divisor of it");
  bad("model: {width: 64, heads: 16}\n",
      "r.yaml:1: model.heads: 16 makes heads of model.width / heads = 64 / 16 = 4; allowed: a "
      "head width from 8 to 256, a multiple of 8");
  bad("model: {width: 264, heads: 1}\n",
      "r.yaml:1: model.heads: 1 makes heads of model.width / heads = 264 / 1 = 264; allowed: "
      "a head width from 8 to 256, a multiple of 8");
  bad("model: {width: 24, heads: 2}\n",
      "r.yaml:1: model.heads: 2 makes heads of model.width / heads = 24 / 2 = 12; allowed: a "
      "head width from 8 to 256, a multiple of 8");
  bad("backend: cuda\nmodel: {width: 384, heads: 2}\n",
      "r.yaml:2: model.heads: 2 makes heads of model.width / heads = 384 / 2 = 192; backend cuda takes up to 128 in "
      "bf16: more heads, or precision: fp32");
  bad("attention: hopper\nmodel: {width: 80, heads: 1}\n",
      "r.yaml:1: attention: hopper takes heads 32, 64, 96 or 128 wide, and model.width / heads = 80 / 1 = 80; allowed: "
      "auto, portable");
  bad("attention: flash\n", "r.yaml:1: attention: flash: expected one of auto, portable, hopper, cudnn");
  bad("data: {prefix: [3, 2]}\n",
      "r.yaml:1: data.prefix: [3, 2] is not a range of prefix lengths for N = 256 patches; allowed: "
      "[smallest, largest] within 0..255, or -1 as largest");
  bad("data: {prefix: [0, 256]}\n",
      "r.yaml:1: data.prefix: [0, 256] is not a range of prefix lengths for N = 256 patches; allowed: "
      "[smallest, largest] within 0..255, or -1 as largest");
  bad("data: {prefix: [-1, -1]}\n",
      "r.yaml:1: data.prefix: [-1, -1] is not a range of prefix lengths for N = 256 patches; allowed: "
      "[smallest, largest] within 0..255, or -1 as largest");
  bad("model:\n  image_size: [14, 14]\n",
      "r.yaml:2: data.prefix: [1, -1] is not a range of prefix lengths for N = 1 patches; "
      "allowed: [smallest, largest] within 0..0, or -1 as largest");
  bad("train:\n  batch: 10\n  micro_batch: 4\n",
      "r.yaml:3: train.micro_batch: 4 does not divide train.batch 10; allowed: a divisor of it, or 0");
  bad("probe: {layers: [1, 24]}\n",
      "r.yaml:1: probe.layers: [1, 24] names block 24; allowed: 0..23, model.blocks is 24");
  bad("probe: {layers: [1, 2, 1]}\n",
      "r.yaml:1: probe.layers: [1, 2, 1] names block 1 behind 2; allowed: ascending, each once");
  bad_override("train.micro_batch=3",
               "command line: train.micro_batch=3 does not divide train.batch 4096; allowed: a divisor of it, or 0");
  bad("model: {channels: 1, patch_size: 1}\n",
      "r.yaml:1: model.patch_size: 1 makes patches of a single value, which has no deviation for model.pixel_target "
      "standardised; allowed: a larger patch, or model.pixel_target: raw");
  np_recipe_free(good("model: {channels: 1, patch_size: 1, pixel_target: raw}\n", NULL, 0));
  np_recipe_free(good("model: {channels: 3, patch_size: 1}\n", NULL, 0));
  np_recipe_free(good("model: {image_size: [14, 14]}\ndata: {prefix: [0, 0]}\n", NULL, 0));
}

/* A single patch has features, but nothing to predict. */
static void what_training_takes(void **state) {
  (void)state;
  const char *one[] = {"model.image_size=[14, 14]", "data.prefix=[0, 0]"}, *large[] = {"model.patch_size=224"},
             *cudnn[] = {"attention=cudnn"};
  np_recipe *recipe = NULL;
  expect_error(np_recipe_load_to_train(NULL, cudnn, 1, &recipe), recipe,
               "command line: attention=cudnn has no prefix mask, which training needs; it serves features, probes and "
               "bench attention; allowed: auto, portable, hopper");
  expect_error(np_recipe_load_to_train(NULL, one, 2, &recipe), recipe,
               "command line: model.image_size=[14, 14] is one patch of model.patch_size 14, and none is left to "
               "predict; allowed: two patches or more");
  expect_error(np_recipe_load_to_train(NULL, large, 1, &recipe), recipe,
               "command line: model.image_size=[224, 224] is one patch of model.patch_size 224, and none is left to "
               "predict; allowed: two patches or more");
  one[0] = "model.image_size=[14, 28]";
  if (np_recipe_load_to_train(NULL, one, 2, &recipe) != NP_OK) fail_msg("%s", np_error_message());
  np_recipe_free(recipe);
  if (np_recipe_load(NULL, cudnn, 1, &recipe) != NP_OK) fail_msg("%s", np_error_message());
  np_recipe_free(recipe);
}

/* What YAML would take for its own: indicators, quotes, breaks of every kind. */
#define HARD_PATH                                                                                                      \
  "/data/with space: and #, \"quotes\" \\ 'single'\t\xc3\xa9 \xe2\x80\xa8 \xc2\x85 \xf0\x9f\x90\xb1\nline"

/* Dump, read back, dump: the texts are equal, and so are the numbers in bits. */
static void round_trip(void **state) {
  (void)state;
  static const char *const overrides[] = {"seed=18446744073709551615",
                                          "backend=cpu",
                                          "precision=bf16",
                                          "threads=3",
                                          "device=3",
                                          "attention=portable",
                                          "model.image_size=[64, 48]",
                                          "model.channels=1",
                                          "model.patch_size=8",
                                          "model.width=96",
                                          "model.blocks=5",
                                          "model.heads=4",
                                          "model.mlp_ratio=3",
                                          "model.norm_eps=1.0000000000000002e-6",
                                          "model.head_width=48",
                                          "model.head_blocks=3",
                                          "model.head_block=mlp",
                                          "model.pixel_target=raw",
                                          "model.pixel_mean=[0.1, 0.2, 0.30000000000000004]",
                                          "model.pixel_std=[0.3333333333333333, 0.5, 1]",
                                          "data.train=" HARD_PATH,
                                          "data.workers=5",
                                          "data.prefetch=4",
                                          "data.crop_scale=[0.123456789012345678, 0.9]",
                                          "data.crop_ratio=[0.5, 2.1]",
                                          "data.interpolation=bilinear",
                                          "data.flip=0.25",
                                          "data.jitter_probability=0.1",
                                          "data.jitter=[0.1, 0.2, 0.3, 0.05]",
                                          "data.prefix=[0, 40]",
                                          "data.max_pixels=999999999999",
                                          "data.max_bad_share=0.7",
                                          "optim.lr=0.1",
                                          "optim.lr_start=1e-300",
                                          "optim.lr_end=4.9e-324",
                                          "optim.warmup=1",
                                          "optim.betas=[0, 0.9999999999999999]",
                                          "optim.eps=1e-12",
                                          "optim.weight_decay=0",
                                          "optim.grad_clip=0",
                                          "train.steps=1000000000000",
                                          "train.batch=12",
                                          "train.micro_batch=6",
                                          "train.recompute=block",
                                          "train.shard=optim",
                                          "train.slice_mb=1.5",
                                          "train.log_every=7",
                                          "train.max_bad_steps=1",
                                          "checkpoint.every=77",
                                          "checkpoint.keep_last=9",
                                          "checkpoint.keep_every=100",
                                          "checkpoint.fallback=true",
                                          "run.dir=- [a, {b",
                                          "run.init=null",
                                          "run.resume=must",
                                          "run.patience=7",
                                          "probe.data=~",
                                          "probe.train=null",
                                          "probe.val=5",
                                          "probe.layers=[0, 2, 4]",
                                          "probe.epochs=2",
                                          "probe.batch=8",
                                          "probe.lr=[0.1, 0.7]",
                                          "probe.weight_decay=[0, 1, 2]",
                                          "probe.warmup=0",
                                          "probe.crop_scale=[0.2, 0.3]",
                                          "probe.flip=0",
                                          "probe.log_every=3",
                                          "probe.save_every=4"};
  enum { COUNT = sizeof overrides / sizeof overrides[0] };
  char *first = NULL, *second = NULL;
  np_recipe *a = good(NULL, overrides, COUNT);
  assert_int_equal(np_recipe_dump(a, &first), NP_OK);
  np_recipe *b = good(first, NULL, 0);
  assert_int_equal(np_recipe_dump(b, &second), NP_OK);
  assert_string_equal(first, second);
  assert_memory_equal(&a->model, &b->model, sizeof a->model);
  assert_memory_equal(&a->optim, &b->optim, sizeof a->optim);
  assert_memory_equal(a->probe.lr, b->probe.lr, sizeof a->probe.lr);
  assert_string_equal(a->data.train, b->data.train);
  assert_string_equal(b->data.train, HARD_PATH);
  assert_string_equal(b->run.dir, "- [a, {b");
  assert_string_equal(b->probe.data, "~");
  assert_true(b->seed == UINT64_MAX && b->optim.lr_end == 4.9e-324 && b->probe.layers_count == 3 &&
              b->data.max_pixels == 999999999999);

  /* No override repeats a default, so a key that does not reach the dump shows as a line equal to the default's. */
  char *plain = NULL;
  np_recipe *d = good(NULL, NULL, 0);
  assert_int_equal(np_recipe_dump(d, &plain), NP_OK);
  int lines = 0;
  for (char *p = first, *q = plain; *p && *q; p = strchr(p, '\n') + 1, q = strchr(q, '\n') + 1) {
    int np = (int)strcspn(p, "\n"), nq = (int)strcspn(q, "\n");
    bool same = np == nq && strncmp(p, q, (size_t)np) == 0, section = p[np - 1] == ':';
    if (same != section) fail_msg("'%.*s' against the default '%.*s'", np, p, nq, q);
    lines += !section;
  }
  assert_int_equal(lines, COUNT);
  free(plain);
  np_recipe_free(d);
  free(first);
  free(second);
  np_recipe_free(a);
  np_recipe_free(b);
}

static np_recipe *shipped(const char *name) {
  np_recipe *recipe = NULL;
  char path[512];
  snprintf(path, sizeof path, NP_SOURCE_DIR "/recipes/%s.yaml", name);
  if (np_recipe_load(path, NULL, 0, &recipe) != NP_OK) fail_msg("%s", np_error_message());
  return recipe;
}

/* Sizes of arXiv 2401.08541, table 1. */
static void shipped_recipes(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int width, blocks, heads;
  } sizes[] = {
      {"aim_600m", 1536, 24, 12}, {"aim_1b", 2048, 24, 16}, {"aim_3b", 3072, 24, 24}, {"aim_7b", 4096, 32, 32}};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    np_recipe *r = shipped(sizes[i].name);
    assert_int_equal(r->model.width, sizes[i].width);
    assert_int_equal(r->model.blocks, sizes[i].blocks);
    assert_int_equal(r->model.heads, sizes[i].heads);
    assert_true(np_recipe_tokens(&r->model) == 256 && r->model.head_width == 2048 && r->model.head_blocks == 12);
    assert_true(r->train.steps == 125000 && r->train.batch == 4096 && r->optim.lr == 1e-3 && r->data.prefix[1] == 255);
    np_recipe_free(r);
  }
  np_recipe *r = shipped("cifar10");
  assert_int_equal(np_recipe_tokens(&r->model), 64);
  np_recipe_free(r);
  np_recipe_free(shipped("demo"));
}

static void missing_file(void **state) {
  (void)state;
  np_recipe *recipe = NULL;
  assert_int_equal(np_recipe_load("/nonexistent/r.yaml", NULL, 0, &recipe), NP_ERR_ARGUMENT);
  assert_null(recipe);
  assert_non_null(strstr(np_error_message(), "/nonexistent/r.yaml"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults),    cmocka_unit_test(file_and_overrides), cmocka_unit_test(unknown_keys),
      cmocka_unit_test(wrong_types), cmocka_unit_test(documents),          cmocka_unit_test(hostile_documents),
      cmocka_unit_test(ranges),      cmocka_unit_test(combinations),       cmocka_unit_test(what_training_takes),
      cmocka_unit_test(round_trip),  cmocka_unit_test(shipped_recipes),    cmocka_unit_test(missing_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
