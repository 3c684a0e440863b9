/* The public API against the rooms beneath it, on a small model of random weights. */
#include "image/image.h"
#include "model/model.h"
#include "model/params.h"
#include "nextpatch/nextpatch.h"
#include "unit/temp.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* 12 × 8 pixels, patch 4: six tokens. Heads and image size are what a weight file does not tell. */
static const char *const overrides[] = {"model.image_size=[12, 8]", "model.heads=2", "precision=fp32", "threads=1",
                                        "probe.batch=2"};
enum { OVERRIDES = 5, BLOCKS = 3, WIDTH = 16, TOKENS = 6, PIXELS = 12 * 8 * 3, COUNT = 5, VALUES = TOKENS * WIDTH };

static char *write_weights(const char *folder, np_recipe **recipe) {
  const char *const shape[] = {"model.image_size=[12, 8]", "model.patch_size=4", "model.width=16",
                               "model.blocks=3",           "model.heads=2",      "model.norm_eps=1e-6",
                               "data.prefix=[1, -1]"};
  np_params params;
  np_tensor *tensors;
  char *path = np_path_join(folder, "weights.safetensors");
  assert_ok(np_recipe_load(NULL, shape, 7, recipe));
  assert_ok(np_params_layout(&(*recipe)->model, false, &params));
  float *weights = calloc((size_t)params.total, sizeof *weights);
  np_params_init(&params, 7, weights);
  assert_ok(np_params_tensors(&params, weights, NULL, &tensors));
  assert_ok(np_safetensors_write(path, tensors, params.count, NULL, 0));
  free(tensors);
  free(weights);
  np_params_free(&params);
  return path;
}

/* What the model room says the features of block `layer` are, one image at a time. */
static void expect_features(const char *path, const np_recipe *recipe, const uint8_t *pixels, int layer, float *out) {
  const np_model_options options = {.batch = 1};
  np_safetensors *file;
  np_ops *ops;
  np_model *model;
  void *device;
  assert_ok(np_safetensors_open(path, &file));
  assert_ok(np_ops_cpu(NP_F32, 1, &ops));
  assert_ok(np_model_create(ops, &recipe->model, &options, &model));
  const np_params *params = np_model_params(model);
  float *weights = calloc((size_t)params->total, sizeof *weights);
  assert_ok(np_params_load(params, file, path, weights));
  assert_ok(np_model_set_weights(model, weights));
  assert_ok(ops->alloc(ops, VALUES * sizeof(float), &device));
  for (int i = 0; i < COUNT; i++) {
    assert_ok(np_model_feed(model, 1, pixels + i * PIXELS, NULL, NULL));
    assert_ok(np_model_features(model, &layer, 1, device));
    assert_ok(ops->download(ops, out + i * VALUES, device, VALUES * sizeof(float)));
  }
  ops->release(ops, device);
  np_model_destroy(model);
  ops->destroy(ops);
  np_safetensors_close(file);
  free(weights);
}

static void encodes(void **state) {
  np_recipe *recipe;
  nextpatch_model *model;
  char *path = write_weights(*state, &recipe);
  uint8_t pixels[COUNT * PIXELS];
  static float wanted[COUNT * VALUES], got[COUNT * VALUES];
  const int last = BLOCKS - 1, beyond = BLOCKS, twice[] = {1, 1};
  for (int i = 0; i < COUNT * PIXELS; i++) pixels[i] = (uint8_t)(i * 37 + i / 11);
  assert_ok((np_status)nextpatch_model_load(path, overrides, OVERRIDES, &model));
  nextpatch_model_info info = nextpatch_model_describe(model);
  assert_int_equal(info.height, 12);
  assert_int_equal(info.width, 8);
  assert_int_equal(info.channels, 3);
  assert_int_equal(info.patch_size, 4);
  assert_int_equal(info.tokens, TOKENS);
  assert_int_equal(info.feature_width, WIDTH);
  assert_int_equal(info.blocks, BLOCKS);

  /* Five images through a model of two at a time: cut into 2 + 2 + 1. */
  expect_features(path, recipe, pixels, last, wanted);
  assert_ok((np_status)nextpatch_encode(model, COUNT, pixels, &last, 1, got));
  for (int i = 0; i < COUNT * VALUES; i++)
    if (!(got[i] - wanted[i] <= 1e-5f && wanted[i] - got[i] <= 1e-5f))
      fail_msg("value %d: %g, wanted %g", i, got[i], wanted[i]);

  assert_int_equal(nextpatch_encode(model, 1, pixels, &beyond, 1, got), NEXTPATCH_ERROR_ARGUMENT);
  assert_int_equal(nextpatch_encode(model, 1, pixels, twice, 2, got), NEXTPATCH_ERROR_ARGUMENT);
  nextpatch_model_free(model);
  np_recipe_free(recipe);
  free(path);
}

static void prepares_images(void **state) {
  np_recipe *recipe;
  nextpatch_model *model;
  char *path = write_weights(*state, &recipe);
  uint8_t raw[40 * 30 * 3], pixels[PIXELS], *png;
  size_t size;
  np_image image = {40, 30, 3, raw}, wanted = {0};
  for (int i = 0; i < 40 * 30 * 3; i++) raw[i] = (uint8_t)(i * 31 + i / 7);
  assert_ok(np_image_encode_png(&image, &png, &size));
  assert_ok(np_image_eval_crop(&image, 12, 8, &wanted));
  assert_ok((np_status)nextpatch_model_load(path, overrides, OVERRIDES, &model));
  assert_ok((np_status)nextpatch_image_prepare(model, png, size, pixels));
  assert_memory_equal(pixels, wanted.pixels, PIXELS);
  assert_int_equal(nextpatch_image_prepare(model, png, size / 2, pixels), NEXTPATCH_ERROR_FORMAT);
  nextpatch_model_free(model);
  np_image_free(&wanted);
  free(png);
  np_recipe_free(recipe);
  free(path);
}

/* It is a guest: what it has to say it returns, and OpenMP's setting stays the caller's. */
static void leaves_things_alone(void **state) {
  np_recipe *recipe;
  nextpatch_model *model;
  char *path = write_weights(*state, &recipe), *lines = np_path_join(*state, "stderr");
  static float features[VALUES];
  const uint8_t pixels[PIXELS] = {0};
#ifdef _OPENMP
  omp_set_num_threads(3);
#endif
  fflush(stderr);
  int kept = dup(STDERR_FILENO), file = open(lines, O_CREAT | O_RDWR, 0600);
  dup2(file, STDERR_FILENO);
  const char *automatic[] = {overrides[0], overrides[1], overrides[3], "backend=auto"};
  int loaded = nextpatch_model_load(path, automatic, 4, &model);
  int encoded = loaded ? 0 : nextpatch_encode(model, 1, pixels, NULL, 0, features);
  dup2(kept, STDERR_FILENO);
  close(kept);
  assert_ok((np_status)loaded);
  assert_ok((np_status)encoded);
  assert_int_equal(lseek(file, 0, SEEK_END), 0);
#ifdef _OPENMP
  assert_int_equal(omp_get_max_threads(), 3);
#endif
  close(file);
  nextpatch_model_free(model);
  np_recipe_free(recipe);
  free(lines);
  free(path);
}

static void refuses(void **state) {
  nextpatch_model *model = (void *)state;
  char *path = np_path_join(*state, "absent.safetensors");
  assert_int_not_equal(nextpatch_model_load(path, NULL, 0, &model), NEXTPATCH_OK);
  assert_null(model);
  assert_non_null(strstr(nextpatch_error(), "absent"));
  nextpatch_model_free(NULL);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(encodes, temp_setup, temp_teardown),
      cmocka_unit_test_setup_teardown(prepares_images, temp_setup, temp_teardown),
      cmocka_unit_test_setup_teardown(leaves_things_alone, temp_setup, temp_teardown),
      cmocka_unit_test_setup_teardown(refuses, temp_setup, temp_teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
