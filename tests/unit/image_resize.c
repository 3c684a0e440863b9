/* Resampling and crops: Pillow's and torchvision's bits, and what must hold for any filter. */
#include "image/image.h"
#include "unit/pillow.h"

#include <limits.h>

static void equals_pillow(void **state) {
  (void)state;
  int i = 0;
  for (const np_tensor *args; (args = pillow_case("resize", i, "args")); i++) {
    const int32_t *a = args->data;
    char name[32];
    snprintf(name, sizeof name, "resize.%d", i);
    np_image source = pillow_source(a[0], 0, 0), out;
    const np_box box = {.top = a[1], .left = a[2], .height = a[3], .width = a[4]};
    assert_int_equal(np_image_resize(&source, box, a[5], a[6], (np_interpolation)a[7], &out), NP_OK);
    assert_image(&out, pillow_case("resize", i, "out"), name);
    np_image_free(&out);
    np_image_free(&source);
  }
  assert_int_equal(i, 16);
}

static void eval_crop_equals_torchvision(void **state) {
  (void)state;
  int i = 0;
  for (const np_tensor *args; (args = pillow_case("eval", i, "args")); i++) {
    const int32_t *a = args->data;
    char name[32];
    snprintf(name, sizeof name, "eval.%d", i);
    np_image source = pillow_source(a[0], a[1], a[2]), out;
    assert_int_equal(np_image_eval_crop(&source, a[3], a[4], &out), NP_OK);
    assert_image(&out, pillow_case("eval", i, "out"), name);
    np_image_free(&out);
    np_image_free(&source);
  }
  assert_int_equal(i, 7);
}

static void same_size_is_the_crop(void **state) {
  (void)state;
  np_image source = pillow_source(0, 0, 0), out;
  const np_box box = {.top = 5, .left = 9, .height = 30, .width = 40};
  for (int how = NP_NEAREST; how <= NP_BICUBIC; how++) {
    assert_int_equal(np_image_resize(&source, box, 30, 40, (np_interpolation)how, &out), NP_OK);
    for (int y = 0; y < 30; y++)
      assert_memory_equal(out.pixels + y * 120, source.pixels + ((y + 5) * source.width + 9) * 3, 120);
    np_image_free(&out);
  }
  np_image_free(&source);
}

/* Weights sum to one: a flat colour stays, at every size. */
static void flat_stays_flat(void **state) {
  (void)state;
  uint8_t pixels[23 * 31 * 3];
  for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t[]){0, 255, 77}[i % 3];
  const np_image flat = {.height = 23, .width = 31, .channels = 3, .pixels = pixels};
  const np_box all = {.height = 23, .width = 31};
  for (int how = NP_NEAREST; how <= NP_BICUBIC; how++)
    for (int size = 1; size < 80; size += 3) {
      np_image out;
      assert_int_equal(np_image_resize(&flat, all, size, 80 - size, (np_interpolation)how, &out), NP_OK);
      for (int i = 0; i < size * (80 - size) * 3; i++) assert_int_equal(out.pixels[i], pixels[i % 3]);
      np_image_free(&out);
    }
}

static void refuses_what_cannot_be(void **state) {
  (void)state;
  np_image source = pillow_source(0, 0, 0), out;
  static const np_box boxes[] = {{-1, 0, 5, 5}, {0, -1, 5, 5}, {0, 0, 0, 5},  {0, 0, 5, 0},       {57, 0, 5, 5},
                                 {0, 79, 5, 5}, {0, 0, 62, 5}, {0, 0, 5, 84}, {INT_MAX, 0, 5, 5}, {5, 0, INT_MAX, 5}};
  for (size_t i = 0; i < sizeof boxes / sizeof *boxes; i++) {
    assert_int_equal(np_image_resize(&source, boxes[i], 8, 8, NP_BICUBIC, &out), NP_ERR_ARGUMENT);
    assert_null(out.pixels);
  }
  const np_box all = {.height = 61, .width = 83};
  assert_int_equal(np_image_resize(&source, all, 0, 8, NP_BICUBIC, &out), NP_ERR_ARGUMENT);
  assert_int_equal(np_image_eval_crop(&source, 8, 0, &out), NP_ERR_ARGUMENT);
  np_image_free(&source);
}

/* One pixel wide and very tall: only the crop is made, not the whole resized image. */
static void narrow_images(void **state) {
  (void)state;
  const int height = 60000;
  np_image column = {.height = height, .width = 1, .channels = 1, .pixels = calloc((size_t)height, 1)}, out;
  assert_non_null(column.pixels);
  assert_int_equal(np_image_eval_crop(&column, 224, 224, &out), NP_OK);
  assert_int_equal(out.height, 224);
  np_image_free(&out);
  np_image_free(&column);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equals_pillow),   cmocka_unit_test(eval_crop_equals_torchvision),
      cmocka_unit_test(flat_stays_flat), cmocka_unit_test(same_size_is_the_crop),
      cmocka_unit_test(narrow_images),   cmocka_unit_test(refuses_what_cannot_be),
  };
  return cmocka_run_group_tests(tests, open_pillow, close_pillow);
}
