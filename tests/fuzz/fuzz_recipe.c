/* libFuzzer over recipes. Input: a document, then, behind a NUL byte if there is one, an override. What is refused must
 * be refused with one line; what is taken must survive dump and read back. Seeds: recipes/. */
#include "recipe/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "%s: %s\n", what, np_error_message());
  abort();
}

static void demand_one_line(void) {
  const char *message = np_error_message();
  demand(*message && !strpbrk(message, "\r\n"), "an error is one line");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  np_recipe *recipe = NULL, *again = NULL;
  const uint8_t *zero = memchr(data, 0, size);
  size_t text_size = zero ? (size_t)(zero - data) : size;
  char *override = zero ? strndup((const char *)zero + 1, size - text_size - 1) : NULL;
  np_status st = np_recipe_parse((const char *)data, text_size, "fuzz.yaml", (const char *const *)&override,
                                 override != NULL, &recipe);
  free(override);
  if (st != NP_OK) {
    demand(recipe == NULL, "no recipe comes with an error");
    demand_one_line();
    return 0;
  }
  char *first = NULL, *second = NULL;
  demand(np_recipe_dump(recipe, &first) == NP_OK, "a recipe can be dumped");
  demand(np_recipe_parse(first, strlen(first), "dump.yaml", NULL, 0, &again) == NP_OK, "a dump can be read");
  demand(np_recipe_dump(again, &second) == NP_OK, "and dumped");
  demand(strcmp(first, second) == 0, "a dump reads back to the same recipe");
  free(first);
  free(second);
  np_recipe_free(recipe);
  np_recipe_free(again);
  return 0;
}
