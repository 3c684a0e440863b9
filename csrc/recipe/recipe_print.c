/* The key table for --help. */
#include "recipe/recipe_schema.h"

#include <stdio.h>
#include <string.h>

void np_recipe_print_keys(const char *section) {
  char allowed[NP_ALLOWED_ROOM];
  for (unsigned i = 0; i < np_key_count; i++) {
    const np_key *key = &np_keys[i];
    size_t length = np_key_section_length(key);
    if (section && (strlen(section) != length || strncmp(section, key->name, length) != 0)) continue;
    printf("  %-24s = %-20s %s (%s)\n", key->name, key->fallback, key->meaning, np_key_allowed(key, allowed));
  }
}
