/* Flip, jitter and the random box. */
#include "image/image.h"
#include "unit/pillow.h"
#include "util/philox.h"

#include <math.h>

static void flip_mirrors(void **state) {
  (void)state;
  for (int width = 1; width <= 6; width++) {
    np_image image = pillow_source(0, 4, width), flipped = pillow_source(0, 4, width);
    np_image_flip(&flipped);
    for (int y = 0; y < 4; y++)
      for (int x = 0; x < width; x++)
        assert_memory_equal(flipped.pixels + (y * width + x) * 3, image.pixels + (y * width + width - 1 - x) * 3, 3);
    np_image_free(&image);
    np_image_free(&flipped);
  }
}

static void jitter_equals_pillow(void **state) {
  (void)state;
  int i = 0;
  for (const np_tensor *order; (order = pillow_case("jitter", i, "order")); i++) {
    const int32_t *grey_and_order = order->data;
    const double *factors = pillow_case("jitter", i, "factors")->data;
    char name[32];
    snprintf(name, sizeof name, "jitter.%d", i);
    np_jitter jitter = {.brightness = factors[0], .contrast = factors[1], .saturation = factors[2], .hue = factors[3]};
    for (int k = 0; k < 4; k++) jitter.order[k] = grey_and_order[1 + k];
    np_image image = pillow_source(grey_and_order[0], 0, 0);
    assert_int_equal(np_image_jitter(&image, &jitter), NP_OK);
    assert_image(&image, pillow_case("jitter", i, "out"), name);
    np_image_free(&image);
  }
  assert_int_equal(i, 6);
}

static void jitter_refuses(void **state) {
  (void)state;
  np_image image = pillow_source(0, 2, 2);
  static const np_jitter wrong[] = {
      {{0, 1, 2, 3}, 1, 1, 1, 0.6}, {{0, 1, 2, 3}, 1, 1, 1, NAN}, {{0, 1, 2, 3}, -1, 1, 1, 0},
      {{0, 1, 2, 3}, 1, NAN, 1, 0}, {{0, 1, 2, 4}, 1, 1, 1, 0},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_int_equal(np_image_jitter(&image, &wrong[i]), NP_ERR_ARGUMENT);
  np_image_free(&image);
}

static void drawn_jitter(void **state) {
  (void)state;
  const double strength[4] = {0.4, 1.5, 0, 0.1};
  enum { DRAWS = 24000 };
  int orders[256] = {0}, kinds = 0;
  double lowest = 9, highest = -9, contrast_low = 9, contrast_high = -9, hue_low = 9, hue_high = -9;
  for (int i = 0; i < DRAWS; i++) {
    np_rng rng = np_rng_make(3, NP_PURPOSE_JITTER, 0, (uint64_t)i);
    const np_jitter jitter = np_jitter_draw(strength, &rng);
    int seen = 0, code = 0;
    for (int k = 0; k < 4; k++) {
      assert_in_range(jitter.order[k], 0, 3);
      seen |= 1 << jitter.order[k];
      code = code * 4 + jitter.order[k];
    }
    assert_int_equal(seen, 15);
    kinds += orders[code]++ == 0;
    assert_true(jitter.saturation == 1);
    lowest = fmin(lowest, jitter.brightness), highest = fmax(highest, jitter.brightness);
    contrast_low = fmin(contrast_low, jitter.contrast), contrast_high = fmax(contrast_high, jitter.contrast);
    hue_low = fmin(hue_low, jitter.hue), hue_high = fmax(hue_high, jitter.hue);
  }
  assert_int_equal(kinds, 24);
  for (int code = 0; code < 256; code++)
    if (orders[code]) assert_true(abs(orders[code] - 1000) <= 6 * 31); /* sqrt(24000 · 1/24 · 23/24) = 31 */
  assert_true(lowest >= 0.6 && lowest < 0.61 && highest <= 1.4 && highest > 1.39);
  assert_true(contrast_low >= 0 && contrast_low < 0.01 && contrast_high <= 2.5 && contrast_high > 2.49);
  assert_true(hue_low >= -0.1 && hue_low < -0.099 && hue_high <= 0.1 && hue_high > 0.099);
}

/* In bounds, of the right area and ratio up to rounding, in all corners, the ratio's logarithm even. */
static void random_boxes(void **state) {
  (void)state;
  const np_crop_range range = {.scale_min = 0.4, .scale_max = 1, .ratio_min = 3. / 4, .ratio_max = 4. / 3};
  enum { HEIGHT = 300, WIDTH = 400, DRAWS = 20000 };
  int at_top = 0, at_bottom = 0, wide = 0, small = 0;
  for (int i = 0; i < DRAWS; i++) {
    np_rng rng = np_rng_make(4, NP_PURPOSE_CROP, 0, (uint64_t)i);
    const np_box box = np_image_random_box(HEIGHT, WIDTH, &range, &rng);
    assert_true(box.top >= 0 && box.left >= 0 && box.height >= 1 && box.width >= 1);
    assert_true(box.top + box.height <= HEIGHT && box.left + box.width <= WIDTH);
    const double area = (double)box.height * box.width / (HEIGHT * WIDTH);
    const double ratio = (double)box.width / box.height;
    assert_true(area >= 0.395 && area <= 1.005 && ratio >= 0.745 && ratio <= 1.34);
    at_top += box.top == 0;
    at_bottom += box.top + box.height == HEIGHT;
    wide += ratio > 1;
    small += area < 0.6;
  }
  assert_true(at_top > DRAWS / 200 && at_bottom > DRAWS / 200);
  /* Boxes that do not fit are drawn again, so the wide and small ones are more than their first shares of a half and a
   * third. */
  assert_true(wide > DRAWS / 2 && wide < DRAWS * 4 / 5);
  assert_true(small > DRAWS / 3 && small < DRAWS * 2 / 3);
}

/* With one scale and one ratio the box is known: 0.25 · 200 · 200 pixels at ratio 4 are 200 × 50. */
static void known_box(void **state) {
  (void)state;
  const np_crop_range range = {.scale_min = 0.25, .scale_max = 0.25, .ratio_min = 4, .ratio_max = 4};
  np_rng rng = np_rng_make(1, NP_PURPOSE_CROP, 0, 0);
  const np_box box = np_image_random_box(200, 200, &range, &rng);
  assert_int_equal(box.width, 200);
  assert_int_equal(box.height, 50);
  assert_int_equal(box.left, 0);
}

/* No box of the range fits: torchvision's central crop, checked by hand. */
static void fallback(void **state) {
  (void)state;
  const np_crop_range range = {.scale_min = 0.9, .scale_max = 1, .ratio_min = 3. / 4, .ratio_max = 4. / 3};
  static const struct {
    int height, width;
    np_box expect;
  } cases[] = {
      {30, 300, {0, 130, 30, 40}}, {300, 30, {130, 0, 40, 30}}, {1, 1000, {0, 499, 1, 1}}, {1000, 1, {499, 0, 1, 1}}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    np_rng rng = np_rng_make(5, NP_PURPOSE_CROP, 0, i);
    const np_box box = np_image_random_box(cases[i].height, cases[i].width, &range, &rng);
    assert_memory_equal(&box, &cases[i].expect, sizeof box);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(flip_mirrors), cmocka_unit_test(jitter_equals_pillow), cmocka_unit_test(jitter_refuses),
      cmocka_unit_test(drawn_jitter), cmocka_unit_test(random_boxes),         cmocka_unit_test(known_box),
      cmocka_unit_test(fallback),
  };
  return cmocka_run_group_tests(tests, open_pillow, close_pillow);
}
