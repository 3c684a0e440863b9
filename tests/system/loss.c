/* The pixel loss of held-out images, against one that is worked out here from the model's predictions. */
#include "system/work.h"

#include "system/result.h"

#include "data/loader.h"
#include "data/sampler.h"
#include "probe/open.h"

#include <math.h>

static const char recipe[] =
    "threads: 1\n"
    "precision: fp32\n"
    "model: {image_size: [16, 24], patch_size: 4, width: 32, blocks: 2, heads: 2, head_width: 32, "
    "head_blocks: 1}\n"
    "train: {steps: 30, batch: 8}\n";

static int make_work(void **state) {
  if (work_make(state, recipe, "val=20", "size=32") != 0) return -1;
  np_run((const char *const[]){NP_PROGRAM, "pretrain", "recipe.yaml", "data.train=images/train", "run.dir=run", NULL},
         &result);
  if (result.exit_code != 0) fprintf(stderr, "%s", result.err);
  return result.exit_code;
}

/* Σ over the targets of an image, of the mean over a patch's values, in float64 (model.md 7); pred [N, P·P·C]. */
static double sum_image(const np_recipe_model *m, const uint8_t *pixels, int prefix, const float *pred, int *targets) {
  enum { MOST = 64 };
  const int P = m->patch_size, C = m->channels, columns = m->image_size[1] / P, values = P * P * C;
  double sum = 0;
  for (int k = prefix > 0 ? prefix - 1 : 0; k + 1 < np_recipe_tokens(m); k++, ++*targets) {
    double t[MOST], mean = 0, var = 0, squares = 0;
    for (int j = 0; j < values; j++) {
      const int row = (k + 1) / columns * P + j / (P * C), column = (k + 1) % columns * P + j / C % P, c = j % C;
      t[j] = (pixels[(row * m->image_size[1] + column) * C + c] / 255.0 - m->pixel_mean[c]) / m->pixel_std[c];
      mean += t[j] / values;
    }
    for (int j = 0; j < values; j++) var += (t[j] - mean) * (t[j] - mean) / (values - 1);
    for (int j = 0; j < values; j++) {
      const double d = (double)pred[k * values + j] - (t[j] - mean) / sqrt(var + 1e-6);
      squares += d * d;
    }
    sum += squares / values;
  }
  return sum;
}

/* One image at a time. */
static double work_out(const char *folder, int *images, int *targets) {
  const np_open_options how = {.batch = 1, .pixel_head = true};
  np_opened opened;
  np_dataset *set;
  np_loader *loader;
  const np_batch *now;
  double sum = 0;
  assert_ok(np_open_model("run", &how, &opened));
  assert_ok(np_dataset_open(folder, false, &set));
  const np_recipe_model *m = &opened.recipe->model;
  const np_loader_options options = np_open_loader(opened.recipe, 1);
  float *pred = malloc((size_t)np_recipe_tokens(m) * (size_t)np_recipe_patch_values(m) * sizeof *pred);
  assert_ok(np_loader_open(set, &options, &loader));
  *images = *targets = 0;
  for (;; ++*images) {
    assert_ok(np_loader_next(loader, &now));
    if (!now) break;
    const int32_t prefix = np_sampler_draw_prefix(&options, 0, now->indices[0]);
    assert_ok(np_model_feed(opened.model, 1, now->pixels, NULL, &prefix));
    assert_ok(np_model_predict(opened.model, pred));
    sum += sum_image(m, now->pixels, prefix, pred, targets);
  }
  free(pred);
  np_loader_close(loader);
  np_dataset_close(set);
  np_open_close(&opened);
  return sum / *targets;
}

#define LOSS(...) np_run((const char *const[]){NP_PROGRAM, "loss", "run", __VA_ARGS__, NULL}, &result)

static void assert_loss(double loss, int targets, int images) {
  double got;
  int got_targets, got_images;
  assert_done();
  if (sscanf(result.out, "loss %lf over %d patches of %d images", &got, &got_targets, &got_images) != 3)
    fail_msg("%s", result.out);
  if (fabs(got - loss) > 2e-6 || got_targets != targets || got_images != images)
    fail_msg("%s, expected loss %.6f over %d patches of %d images", result.out, loss, targets, images);
}

static void as_worked_out(void **state) {
  int images, targets;
  (void)state;
  const double loss = work_out("images/val", &images, &targets);
  assert_int_equal(images, 20);
  LOSS("data=images", "json=loss.json"); /* of its two parts the one that was held out */
  assert_loss(loss, targets, images);
  LOSS("data=images/val", "batch=7");
  assert_loss(loss, targets, images);
  LOSS("data=images/val", "data.prefix=[0, 0]");
  assert_done();
  assert_non_null(strstr(result.out, "over 460 patches of 20 images")); /* all but each image's first */
}

static int targets_of(const char *run, const char *size) {
  double loss;
  int targets, images;
  np_run((const char *const[]){NP_PROGRAM, "loss", run, "data=images", size, NULL}, &result);
  assert_done();
  assert_int_equal(sscanf(result.out, "loss %lf over %d patches of %d images", &loss, &targets, &images), 3);
  assert_int_equal(images, 20);
  return targets;
}

/* On another grid prefixes are drawn as they were trained, if it has such. */
static void other_grids(void **state) {
  (void)state;
#define TRAIN(run, ...)                                                                                                \
  np_run((const char *const[]){NP_PROGRAM, "pretrain", "recipe.yaml", "data.train=images/train", "run.dir=" run,       \
                               "train.steps=1", __VA_ARGS__, NULL},                                                    \
         &result)
  TRAIN("causal", "data.prefix=[0, 0]");
  assert_done();
  assert_int_equal(targets_of("causal", "model.patch_size=4"), 20 * 23);
  assert_int_equal(targets_of("causal", "model.image_size=[24, 24]"), 20 * 35);
  TRAIN("last", "data.prefix=[23, -1]");
  assert_done();
  assert_int_equal(targets_of("last", "model.image_size=[16, 24]"), 20);
  assert_null(strstr(result.err, "the grid has no such prefix lengths"));
  (void)targets_of("last", "model.image_size=[8, 8]");
  assert_non_null(strstr(result.err, "the grid has no such prefix lengths as data.prefix=[23, -1]: [1, -1] instead"));
}

static void damaged(void **state) {
  (void)state;
  assert_int_equal(system("cp -r images/val some && f=$(find some -name '*.png' | sort | head -n 1) && : >$f"), 0);
  LOSS("data=some");
  assert_done();
  assert_non_null(strstr(result.out, "of 19 images, 1 damaged ones left out\n"));
  LOSS("data=some", "data.max_bad_share=0");
  assert_failed(1, "images are damaged: more than the allowed share of 0");
}

static void refused(void **state) {
  (void)state;
  LOSS("batch=7");
  assert_failed(2, "loss: needs data=FOLDER");
  LOSS("data=nowhere");
  assert_failed(1, "cannot read the folder");
  LOSS("data=images", "json=images");
  assert_failed(2, "json=images: ");
  LOSS("data=images", "json=");
  assert_failed(2, "json=: expected the name of a file");
  np_run((const char *const[]){NP_PROGRAM, "probe", "run", "data=images", "out=probe.safetensors", "probe.epochs=1",
                               "probe.batch=8", "probe.lr=[0.01]", "probe.weight_decay=[0.1]", NULL},
         &result);
  assert_done();
  np_run((const char *const[]){NP_PROGRAM, "loss", "probe.safetensors", "data=images", NULL}, &result);
  assert_failed(2, "probe.safetensors: holds no pixel head");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(as_worked_out),
      cmocka_unit_test(other_grids),
      cmocka_unit_test(damaged),
      cmocka_unit_test(refused),
  };
  return cmocka_run_group_tests(tests, make_work, work_remove);
}
