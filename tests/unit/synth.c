/* The synthetic image set: drawn by index, told by shape alone, made once. */
#include "data/synth.h"
#include "data/dataset.h"
#include "image/image.h"
#include "unit/temp.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 32, BYTES = SIZE * SIZE * 3 };

static void test_function_of_index(void **state) {
  (void)state;
  static uint8_t a[BYTES], b[BYTES];
  np_synth_draw(1, 0, 5, 3, SIZE, a);
  np_synth_draw(1, 0, 6, 3, SIZE, b);
  assert_memory_not_equal(a, b, BYTES);
  np_synth_draw(1, 1, 5, 3, SIZE, b);
  assert_memory_not_equal(a, b, BYTES);
  np_synth_draw(2, 0, 5, 3, SIZE, b);
  assert_memory_not_equal(a, b, BYTES);
  np_synth_draw(1, 0, 5, 3, SIZE, b);
  assert_memory_equal(a, b, BYTES);
}

/* The class changes pixels near the shape's edge only: what lies in no shape of the two is the same, so ground,
 * colours, clutter and place are drawn alike. */
static void test_only_the_shape_differs(void **state) {
  (void)state;
  static uint8_t images[NP_SYNTH_CLASSES][BYTES];
  for (int64_t index = 0; index < 20; index++) {
    for (int c = 0; c < NP_SYNTH_CLASSES; c++) np_synth_draw(9, 0, index, c, SIZE, images[c]);
    for (int c = 1; c < NP_SYNTH_CLASSES; c++) {
      int same = 0;
      for (int p = 0; p < BYTES; p += 3) same += memcmp(images[0] + p, images[c] + p, 3) == 0;
      /* a shape reaches less than 0.42 · 1.1 sides from its centre: at least a third of the image is out of reach of
       * both */
      assert_in_range(same, SIZE * SIZE / 3, SIZE * SIZE - 8);
    }
  }
}

/* The mean colour does not tell the class: class means over many images agree within five standard errors. */
static void test_colour_tells_nothing(void **state) {
  (void)state;
  enum { COUNT = 300, CLASSES = 10 };
  static uint8_t pixels[BYTES];
  double mean[CLASSES] = {0}, square = 0, all = 0;
  for (int i = 0; i < COUNT * CLASSES; i++) {
    double sum = 0;
    np_synth_draw(4, 0, i, i % CLASSES, SIZE, pixels);
    for (int p = 0; p < BYTES; p++) sum += pixels[p];
    sum /= BYTES;
    mean[i % CLASSES] += sum / COUNT;
    all += sum / (COUNT * CLASSES);
    square += sum * sum / (COUNT * CLASSES);
  }
  double error = sqrt((square - all * all) / COUNT);
  for (int c = 0; c < CLASSES; c++)
    if (!(fabs(mean[c] - all) < 5 * error))
      fail_msg("%s: mean %g, all %g ± %g", np_synth_class(c), mean[c], all, error);
}

static void test_make(void **state) {
  const np_synth_options o = {.classes = 12, .train = 25, .val = 13, .size = 8, .seed = 3};
  char *root = np_path_join(*state, "deep/set"), *train = np_path_join(root, "train"), *val = np_path_join(root, "val"),
       *file = np_path_join(root, "train/disc/00024.png");
  uint8_t pixels[8 * 8 * 3];
  np_dataset *dataset;
  np_image image;
  struct stat about;
  bool made;
  assert_ok(np_synth_make(root, &o, &made));
  assert_true(made);
  assert_ok(np_dataset_open(train, true, &dataset));
  assert_int_equal(dataset->count, 25);
  assert_int_equal(dataset->class_count, 12);
  np_dataset_close(dataset);
  assert_ok(np_dataset_open(val, true, &dataset));
  assert_int_equal(dataset->count, 13);
  assert_int_equal(dataset->class_count, 12);
  np_dataset_close(dataset);
  assert_ok(np_image_read(file, 3, 64, &image));
  np_synth_draw(3, 0, 24, 0, 8, pixels);
  assert_memory_equal(image.pixels, pixels, sizeof pixels);
  np_image_free(&image);
  /* again: nothing is touched, not even a file that is missing */
  assert_int_equal(unlink(file), 0);
  assert_ok(np_synth_make(root, &o, &made));
  assert_false(made);
  assert_int_not_equal(stat(file, &about), 0);
  free(root), free(train), free(val), free(file);
}

/* In tars: the same images in the same order, never a tar without any; the manifest knows it. */
static void test_shards(void **state) {
  np_synth_options o = {.classes = 3, .train = 10, .val = 2, .size = 8, .seed = 3, .shards = 4};
  char *train = np_path_join(*state, "train"), *val = np_path_join(*state, "val");
  uint8_t pixels[8 * 8 * 3];
  np_dataset *dataset;
  np_image image;
  bool made;
  assert_ok(np_synth_make(*state, &o, &made));
  assert_true(made);
  assert_ok(np_dataset_open(train, true, &dataset));
  assert_int_equal(dataset->shard_count, 4);
  assert_int_equal(dataset->class_count, 3);
  assert_int_equal(dataset->count, 10);
  for (int i = 0; i < 10; i++) {
    const np_sample *s = &dataset->samples[i];
    const int index = atoi(strrchr(s->path, '/') + 1);
    assert_int_equal(s->label, index % 3);
    assert_int_equal(s->shard, (index * 4 + 3) / 10); /* 2, 3, 2 and 3 images */
    assert_ok(np_dataset_read(dataset, i, 3, 64, &image));
    np_synth_draw(3, 0, index, index % 3, 8, pixels);
    assert_memory_equal(image.pixels, pixels, sizeof pixels);
    np_image_free(&image);
  }
  np_dataset_close(dataset);
  assert_ok(np_dataset_open(val, true, &dataset));
  assert_int_equal(dataset->shard_count, 2);
  np_dataset_close(dataset);
  assert_ok(np_synth_make(*state, &o, &made));
  assert_false(made);
  o.shards = 3;
  assert_error(np_synth_make(*state, &o, &made), NP_ERR_ARGUMENT, "other options");
  free(train), free(val);
}

static void test_interrupted_and_other(void **state) {
  np_synth_options o = {.classes = 10, .train = 20, .val = 0, .size = 8, .seed = 0};
  char *manifest = np_path_join(*state, "synth.json"), *file = np_path_join(*state, "train/ring/00001.png"), *text;
  struct stat about;
  size_t size;
  bool made;
  assert_ok(np_synth_make(*state, &o, &made));
  assert_ok(np_file_read(manifest, 4096, &text, &size));
  char *end = strstr(text, "true");
  assert_non_null(end);
  char *begun = np_format("%.*sfalse%s", (int)(end - text), text, end + 4);
  assert_ok(np_file_write(manifest, begun, strlen(begun)));
  assert_int_equal(unlink(file), 0);
  np_synth_options other = o;
  other.seed = 1;
  assert_error(np_synth_make(*state, &other, &made), NP_ERR_ARGUMENT, "other options");
  assert_ok(np_synth_make(*state, &o, &made)); /* finishes what was interrupted */
  assert_true(made);
  assert_int_equal(stat(file, &about), 0);
  assert_error(np_synth_make(*state, &other, &made), NP_ERR_ARGUMENT, "other options");
  assert_int_equal(unlink(manifest), 0);
  assert_error(np_synth_make(*state, &o, &made), NP_ERR_ARGUMENT, "did not make");
  o.classes = NP_SYNTH_CLASSES + 1;
  assert_error(np_synth_make(*state, &o, &made), NP_ERR_ARGUMENT, "classes");
  free(text), free(begun), free(manifest), free(file);
}

/* A folder in the way of one image: the error names it, and the set stays incomplete. */
static void test_failure_is_reported(void **state) {
  const np_synth_options o = {.classes = 10, .train = 40, .val = 0, .size = 8, .seed = 0};
  char *root = np_path_join(*state, "set"), *file = np_path_join(root, "train/ring/00001.png");
  bool made;
  assert_ok(np_synth_make(root, &(np_synth_options){.classes = 10, .size = 8}, &made));
  assert_error(np_synth_make(root, &o, &made), NP_ERR_ARGUMENT, "other options");
  assert_ok(np_folder_remove(root));
  assert_ok(np_folder_make(root));
  assert_error(np_synth_make("/proc/nowhere/set", &o, &made), NP_ERR_IO, "/proc/nowhere");
  char *manifest = np_path_join(root, "synth.json");
  const char *begun = "{\"made_by\": \"nextpatch synth 1\", \"classes\": 10, \"train\": 40, \"val\": 0, \"size\": 8, "
                      "\"seed\": 0, \"complete\": false}\n";
  assert_ok(np_file_write(manifest, begun, strlen(begun)));
  assert_ok(np_folder_make(file));
  assert_error(np_synth_make(root, &o, &made), NP_ERR_IO, file);
  assert_false(made);
  free(root), free(file), free(manifest);
}

#define IN_TEMP(test) cmocka_unit_test_setup_teardown(test, temp_setup, temp_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_function_of_index),
      cmocka_unit_test(test_only_the_shape_differs),
      cmocka_unit_test(test_colour_tells_nothing),
      IN_TEMP(test_make),
      IN_TEMP(test_shards),
      IN_TEMP(test_interrupted_and_other),
      IN_TEMP(test_failure_is_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
