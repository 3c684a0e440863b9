/* probe, eval, features and complete, on a tiny model and images made here. What they print and write is compared with
 * the same things computed another way: through the library, image by image, from floating point pixels. */
#include "system/run.h"

#include "checkpoint/checkpoint.h"
#include "data/dataset.h"
#include "data/synth.h"
#include "image/image.h"
#include "model/attentive_head.h"
#include "model/model.h"
#include "util/file.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { SIZE = 16, PATCH = 4, TOKENS = 16, WIDTH = 32, BLOCKS = 3, VAL = 24, VALUES = 48 };
static const char recipe_text[] =
    "precision: fp32\nthreads: 1\n"
    "model: {image_size: [16, 16], patch_size: 4, width: 32, blocks: 3, heads: 2, head_width: 16,\n"
    "        head_blocks: 1}\n"
    "data: {workers: 2, prefix: [1, 15]}\n" /* as a run stores [1, -1] */
    "probe: {epochs: 2, batch: 16, lr: [1.0e-3, 1.0e-2], weight_decay: [0.1], log_every: 1}\n";

static char root[64];
static np_run_result result;
static np_recipe *recipe;
static np_params params;
static float *weights;

#define RUN(...) np_run((const char *const[]){NP_PROGRAM, __VA_ARGS__, NULL}, &result)
/* A path below the test's folder; a few live at a time. */
static const char *at(const char *name) {
  static char paths[8][160];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", root, name);
  return path;
}
/* "key=path". */
static const char *key(const char *name, const char *path) {
  static char words[8][200];
  static int next;
  char *word = words[next++ % 8];
  snprintf(word, sizeof words[0], "%s=%s", name, at(path));
  return word;
}

static np_status copy_weights(void *context, float *out) {
  (void)context;
  memcpy(out, weights, (size_t)params.total * sizeof *out);
  return NP_OK;
}
static np_status no_moments(void *context, float *first, float *second) {
  (void)context;
  memset(first, 0, (size_t)params.total * sizeof *first);
  memset(second, 0, (size_t)params.total * sizeof *second);
  return NP_OK;
}

static void write_checkpoint(const char *run, int64_t step) {
  float *staging = malloc(2 * (size_t)params.total * sizeof *staging);
  const np_checkpoint_content content = {.state = {.step = step},
                                         .params = &params,
                                         .recipe = recipe_text,
                                         .staging = staging,
                                         .weights = copy_weights,
                                         .moments = no_moments};
  if (np_checkpoint_save(run, &content) != NP_OK) fail_msg("%s", np_error_message());
  free(staging);
}

static int setup(void **state) {
  (void)state;
  const np_synth_options set = {.classes = 3, .train = 60, .val = VAL, .size = SIZE, .seed = 3};
  bool made;
  snprintf(root, sizeof root, "/tmp/nextpatch-probe-XXXXXX");
  if (!mkdtemp(root)) return 1;
  assert_int_equal(np_synth_make(at("set"), &set, &made), NP_OK);
  assert_int_equal(np_recipe_parse(recipe_text, sizeof recipe_text - 1, "test", NULL, 0, &recipe), NP_OK);
  assert_int_equal(np_params_layout(&recipe->model, true, &params), NP_OK);
  weights = malloc((size_t)params.total * sizeof *weights);
  np_params_init(&params, 8, weights);
  /* Two checkpoints, the older one unreadable, and names that look newer to a text sort or are no checkpoints. */
  write_checkpoint(at("run"), 100000000);
  assert_int_equal(np_folder_make(at("run/checkpoints/step-99999999")), NP_OK);
  assert_int_equal(np_file_write(at("run/checkpoints/step-99999999/model.safetensors"), "old", 3), NP_OK);
  assert_int_equal(np_folder_make(at("run/checkpoints/step-100000002.tmp")), NP_OK);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  free(weights);
  np_params_free(&params);
  np_recipe_free(recipe);
  return np_folder_remove(root) != NP_OK;
}

static void assert_success(void) {
  if (result.exit_code) fail_msg("exit status %d: %s", result.exit_code, result.err);
}

/* The last line is an error that says `what`; nothing was printed as a result. */
static void assert_error(const char *what) {
  const char *line = strstr(result.err, "error: ");
  if (result.exit_code < 1 || !line || !strstr(line, what) || strchr(line, '\n') != line + strlen(line) - 1)
    fail_msg("wanted one error line with '%s'; got status %d and: %s", what, result.exit_code, result.err);
  assert_string_equal(result.out, "");
}

static cJSON *json_of(const char *path) {
  char *text;
  size_t size;
  assert_int_equal(np_file_read(path, 1 << 20, &text, &size), NP_OK);
  cJSON *json = cJSON_Parse(text);
  free(text);
  assert_non_null(json);
  return json;
}

static double number(const cJSON *json, const char *name) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
  assert_true(cJSON_IsNumber(item));
  return item->valuedouble;
}

/* ---- probe and eval ---- */

static void same_accuracy(const cJSON *eval, const cJSON *best) {
  assert_true(number(eval, "images") == VAL);
  assert_true(number(eval, "top1") == number(best, "top1"));
  assert_true(number(eval, "top5") == number(best, "top5"));
  assert_true(number(eval, "top5") == 100); /* three classes */
  assert_true(fabs(number(eval, "loss") - number(best, "val_loss")) <= 1e-5);
}

static void probe_then_eval(void **state) {
  (void)state;
  RUN("probe", at("run"), key("data", "set"));
  assert_success();
  assert_non_null(strstr(result.out, "pretrained trunk: top-1"));
  cJSON *probe = json_of(at("run/probe.json")), *best = cJSON_GetObjectItemCaseSensitive(probe, "best");
  const cJSON *points = cJSON_GetObjectItemCaseSensitive(probe, "points");
  assert_int_equal(cJSON_GetArraySize(points), 2);
  assert_true(number(probe, "steps") == 8); /* 2 epochs of 60 in batches of 16 */
  assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(probe, "layers")), "0,1,2");
  const cJSON *point;
  cJSON_ArrayForEach(point, points) assert_true(number(best, "top1") >= number(point, "top1"));
  /* The file with the trunk, on the folder of both parts; other batches, so other sums. */
  RUN("eval", at("run/probe.safetensors"), key("data", "set"), key("json", "eval.json"), "batch=7", "--per-class");
  assert_success();
  cJSON *eval = json_of(at("eval.json"));
  same_accuracy(eval, best);
  double hits = 0;
  const cJSON *class;
  cJSON_ArrayForEach(class, cJSON_GetObjectItemCaseSensitive(eval, "classes")) hits +=
      number(class, "top1") * number(class, "images");
  assert_true(fabs(hits / VAL - number(eval, "top1")) <= 1e-9);
  cJSON_Delete(eval);
  /* The head alone, behind the run's trunk. */
  RUN("probe", at("run"), key("data", "set"), "trunk=false", key("out", "deep/head.safetensors"));
  assert_success();
  RUN("eval", at("run"), key("head", "deep/head.safetensors"), key("data", "set/val"), key("json", "eval.json"));
  assert_success();
  eval = json_of(at("eval.json"));
  same_accuracy(eval, best);
  cJSON_Delete(eval);
  cJSON_Delete(probe);
}

static void published_names(void **state) {
  (void)state;
  static const char *const names[] = {"head.cls_token",     "head.k.weight",        "head.v.weight",
                                      "head.linear.weight", "head.bn.running_mean", "head.bn.running_var"};
  np_safetensors *file;
  assert_int_equal(np_safetensors_open(at("deep/head.safetensors"), &file), NP_OK);
  assert_int_equal(np_safetensors_count(file), 6);
  for (int i = 0; i < 6; i++) assert_non_null(np_safetensors_find(file, names[i]));
  assert_string_equal(np_safetensors_metadata(file, "layers"), "0,1,2");
  np_safetensors_close(file);
}

static void same_bits_twice(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    RUN("probe", at("run"), key("data", "set"), "init=random", key("out", i ? "b.safetensors" : "a.safetensors"),
        i ? "data.workers=1" : "data.workers=3", "layers=1-2", "seed=18446744073709551615");
    assert_success();
    assert_non_null(strstr(result.out, "random trunk"));
  }
  cJSON *probe = json_of(at("a.json")), *seed = cJSON_GetObjectItemCaseSensitive(probe, "seed");
  assert_true(cJSON_IsString(seed));
  assert_string_equal(seed->valuestring, "18446744073709551615"); /* a number would lose its last bits */
  cJSON_Delete(probe);
  np_safetensors *files[2];
  assert_int_equal(np_safetensors_open(at("a.safetensors"), &files[0]), NP_OK);
  assert_int_equal(np_safetensors_open(at("b.safetensors"), &files[1]), NP_OK);
  assert_string_equal(np_safetensors_metadata(files[0], "layers"), "1,2");
  for (int i = 0; i < np_safetensors_count(files[0]); i++) {
    const np_tensor *x = np_safetensors_at(files[0], i), *y = np_safetensors_find(files[1], x->name);
    assert_non_null(y);
    assert_memory_equal(x->data, y->data, x->bytes);
  }
  /* Another trunk than the pretrained one. */
  np_safetensors_close(files[1]);
  assert_int_equal(np_safetensors_open(at("run/probe.safetensors"), &files[1]), NP_OK);
  const np_tensor *fresh = np_safetensors_find(files[0], "trunk.blocks.0.mlp.fc1.weight");
  const np_tensor *trained = np_safetensors_find(files[1], "trunk.blocks.0.mlp.fc1.weight");
  assert_true(fresh && trained && fresh->bytes == trained->bytes);
  assert_memory_not_equal(fresh->data, trained->data, fresh->bytes);
  np_safetensors_close(files[0]);
  np_safetensors_close(files[1]);
}

/* ---- the second way ---- */

typedef struct second {
  np_ops *ops;
  np_model *model;
} second;

static second second_open(void) {
  second s;
  const np_model_options options = {.batch = 1, .head = true};
  assert_int_equal(np_ops_cpu(NP_F32, 1, &s.ops), NP_OK);
  assert_int_equal(np_model_create(s.ops, &recipe->model, &options, &s.model), NP_OK);
  assert_int_equal(np_model_set_weights(s.model, weights), NP_OK);
  return s;
}

static void second_close(second s) {
  np_model_destroy(s.model);
  s.ops->destroy(s.ops);
}

static np_image cropped(const char *path) {
  np_image raw, image;
  assert_int_equal(np_image_read(path, 3, 1 << 20, &raw), NP_OK);
  assert_int_equal(np_image_eval_crop(&raw, SIZE, SIZE, &image), NP_OK);
  np_image_free(&raw);
  return image;
}

/* Feed as normalised floats [C, H, W]. */
static void feed(second s, const np_image *image, const int32_t *prefix) {
  float pixels[3 * SIZE * SIZE];
  for (int c = 0; c < 3; c++)
    for (int i = 0; i < SIZE * SIZE; i++)
      pixels[c * SIZE * SIZE + i] =
          (float)((image->pixels[i * 3 + c] / 255.0 - recipe->model.pixel_mean[c]) / recipe->model.pixel_std[c]);
  assert_int_equal(np_model_feed(s.model, 1, NULL, pixels, prefix), NP_OK);
}

/* Mean of blocks 0 and 2, each asked for alone: [N, D]. */
static void second_features(second s, const char *path, double *out) {
  float one[TOKENS * WIDTH];
  np_image image = cropped(path);
  void *device;
  assert_int_equal(s.ops->alloc(s.ops, sizeof one, &device), NP_OK);
  memset(out, 0, TOKENS * WIDTH * sizeof *out);
  feed(s, &image, NULL);
  for (int layer = 0; layer < BLOCKS; layer += 2) {
    assert_int_equal(np_model_features(s.model, &layer, 1, device), NP_OK);
    assert_int_equal(s.ops->download(s.ops, one, device, sizeof one), NP_OK);
    for (int i = 0; i < TOKENS * WIDTH; i++) out[i] += one[i] / 2.0;
  }
  s.ops->release(s.ops, device);
  np_image_free(&image);
}

/* The accuracy that `probe` and `eval` reported, counted image by image: a hit is the largest logit at the label. */
static void accuracy_agrees(void **state) {
  (void)state;
  const np_heads_shape shape = {.width = WIDTH, .heads = 2, .classes = 3, .tokens = TOKENS, .batch = 1, .count = 1};
  const int layers[] = {0, 1, 2};
  np_safetensors *file;
  np_dataset *set;
  np_heads *heads;
  void *device;
  float logits[3], hits = 0;
  second s = second_open();
  assert_int_equal(np_safetensors_open(at("deep/head.safetensors"), &file), NP_OK);
  assert_int_equal(np_dataset_open(at("set/val"), true, &set), NP_OK);
  assert_int_equal(np_heads_create(s.ops, &shape, false, &heads), NP_OK);
  float *host = malloc((size_t)np_heads_params(heads)->total * sizeof *host);
  assert_int_equal(np_heads_load(np_heads_params(heads), file, "head", host), NP_OK);
  assert_int_equal(np_heads_set(heads, 0, host), NP_OK);
  assert_int_equal(s.ops->alloc(s.ops, TOKENS * WIDTH * sizeof(float), &device), NP_OK);
  assert_int_equal(set->count, VAL);
  for (int i = 0; i < VAL; i++) {
    np_image image = cropped(set->samples[i].path);
    feed(s, &image, NULL);
    assert_int_equal(np_model_features(s.model, layers, 3, device), NP_OK);
    assert_int_equal(np_heads_normalise(heads, 1, 0, device), NP_OK);
    assert_int_equal(np_heads_forward(heads, 0, 1, device, logits), NP_OK);
    int first = 0;
    for (int c = 1; c < 3; c++)
      if (logits[c] > logits[first]) first = c;
    hits += first == set->samples[i].label;
    np_image_free(&image);
  }
  cJSON *probe = json_of(at("deep/head.json"));
  assert_true(fabs(number(cJSON_GetObjectItemCaseSensitive(probe, "best"), "top1") - (double)(100 * hits / VAL)) <=
              1e-4);
  cJSON_Delete(probe);
  s.ops->release(s.ops, device);
  free(host);
  np_heads_destroy(heads);
  np_dataset_close(set);
  np_safetensors_close(file);
  second_close(s);
}

/* ---- features ---- */

/* The data of a .npy file whose header names `shape`; the caller frees *bytes. */
static const float *npy(const char *path, const char *shape, char **bytes) {
  size_t size;
  assert_int_equal(np_file_read(path, 1 << 24, bytes, &size), NP_OK);
  const int length = (unsigned char)(*bytes)[8] + 256 * (unsigned char)(*bytes)[9];
  (*bytes)[10 + length - 1] = 0;
  if (!strstr(*bytes + 10, shape)) fail_msg("%s: header '%s', expected shape %s", path, *bytes + 10, shape);
  return (const float *)(void *)(*bytes + 10 + length);
}

static void features_agree(void **state) {
  (void)state;
  /* A damaged image and a stray file among the good ones. */
  assert_int_equal(np_file_write(at("set/val/disc/broken.png"), "\x89PNG\r\n\x1a\n....", 12), NP_OK);
  assert_int_equal(np_file_write(at("set/val/disc/notes.txt"), "x", 1), NP_OK);
  RUN("features", at("run"), at("set/val"), key("out", "f.npy"), "layers=0,2", "batch=5");
  assert_success();
  assert_non_null(strstr(result.err, "broken.png"));
  assert_non_null(strstr(result.out, "24 images × 32 (1 damaged"));
  RUN("features", at("run"), at("set/val"), key("out", "t.npy"), "layers=0,2", "pool=none");
  assert_success();
  unlink(at("set/val/disc/broken.png"));
  char *mean_bytes, *token_bytes, *list;
  size_t size;
  const float *mean = npy(at("f.npy"), "(24, 32)", &mean_bytes),
              *tokens = npy(at("t.npy"), "(24, 16, 32)", &token_bytes);
  assert_int_equal(np_file_read(at("f.txt"), 1 << 20, &list, &size), NP_OK);
  second s = second_open();
  double expect[TOKENS * WIDTH];
  int rows = 0;
  for (char *rest = list, *path; (path = strtok_r(rest, "\n", &rest)); rows++) {
    second_features(s, path, expect);
    for (int i = 0; i < TOKENS * WIDTH; i++) assert_true(fabs(tokens[rows * TOKENS * WIDTH + i] - expect[i]) <= 1e-4);
    for (int j = 0; j < WIDTH; j++) {
      double sum = 0;
      for (int n = 0; n < TOKENS; n++) sum += expect[n * WIDTH + j];
      assert_true(fabs(mean[rows * WIDTH + j] - sum / TOKENS) <= 1e-4);
    }
  }
  assert_int_equal(rows, VAL);
  second_close(s);
  free(mean_bytes);
  free(token_bytes);
  free(list);
}

/* ---- complete ---- */

/* Pixel (y, x, c) of a panel drawn with scale 2: all four copies agree. */
static int panel_pixel(const np_image *picture, int panel, int y, int x, int c) {
  const int left = panel * (SIZE + 2) * 2;
  int value = -1;
  for (int i = 0; i < 4; i++) {
    const int now = picture->pixels[((2 * y + i / 2) * picture->width + left + 2 * x + i % 2) * 3 + c];
    assert_true(value < 0 || value == now);
    value = now;
  }
  return value;
}

/* The pixel values the prediction of `patch` stands for: (row, column, channel) order, the true patch's mean and
 * deviation. */
static void expected_patch(const np_image *truth, int patch, const float *prediction, double out[VALUES]) {
  double x[VALUES], mean = 0, variance = 0;
  for (int i = 0; i < VALUES; i++) {
    const int row = patch / 4 * PATCH + i / (PATCH * 3), column = patch % 4 * PATCH + i / 3 % PATCH, c = i % 3;
    x[i] = (truth->pixels[(row * SIZE + column) * 3 + c] / 255.0 - recipe->model.pixel_mean[c]) /
           recipe->model.pixel_std[c];
    mean += x[i] / VALUES;
  }
  for (int i = 0; i < VALUES; i++) variance += (x[i] - mean) * (x[i] - mean) / (VALUES - 1);
  for (int i = 0; i < VALUES; i++) {
    const double normal = prediction[i] * sqrt(variance + 1e-6) + mean;
    out[i] = 255 * (normal * recipe->model.pixel_std[i % 3] + recipe->model.pixel_mean[i % 3]);
    out[i] = fmin(255, fmax(0, out[i]));
  }
}

static void check_picture(const np_image *picture, const np_image *truth, int prefix, bool rollout) {
  second s = second_open();
  float predictions[TOKENS * VALUES];
  np_image seen = {.height = SIZE, .width = SIZE, .channels = 3, .pixels = malloc(SIZE * SIZE * 3)};
  memcpy(seen.pixels, truth->pixels, SIZE * SIZE * 3);
  for (int k = 0; k < TOKENS; k++) {
    double expect[VALUES];
    if (k >= prefix) {
      const int32_t given = prefix;
      feed(s, &seen, &given);
      assert_int_equal(np_model_predict(s.model, predictions), NP_OK);
      expected_patch(truth, k, predictions + (k - 1) * VALUES, expect);
    }
    for (int i = 0; i < VALUES; i++) {
      const int y = k / 4 * PATCH + i / (PATCH * 3), x = k % 4 * PATCH + i / 3 % PATCH, c = i % 3,
                place = (y * SIZE + x) * 3 + c;
      const int given = panel_pixel(picture, 0, y, x, c), predicted = panel_pixel(picture, 1, y, x, c);
      assert_int_equal(panel_pixel(picture, 2, y, x, c), truth->pixels[place]);
      assert_int_equal(given, k < prefix ? truth->pixels[place] : 128);
      if (k < prefix) assert_int_equal(predicted, truth->pixels[place]);
      else assert_true(fabs(predicted - expect[i]) <= 0.51);
      if (rollout) seen.pixels[place] = (uint8_t)predicted;
    }
  }
  np_image_free(&seen);
  second_close(s);
}

static void complete_draws(void **state) {
  (void)state;
  const char *source = at("set/val/disc/00000.png");
  char path[160];
  snprintf(path, sizeof path, "%s", source);
  np_image truth = cropped(path), picture;
  for (int rollout = 0; rollout < 2; rollout++) {
    RUN("complete", at("run"), path, key("out", "c.png"), "prefix=5", "scale=2",
        rollout ? "mode=rollout" : "mode=teacher");
    assert_success();
    assert_int_equal(np_image_read(at("c.png"), 3, 1 << 24, &picture), NP_OK);
    assert_int_equal(picture.height, 2 * SIZE);
    assert_int_equal(picture.width, 2 * (3 * SIZE + 4));
    check_picture(&picture, &truth, 5, rollout);
    np_image_free(&picture);
  }
  np_image_free(&truth);
}

/* ---- errors ---- */

static void wrong_models(void **state) {
  (void)state;
  RUN("probe", at("nowhere"), key("data", "set"));
  assert_error("nowhere");
  RUN("probe", at("set"), key("data", "set"));
  assert_error("holds no model");
  char *bytes;
  size_t size;
  assert_int_equal(np_file_read(at("run/probe.safetensors"), 1 << 24, &bytes, &size), NP_OK);
  assert_int_equal(np_file_write(at("cut.safetensors"), bytes, size - 100), NP_OK);
  memset(bytes + size / 2, 0xff, size - size / 2); /* not a number, all of it */
  assert_int_equal(np_file_write(at("nan.safetensors"), bytes, size), NP_OK);
  free(bytes);
  RUN("eval", at("cut.safetensors"), key("data", "set"));
  assert_error("cut.safetensors");
  RUN("eval", at("nan.safetensors"), key("data", "set"));
  assert_error("not finite");
  RUN("features", at("nan.safetensors"), at("set/val"), key("out", "nan.npy"));
  assert_error("not finite");
  assert_int_not_equal(0, access(at("nan.npy"), F_OK));
  RUN("probe", at("nan.safetensors"), key("data", "set"), key("out", "wrong.safetensors"));
  assert_error("finite");
  RUN("eval", at("run"), key("data", "set"));
  assert_error("no attentive head");
  RUN("complete", at("run/probe.safetensors"), at("set/val/disc/00000.png"), key("out", "no.png"));
  assert_error("no pixel head");
  assert_int_not_equal(0, access(at("no.png"), F_OK));
}

static void wrong_data(void **state) {
  (void)state;
  RUN("probe", at("run"));
  assert_error("data=");
  RUN("probe", at("run"), key("data", "run"));
  assert_error("neither val/ nor test/");
  RUN("eval", at("run/probe.safetensors"), key("data", "nowhere"));
  assert_error("nowhere");
  assert_int_equal(np_folder_make(at("other/train")), NP_OK);
  assert_int_equal(symlink(at("set/val"), at("other/val")), 0);
  assert_int_equal(symlink(at("set/train/bars"), at("other/train/bars")), 0);
  assert_int_equal(symlink(at("set/train/disc"), at("other/train/dish")), 0);
  RUN("probe", at("run"), key("data", "other"), key("out", "wrong.safetensors"));
  assert_error("classes differ: ");
  assert_int_not_equal(0, access(at("wrong.safetensors"), F_OK));
  RUN("eval", at("run/probe.safetensors"), key("data", "other/train"));
  assert_error("classes differ: ");
}

static void wrong_words(void **state) {
  (void)state;
  RUN("features", at("run"), at("set/val"), "model.image_size=[8, 8]", key("out", "small.npy"));
  assert_success(); /* fewer patches than the recipe's prefixes reach */
  RUN("probe", at("run"), key("data", "set"), "layers=3");
  assert_error("3 is not a block of this model, whose blocks are 0..2");
  RUN("features", at("run"), at("set/val"), "layers=2,1", key("out", "no.npy"));
  assert_error("ascending");
  RUN("features", at("run"), at("set/val"), "layers=one", key("out", "no.npy"));
  assert_error("layers=one");
  RUN("features", at("run"), at("set/val"), "pool=max", key("out", "no.npy"));
  assert_error("pool=max");
  assert_int_not_equal(0, access(at("no.npy"), F_OK));
  RUN("probe", at("run"), key("data", "set"), "init=best");
  assert_error("init=best");
  RUN("complete", at("run"), at("set/val/disc/00000.png"), "prefix=16", key("out", "no.png"));
  assert_error("prefix=16");
  RUN("complete", at("run"), at("set/val/disc/notes.txt"), key("out", "no.png"));
  assert_error("notes.txt");
  RUN("probe", at("run"), key("data", "set"), key("out", "run"));
  assert_error("out=");
  RUN("features", at("run"), at("set/val"), key("out", "run"));
  assert_error("is a folder");
  assert_int_not_equal(0, access(at("run.txt"), F_OK));
  RUN("eval", at("run/probe.safetensors"), key("data", "set"), key("json", "run"));
  assert_error("json=");
  RUN("complete", at("run"), at("set/val/disc/00000.png"), key("out", "run"));
  assert_error("is a folder");
  assert_int_equal(mkfifo(at("pipe"), 0600), 0);
  RUN("complete", at("run"), at("set/val/disc/00000.png"), key("out", "pipe"));
  assert_error("no regular file");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(probe_then_eval), cmocka_unit_test(published_names), cmocka_unit_test(accuracy_agrees),
      cmocka_unit_test(same_bits_twice), cmocka_unit_test(features_agree),  cmocka_unit_test(complete_draws),
      cmocka_unit_test(wrong_models),    cmocka_unit_test(wrong_data),      cmocka_unit_test(wrong_words),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
