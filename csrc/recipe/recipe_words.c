/* What messages and --help say about a key: what is allowed, which key was meant. */
#include "recipe/recipe_schema.h"
#include "util/nearest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *number_range(const np_key *key, char *text, size_t room) {
  np_range r = key->range;
  bool low = isfinite(r.low), high = isfinite(r.high);
  if (low && high && !r.low_open && !r.high_open) snprintf(text, room, " from %.15g to %.15g", r.low, r.high);
  else if (low && high)
    snprintf(text, room, " %s %.12g and %s %.12g", r.low_open ? ">" : ">=", r.low, r.high_open ? "<" : "<=", r.high);
  else text[0] = 0;
  return text;
}

const char *np_key_allowed(const np_key *key, char text[NP_ALLOWED_ROOM]) {
  char range[96], count[48] = "";
  bool one = key->form == NP_KEY_SCALAR;
  if (key->form == NP_KEY_FIXED) snprintf(count, sizeof count, "a list of %u ", key->length);
  if (key->form == NP_KEY_LIST) snprintf(count, sizeof count, "a list of at most %u ", key->length);
  switch (key->type) {
  case NP_KEY_INT:
  case NP_KEY_INT64:
    snprintf(text, NP_ALLOWED_ROOM, "%s%s%s", count, one ? "a whole number" : "whole numbers",
             number_range(key, range, sizeof range));
    break;
  case NP_KEY_UINT64:
    snprintf(text, NP_ALLOWED_ROOM, "a whole number from 0 to 18446744073709551615");
    break;
  case NP_KEY_DOUBLE:
    snprintf(text, NP_ALLOWED_ROOM, "%s%s%s", count, one ? "a number" : "numbers",
             number_range(key, range, sizeof range));
    break;
  case NP_KEY_STRING:
    snprintf(text, NP_ALLOWED_ROOM, "text in UTF-8");
    break;
  case NP_KEY_CHOICE: {
    int used = snprintf(text, NP_ALLOWED_ROOM, "one of ");
    for (unsigned i = 0; i < key->choice_count; i++)
      used += snprintf(text + used, NP_ALLOWED_ROOM - (size_t)used, "%s%s", i ? ", " : "", key->choices[i].str);
    break;
  }
  }
  return text;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static const char *last_part(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot ? dot + 1 : name;
}

static void list_section(const char *section, size_t length, char *text, size_t room) {
  size_t used = (size_t)snprintf(text, room, length ? "keys of %.*s:" : "top-level keys:", (int)length, section);
  const char *between = " ";
  char name[32], before[32] = "";
  for (unsigned i = 0; i < np_key_count && used < room; i++) {
    size_t section_length = np_key_section_length(&np_keys[i]);
    const char *start = np_keys[i].name;
    if (length > 0) {
      if (section_length != length || strncmp(start, section, length) != 0) continue;
      start += length + 1;
      section_length = 0;
    }
    snprintf(name, sizeof name, "%.*s", section_length ? (int)section_length : (int)sizeof name, start);
    if (strcmp(name, before) == 0) continue;
    memcpy(before, name, sizeof name);
    used += (size_t)snprintf(text + used, room - used, "%s%s", between, name);
    between = ", ";
  }
}

const char *np_key_suggest(const char *dotted, char *text, size_t room) {
  if (np_key_is_section(dotted)) {
    list_section(dotted, strlen(dotted), text, room);
    return text;
  }
  /* A key of another section: "lr" or "train.lr" for optim.lr. */
  size_t used = 0;
  for (unsigned i = 0; i < np_key_count && used < room; i++)
    if (strcmp(last_part(np_keys[i].name), last_part(dotted)) == 0)
      used += (size_t)snprintf(text + used, room - used, "%s%s", used ? " or " : "did you mean ", np_keys[i].name);
  if (used > 0) {
    snprintf(text + smaller(used, room - 2), 2, "?");
    return text;
  }
  /* A slip of the finger: at most a third of the letters. Whole names and, for a word without a dot, last parts. */
  const char *best = NULL;
  int fewest = (int)strlen(dotted) / 3 + 1;
  char section[32];
  for (unsigned i = 0; i < np_key_count; i++) {
    int whole = np_edits(dotted, np_keys[i].name), last = np_edits(dotted, last_part(np_keys[i].name));
    int edits = !strchr(dotted, '.') && last < whole ? last : whole;
    if (edits < fewest) best = np_keys[i].name, fewest = edits;
    snprintf(section, sizeof section, "%.*s", (int)np_key_section_length(&np_keys[i]), np_keys[i].name);
    if (*section && !strchr(dotted, '.') && np_edits(dotted, section) <= 2 && np_edits(dotted, section) <= fewest) {
      snprintf(text, room, "did you mean %s?", section);
      return text;
    }
  }
  if (best) {
    snprintf(text, room, "did you mean %s?", best);
    return text;
  }
  const char *dot = strchr(dotted, '.');
  snprintf(section, sizeof section, "%.*s", dot ? (int)(dot - dotted) : 0, dotted);
  list_section(section, np_key_is_section(section) ? strlen(section) : 0, text, room);
  return text;
}
