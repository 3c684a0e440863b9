/* The small decisions of probing: ranks with ties and NaN, class lists that differ, which blocks, which file a model's
 * name means. */
#include "probe/evaluate.h"
#include "checkpoint/checkpoint.h"
#include "probe/open.h"
#include "util/file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void ranks(void **state) {
  (void)state;
  const float logits[] = {0.5f, 2, -1, 2, 7};
  const int expect[] = {3, 1, 4, 2, 0}; /* equals: the lower index first, so that exactly one class is rank 0 */
  for (int label = 0; label < 5; label++) assert_int_equal(np_rank(logits, 5, label), expect[label]);
  for (int broken = 0; broken < 5; broken++) {
    float some[5];
    memcpy(some, logits, sizeof some);
    some[broken] = NAN;
    for (int label = 0; label < 5; label++) assert_int_equal(np_rank(some, 5, label), 5);
  }
  const float same[] = {1, 1, 1};
  for (int label = 0; label < 3; label++) assert_int_equal(np_rank(same, 3, label), label);
}

static void class_lists(void **state) {
  (void)state;
  char cat[] = "cat", cow[] = "cow", dog[] = "dog";
  char *three[] = {cat, cow, dog}, *other[] = {cat, dog};
  assert_int_equal(np_classes_equal("A", three, 3, "B", three, 3), NP_OK);
  assert_int_equal(np_classes_equal("A", three, 3, "B", other, 2), NP_ERR_ARGUMENT);
  assert_string_equal(np_error_message(), "classes differ: class 1 is 'cow' in A but 'dog' in B");
  assert_int_equal(np_classes_equal("A", three, 3, "B", three, 2), NP_ERR_ARGUMENT);
  assert_string_equal(np_error_message(), "classes differ: 'dog' of A is missing in B");
  assert_int_equal(np_classes_equal("A", three, 2, "B", three, 3), NP_ERR_ARGUMENT);
  assert_string_equal(np_error_message(), "classes differ: 'dog' of B is missing in A");
}

static void check_layers(const np_recipe *recipe, const char *text, const char *expect) {
  int layers[NP_MAX_LAYERS], count;
  if (np_open_layers(recipe, text, NULL, layers, &count) != NP_OK)
    fail_msg("%s: %s", text ? text : "-", np_error_message());
  char *got = np_layers_text(layers, count);
  assert_string_equal(got, expect);
  free(got);
}

static void layers(void **state) {
  (void)state;
  np_recipe recipe = {.model.blocks = 24};
  check_layers(&recipe, NULL, "18,19,20,21,22,23");
  check_layers(&recipe, "last", "18,19,20,21,22,23");
  check_layers(&recipe, "14-19", "14,15,16,17,18,19");
  check_layers(&recipe, "0,2-4,23", "0,2,3,4,23");
  recipe.probe.layers[0] = 3;
  recipe.probe.layers[1] = 9;
  recipe.probe.layers_count = 2;
  check_layers(&recipe, NULL, "3,9");
  check_layers(&recipe, "7", "7");
  recipe.model.blocks = 4;
  check_layers(&recipe, "last", "0,1,2,3");
  static const char *const wrong[] = {
      "",    "4",   "-1",  "0-4", "1,0", "1,1",   "2-1",         "1,",
      ",1",  "1;2", "all", "1-",  "1 2", "0-0-0", "99999999999", "0-99999999999999999999",
      "0x1", "+1"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    int some[NP_MAX_LAYERS], count;
    if (np_open_layers(&recipe, wrong[i], NULL, some, &count) != NP_ERR_ARGUMENT)
      fail_msg("layers=%s was taken", wrong[i]);
  }
}

static void touch(const char *root, const char *folder) {
  char *path = np_path_join(root, folder), *file = np_path_join(path, "model.safetensors");
  assert_int_equal(np_folder_make(path), NP_OK);
  assert_int_equal(np_file_write(file, "x", 1), NP_OK);
  free(path);
  free(file);
}

static void check_located(const char *root, const char *model, const char *expect) {
  char *name = np_path_join(root, model), *path = np_path_join(root, expect), *got;
  assert_int_equal(np_checkpoint_locate(name, &got), NP_OK);
  assert_string_equal(got, path);
  free(name);
  free(path);
  free(got);
}

static void locate(void **state) {
  (void)state;
  char root[] = "/tmp/nextpatch-open-XXXXXX", *got;
  assert_non_null(mkdtemp(root));
  assert_int_equal(np_checkpoint_locate(root, &got), NP_ERR_ARGUMENT);
  assert_null(got);
  touch(root, "checkpoints/step-99999999");
  touch(root, "checkpoints/step-100000000"); /* newer as a number */
  touch(root, "checkpoints/step-100000001x");
  touch(root, "checkpoints/step--100000002");
  touch(root, "checkpoints/step-+100000003");
  touch(root, "checkpoints/step-0100000004");
  touch(root, "checkpoints/last");
  check_located(root, "", "checkpoints/step-100000000/model.safetensors");
  char *empty = np_path_join(root, "checkpoints/step-100000005");
  assert_int_equal(np_folder_make(empty), NP_OK);
  free(empty);
  assert_int_equal(np_checkpoint_locate(root, &got), NP_ERR_FORMAT); /* and not the one before it */
  assert_null(got);
  check_located(root, "checkpoints/last", "checkpoints/last/model.safetensors");
  check_located(root, "checkpoints/last/model.safetensors", "checkpoints/last/model.safetensors");
  assert_int_equal(np_checkpoint_locate("/nowhere/at/all", &got), NP_ERR_ARGUMENT);
  assert_int_equal(np_folder_remove(root), NP_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ranks),
      cmocka_unit_test(class_lists),
      cmocka_unit_test(layers),
      cmocka_unit_test(locate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
