/* Which backend a recipe gets where no GPU is to be seen: the CPU when the choice is free, and then it says why; an
 * error when a GPU was asked for. */
#include "ops/choose.h"
#include "ops/cuda.h"
#include "util/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static np_recipe *recipe(const char *first, const char *second) {
  const char *const overrides[] = {first, second};
  np_recipe *out = NULL;
  if (np_recipe_load(NULL, overrides, second ? 2 : first ? 1 : 0, &out) != NP_OK) fail_msg("%s", np_error_message());
  return out;
}

static np_ops_choice chosen(const char *first, const char *second) {
  np_recipe *r = recipe(first, second);
  np_ops_choice choice;
  if (np_ops_choose(r, &choice) != NP_OK) fail_msg("%s", np_error_message());
  np_recipe_free(r);
  return choice;
}

static void assert_refused(const char *first, const char *second, const char *text) {
  np_recipe *r = recipe(first, second);
  np_ops_choice choice;
  assert_int_equal(np_ops_choose(r, &choice), NP_ERR_ARGUMENT);
  if (!strstr(np_error_message(), text)) fail_msg("wanted '%s' in: %s", text, np_error_message());
  np_recipe_free(r);
}

static void a_free_choice_is_the_cpu(void **state) {
  (void)state;
  np_ops_choice choice = chosen(NULL, NULL);
  assert_true(choice.backend == NP_BACKEND_CPU && choice.memory == 0 && choice.threads == np_machine_cores());
  char hardware[80], products[NP_CPU_TEXT];
  np_cpu_products_name(products);
  snprintf(hardware, sizeof hardware, "cpu, %s, %s", np_cpu_isa_name(), products);
  assert_string_equal(choice.hardware, hardware);
  setenv("NEXTPATCH_ISA", "generic", 1); /* other sums: to be seen in the record */
  assert_int_equal(strncmp(chosen(NULL, NULL).hardware, "cpu, generic, oneDNN ", 21), 0);
  unsetenv("NEXTPATCH_ISA");
  assert_int_equal(strncmp(choice.why, "backend: auto; ", 15), 0);
  assert_true(strlen(choice.why) > 20);
  assert_int_equal(choice.act, np_cpu_has_bf16() ? NP_BF16 : NP_F32);
  choice = chosen("backend=cpu", "threads=3");
  assert_true(choice.backend == NP_BACKEND_CPU && choice.threads == 3);
  assert_string_equal(choice.why, "as the recipe asks");
  assert_int_equal(chosen("precision=fp32", NULL).act, NP_F32);
}

static void a_gpu_that_is_not_there_is_refused(void **state) {
  (void)state;
  np_cuda_about about;
  assert_refused("backend=cuda", NULL, "backend: cuda: ");
  assert_refused("backend=cuda", "device=3", "backend: cuda: ");
  assert_int_not_equal(np_cuda_look(-1, &about), NP_OK);
  assert_int_equal(np_cuda_device_count(), 0);
}

static void attention_that_cannot_run_is_refused(void **state) {
  (void)state;
  assert_refused("attention=hopper", "backend=cpu",
                 "attention: hopper: kernels of backend: cuda, and this runs on the CPU");
  assert_refused("attention=portable", NULL, "attention: portable: kernels of backend: cuda");
  assert_int_equal(chosen("attention=auto", "backend=cpu").backend, NP_BACKEND_CPU);
}

static void the_choice_is_opened(void **state) {
  (void)state;
  np_recipe *r = recipe("precision=fp32", "threads=2");
  np_ops_choice choice;
  np_ops *ops = NULL, *beside = NULL;
  assert_int_equal(np_ops_choose(r, &choice), NP_OK);
  assert_int_equal(np_ops_open(r, &choice, &ops), NP_OK);
  assert_int_equal(np_ops_open_f32(r, ops, &beside), NP_OK);
  assert_string_equal(ops->name, "cpu");
  assert_true(ops->act == NP_F32 && beside->act == NP_F32 && ops != beside);
  beside->destroy(beside);
  ops->destroy(ops);
  choice.backend = NP_BACKEND_CUDA; /* as if a GPU had gone meanwhile */
  assert_int_not_equal(np_ops_open(r, &choice, &ops), NP_OK);
  assert_null(ops);
  np_recipe_free(r);
}

int main(void) {
  setenv("CUDA_VISIBLE_DEVICES", "", 1); /* before the first CUDA call */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_free_choice_is_the_cpu), cmocka_unit_test(a_gpu_that_is_not_there_is_refused),
      cmocka_unit_test(attention_that_cannot_run_is_refused), cmocka_unit_test(the_choice_is_opened)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
