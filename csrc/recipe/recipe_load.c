/* From text to struct. Defaults, file and overrides are all YAML documents and take one road: walk (recipe_source.c),
 * read by libcyaml, copy the keys that stand in the document over what was there. The checks come once, at the end. */
#include "recipe/recipe_schema.h"
#include "util/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 1 << 20 };

typedef struct loader {
  np_schema schema;
  np_origins origins;
  np_recipe *recipe;
} loader;

static np_status no_memory(void) { return np_error(NP_ERR_MEMORY, "recipe: not enough memory"); }

/* libcyaml's account of a failure: the fields it was in, innermost first. */
typedef struct backtrace {
  char inner[64], outer[64];
  char last[256];
} backtrace;

__attribute__((format(printf, 3, 0))) static void keep_log(cyaml_log_t level, void *context, const char *format,
                                                           va_list arguments) {
  backtrace *trace = context;
  char line[256], field[64];
  (void)level;
  vsnprintf(line, sizeof line, format, arguments);
  line[strcspn(line, "\n")] = 0;
  if (sscanf(line, " in mapping field '%63[^']'", field) == 1)
    memcpy(trace->inner[0] ? trace->outer : trace->inner, field, sizeof field);
  else if (!trace->last[0]) memcpy(trace->last, line, sizeof line);
}

static np_status entry_error(const np_entry *entry, const char *where, bool with_lines) {
  char allowed[NP_ALLOWED_ROOM];
  np_key_allowed(entry->key, allowed);
  if (with_lines)
    return np_error(NP_ERR_ARGUMENT, "%s:%d: %s: %s: expected %s", where, entry->line, entry->key->name, entry->text,
                    allowed);
  return np_error(NP_ERR_ARGUMENT, "%s: %s=%s: expected %s", where, entry->key->name, entry->text, allowed);
}

static np_status read_values(loader *l, const char *text, size_t size, const np_source *source, const char *where,
                             bool with_lines, np_recipe **out) {
  backtrace trace = {{0}, {0}, {0}};
  cyaml_config_t config = {.log_fn = keep_log,
                           .log_ctx = &trace,
                           .mem_fn = cyaml_mem,
                           .log_level = CYAML_LOG_ERROR,
                           .flags = CYAML_CFG_NO_ALIAS};
  *out = NULL;
  cyaml_err_t err = cyaml_load_data((const uint8_t *)text, size, &config, &l->schema.top, (cyaml_data_t **)out, NULL);
  if (err == CYAML_OK) return NP_OK;
  *out = NULL;
  if (err == CYAML_ERR_OOM) return no_memory();
  const np_key *key = np_key_find(trace.outer, trace.inner);
  for (unsigned i = 0; i < source->count; i++)
    if (source->entries[i].key == key) return entry_error(&source->entries[i], where, with_lines);
  return np_error(NP_ERR_ARGUMENT, "%s: %s: %s", where, cyaml_strerror(err), trace.last);
}

/* Move the value of `key` over what `to` holds. */
static void move_key(const np_key *key, np_recipe *from, np_recipe *to) {
  char *source = (char *)from + key->offset, *target = (char *)to + key->offset;
  size_t size = np_key_value_size(key->type);
  if (key->type == NP_KEY_STRING) {
    free(*(char **)target);
    *(char **)target = *(char **)source;
    *(char **)source = NULL;
    return;
  }
  unsigned count = np_key_values(key, from);
  memset(target, 0, key->length * size);
  memcpy(target, source, count * size);
  if (key->form == NP_KEY_LIST) memcpy((char *)to + key->count_offset, &count, sizeof count);
}

/* Apply the document to l->recipe. `source` is what np_source_read made of it; its texts move into the origins, unless
 * `where` is NULL: the defaults. */
static np_status apply(loader *l, const char *text, size_t size, np_source *source, const char *where,
                       bool with_lines) {
  np_recipe *loaded = NULL;
  np_status st = read_values(l, text, size, source, where ? where : "defaults", with_lines, &loaded);
  if (st != NP_OK || !loaded) return st; /* none: a document without a single key */
  for (unsigned i = 0; i < source->count; i++) {
    np_entry *entry = &source->entries[i];
    move_key(entry->key, loaded, l->recipe);
    if (!where) continue;
    np_origin *origin = &l->origins.of[entry->key - np_keys];
    free(origin->text);
    *origin = (np_origin){.where = where, .line = with_lines ? entry->line : 0, .text = entry->text};
    entry->text = NULL;
  }
  cyaml_mem(NULL, loaded, 0);
  return NP_OK;
}

static np_status apply_text(loader *l, const char *text, size_t size, const char *where) {
  np_source source;
  np_status st = np_source_read(text, size, where ? where : "defaults", true, &source);
  if (st == NP_OK) st = apply(l, text, size, &source, where, true);
  np_source_free(&source);
  return st;
}

static np_status apply_defaults(loader *l) {
  char *text = NULL;
  size_t size = 0, section = 0;
  FILE *stream = open_memstream(&text, &size);
  if (!stream) return no_memory();
  for (unsigned i = 0; i < np_key_count; i++) {
    const np_key *key = &np_keys[i];
    size_t length = np_key_section_length(key);
    if (length != section || (i > 0 && strncmp(key->name, key[-1].name, length) != 0))
      fprintf(stream, "%.*s:\n", (int)length, key->name);
    section = length;
    fprintf(stream, "%s%s: %s\n", length ? "  " : "", key->name + (length ? length + 1 : 0), key->fallback);
  }
  np_status st = fclose(stream) == 0 ? apply_text(l, text, size, NULL) : no_memory();
  free(text);
  return st;
}

static np_status value_error(const np_key *key, const char *value) {
  char allowed[NP_ALLOWED_ROOM];
  return np_error(NP_ERR_ARGUMENT, "%s: %s=%.*s: expected %s", NP_COMMAND_LINE, key->name, (int)strcspn(value, "\r\n"),
                  value, np_key_allowed(key, allowed));
}

/* One "dotted.key=value". It becomes a document of one key; text is quoted so that it needs no YAML quoting on a shell.
 */
static np_status apply_override(loader *l, const char *override) {
  const char *equals = strchr(override, '=');
  char name[64], remark[512], *quoted = NULL, *text = NULL;
  if (!equals || equals == override || strcspn(override, "\r\n") < (size_t)(equals - override))
    return np_error(NP_ERR_ARGUMENT, "%s: '%.*s': expected key=value, such as train.steps=1000", NP_COMMAND_LINE,
                    (int)strcspn(override, "\r\n"), override);
  snprintf(name, sizeof name, "%.*s", (int)(equals - override), override);
  const np_key *key = (size_t)(equals - override) < sizeof name ? np_key_find("", name) : NULL;
  if (!key)
    return np_error(NP_ERR_ARGUMENT, "%s: %s: no such key; %s", NP_COMMAND_LINE, name,
                    np_key_suggest(name, remark, sizeof remark));
  const char *value = equals + 1;
  if (key->type != NP_KEY_STRING && strpbrk(value, "\r\n")) return value_error(key, value);

  size_t section = np_key_section_length(key);
  np_source source = {.count = 0};
  np_status st;
  if (key->type == NP_KEY_STRING && !(quoted = np_yaml_quote(value))) return no_memory();
  int size = section ? asprintf(&text, "%.*s:\n  %s: %s\n", (int)section, key->name, key->name + section + 1,
                                quoted ? quoted : value)
                     : asprintf(&text, "%s: %s\n", key->name, quoted ? quoted : value);
  if (size < 0) {
    text = NULL;
    st = no_memory();
    goto out;
  }
  st = np_source_read(text, (size_t)size, NP_COMMAND_LINE, false, &source);
  if (st != NP_ERR_MEMORY && (st != NP_OK || source.count != 1 || source.entries[0].key != key))
    st = value_error(key, value);
  if (st == NP_OK) st = apply(l, text, (size_t)size, &source, NP_COMMAND_LINE, false);
out:
  np_source_free(&source);
  free(quoted);
  free(text);
  return st;
}

/* `text` NULL: defaults and overrides alone. */
static np_status load(const char *text, size_t size, const char *name, const char *const *overrides, int count,
                      bool trains, np_recipe **out) {
  np_status st = NP_OK;
  *out = NULL;
  loader *l = calloc(1, sizeof *l);
  if (!l || !(l->recipe = calloc(1, sizeof *l->recipe))) {
    free(l);
    return no_memory();
  }
  np_schema_build(&l->schema);
  NP_TRY(apply_defaults(l));
  if (text) NP_TRY(apply_text(l, text, size, name));
  for (int i = 0; i < count; i++) NP_TRY(apply_override(l, overrides[i]));
  NP_TRY(np_recipe_check(l->recipe, &l->origins, trains));
  *out = l->recipe;
  l->recipe = NULL;
out:
  for (unsigned i = 0; i < np_key_count; i++) free(l->origins.of[i].text);
  np_recipe_free(l->recipe);
  free(l);
  return st;
}

np_status np_recipe_parse(const char *text, size_t size, const char *name, const char *const *overrides,
                          int override_count, np_recipe **out) {
  *out = NULL;
  if (size > FILE_LIMIT)
    return np_error(NP_ERR_ARGUMENT, "%s: %zu bytes; a recipe has at most %d", name, size, (int)FILE_LIMIT);
  return load(text, size, name, overrides, override_count, false, out);
}

static np_status load_file(const char *path, const char *const *overrides, int count, bool trains, np_recipe **out) {
  char *text = NULL;
  size_t size = 0;
  *out = NULL;
  if (!path) return load(NULL, 0, "defaults", overrides, count, trains, out);
  np_status st = np_file_read(path, FILE_LIMIT, &text, &size);
  if (st == NP_ERR_IO) st = np_error_context(NP_ERR_ARGUMENT, "recipe"); /* a word typed wrong, as a rule */
  if (st == NP_OK) st = load(text, size, path, overrides, count, trains, out);
  free(text);
  return st;
}

np_status np_recipe_load(const char *path, const char *const *overrides, int override_count, np_recipe **out) {
  return load_file(path, overrides, override_count, false, out);
}

np_status np_recipe_load_to_train(const char *path, const char *const *overrides, int override_count, np_recipe **out) {
  return load_file(path, overrides, override_count, true, out);
}

void np_recipe_free(np_recipe *recipe) {
  if (!recipe) return;
  for (unsigned i = 0; i < np_key_count; i++)
    if (np_keys[i].type == NP_KEY_STRING) free(*(char **)((char *)recipe + np_keys[i].offset));
  free(recipe);
}
