/* The recipe as YAML that reads back to the same bits. */
#include "recipe/recipe_schema.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The code point at *at (moving it on), or -1 and one byte on where the bytes are not UTF-8. */
static int32_t code_point(const unsigned char **at) {
  const unsigned char *s = *at;
  int more = s[0] < 0x80                   ? 0
             : s[0] >= 0xf0 && s[0] < 0xf5 ? 3
             : s[0] >= 0xe0 && s[0] < 0xf0 ? 2
             : s[0] >= 0xc2 && s[0] < 0xe0 ? 1
                                           : -1;
  int32_t point = more == 3 ? s[0] & 7 : more == 2 ? s[0] & 15 : more == 1 ? s[0] & 31 : s[0];
  for (int i = 1; i <= more; i++) {
    if ((s[i] & 0xc0) != 0x80) more = -1;
    else point = point << 6 | (s[i] & 63);
  }
  *at += more > 0 ? more + 1 : 1;
  return more < 0 ? -1 : point;
}

/* What a YAML reader does not take as it stands, or takes for a line break. */
static bool needs_escape(int32_t p) {
  return (p >= 0 && p < 0x20) || (p >= 0x7f && p < 0xa0) || p == 0x2028 || p == 0x2029 || p == 0xfeff || p == 0xfffe ||
         p == 0xffff;
}

char *np_yaml_quote(const char *text) {
  char *out = NULL;
  size_t size;
  FILE *stream = open_memstream(&out, &size);
  if (!stream) return NULL;
  fputc('"', stream);
  for (const unsigned char *at = (const unsigned char *)text; *at;) {
    const unsigned char *start = at;
    int32_t point = code_point(&at);
    if (point == '"' || point == '\\') fputc('\\', stream);
    if (needs_escape(point)) fprintf(stream, "\\u%04" PRIX32, (uint32_t)point);
    else fwrite(start, 1, (size_t)(at - start), stream);
  }
  fputc('"', stream);
  if (fclose(stream) == 0) return out;
  free(out);
  return NULL;
}

/* The fewest digits that read back to the same double. */
static void put_double(FILE *stream, double x) {
  char text[40];
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, x);
    if (strtod(text, NULL) == x) break;
  }
  fputs(text, stream);
}

static np_status put_value(FILE *stream, const np_key *key, const char *at) {
  switch (key->type) {
  case NP_KEY_INT:
    fprintf(stream, "%d", *(const int *)at);
    break;
  case NP_KEY_INT64:
    fprintf(stream, "%" PRId64, *(const int64_t *)at);
    break;
  case NP_KEY_UINT64:
    fprintf(stream, "%" PRIu64, *(const uint64_t *)at);
    break;
  case NP_KEY_DOUBLE:
    put_double(stream, *(const double *)at);
    break;
  case NP_KEY_STRING: {
    const char *text = *(char *const *)at;
    char *quoted = np_yaml_quote(text ? text : "");
    if (!quoted) return np_error(NP_ERR_MEMORY, "recipe: not enough memory");
    fputs(quoted, stream);
    free(quoted);
    break;
  }
  case NP_KEY_CHOICE:
    for (unsigned i = 0; i < key->choice_count; i++)
      if (key->choices[i].val == *(const int *)at) fputs(key->choices[i].str, stream);
    break;
  }
  return NP_OK;
}

static np_status put_key(FILE *stream, const np_key *key, const np_recipe *recipe) {
  np_status st = NP_OK;
  size_t section = np_key_section_length(key);
  fprintf(stream, "%s%s: %s", section ? "  " : "", key->name + (section ? section + 1 : 0),
          key->form == NP_KEY_SCALAR ? "" : "[");
  for (unsigned i = 0; i < np_key_values(key, recipe); i++) {
    if (i > 0) fputs(", ", stream);
    NP_TRY(put_value(stream, key, (const char *)recipe + key->offset + i * np_key_value_size(key->type)));
  }
  fputs(key->form == NP_KEY_SCALAR ? "\n" : "]\n", stream);
out:
  return st;
}

np_status np_recipe_dump(const np_recipe *recipe, char **out) {
  size_t size, section = 0;
  np_status st = NP_OK;
  *out = NULL;
  FILE *stream = open_memstream(out, &size);
  if (!stream) return np_error(NP_ERR_MEMORY, "recipe: not enough memory");
  for (unsigned i = 0; i < np_key_count && st == NP_OK; i++) {
    size_t length = np_key_section_length(&np_keys[i]);
    if (length != section || (length > 0 && strncmp(np_keys[i].name, np_keys[i - 1].name, length) != 0))
      fprintf(stream, "%.*s:\n", (int)length, np_keys[i].name);
    section = length;
    st = put_key(stream, &np_keys[i], recipe);
  }
  if (fclose(stream) != 0 && st == NP_OK) st = np_error(NP_ERR_MEMORY, "recipe: not enough memory");
  if (st != NP_OK) {
    free(*out);
    *out = NULL;
  }
  return st;
}

np_status np_recipe_dump_common(const np_recipe *recipe, char **out) {
  np_recipe common = *recipe; /* borrows strings */
  char empty[] = "";
  common.threads = 0;
  common.device = -1;
  common.data.workers = 0;
  common.data.train = common.probe.data = common.probe.train = common.probe.val = empty;
  return np_recipe_dump(&common, out);
}

bool np_recipe_next_difference(np_difference *d) {
  while (*d->a || *d->b) {
    const char *a = d->a, *b = d->b;
    const int n = (int)strcspn(a, "\n"), m = (int)strcspn(b, "\n");
    if (a[0] != ' ') d->section[0] = 0;
    if (n > 0 && a[n - 1] == ':' && a[0] != ' ')
      snprintf(d->section, sizeof d->section, "%.*s.", n - 1 < 60 ? n - 1 : 60, a);
    d->a += n + (a[n] == '\n');
    d->b += m + (b[m] == '\n');
    if (n == m && strncmp(a, b, (size_t)n) == 0) continue;
    const int a_skip = (int)strspn(a, " "), b_skip = (int)strspn(b, " ");
    d->a_line = a + a_skip, d->a_length = n - a_skip;
    d->b_line = b + b_skip, d->b_length = m - b_skip;
    return true;
  }
  return false;
}
