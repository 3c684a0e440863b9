/* A first walk over a document with libyaml: which keys stand on which lines. libcyaml then reads the values; it names
 * no lines once a value is read, and a range or a combination is only judged when all files and overrides are in. The
 * walk also refuses what a recipe has no use for and what could make a reader slow: aliases, tags, depth. */
#include "recipe/recipe_schema.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { SHOWN = 80 }; /* bytes of a value in a message */

typedef struct walk {
  yaml_parser_t parser;
  yaml_event_t event;
  const char *text;
  size_t size;
  const char *where;
  bool with_lines;
  np_source *out;
} walk;

static int line_of(const walk *w) { return (int)w->event.start_mark.line + 1; }

/* "FILE:LINE" or, for a document made of an override, "command line". */
static const char *place(const walk *w, int line, char *text, size_t room) {
  if (w->with_lines) snprintf(text, room, "%s:%d", w->where, line);
  else snprintf(text, room, "%s", w->where);
  return text;
}

static np_status fail(const walk *w, int line, const char *subject, const char *remark) {
  char at[512];
  return np_error(NP_ERR_ARGUMENT, "%s: %s%s%s", place(w, line, at, sizeof at), subject, *subject ? ": " : "", remark);
}

static np_status next(walk *w) {
  yaml_event_delete(&w->event);
  if (!yaml_parser_parse(&w->parser, &w->event)) {
    memset(&w->event, 0, sizeof w->event);
    if (w->parser.error == YAML_MEMORY_ERROR) return np_error(NP_ERR_MEMORY, "%s: not enough memory", w->where);
    const char *problem = w->parser.problem ? w->parser.problem : "unreadable";
    if (w->parser.error != YAML_READER_ERROR)
      return fail(w, (int)w->parser.problem_mark.line + 1, "not valid YAML", problem);
    int line = 1; /* the reader is ahead of the parser's marks */
    for (size_t i = 0; i < w->size && i < w->parser.problem_offset; i++) line += w->text[i] == '\n';
    return fail(w, line, "not UTF-8", problem);
  }
  const yaml_char_t *anchor = NULL, *tag = NULL;
  switch (w->event.type) {
  case YAML_ALIAS_EVENT:
    return fail(w, line_of(w), "", "YAML aliases are not taken here; write the value out");
  case YAML_SCALAR_EVENT:
    anchor = w->event.data.scalar.anchor, tag = w->event.data.scalar.tag;
    break;
  case YAML_SEQUENCE_START_EVENT:
    anchor = w->event.data.sequence_start.anchor, tag = w->event.data.sequence_start.tag;
    break;
  case YAML_MAPPING_START_EVENT:
    anchor = w->event.data.mapping_start.anchor, tag = w->event.data.mapping_start.tag;
    break;
  default:
    break;
  }
  if (anchor) return fail(w, line_of(w), "", "YAML anchors are not taken here; write the value out");
  if (tag) return fail(w, line_of(w), "", "YAML tags are not taken here; write the plain value");
  return NP_OK;
}

/* Append at most what is left of SHOWN bytes, control characters as spaces, whole UTF-8 characters only. */
static void show(char *text, const char *piece) {
  size_t used = strlen(text);
  if (used > SHOWN) return; /* cut before */
  for (; *piece && used < SHOWN; piece++) {
    unsigned char c = (unsigned char)*piece;
    text[used++] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
  }
  if (*piece) {
    while (used > 0 && ((unsigned char)text[used - 1] & 0xc0) == 0x80) used--;
    if (used > 0 && (unsigned char)text[used - 1] >= 0xc0) used--;
    memcpy(text + used, "...", 4);
  } else {
    text[used] = 0;
  }
}

/* libcyaml 1.3 takes "5 apples" for 5 and -1 for the largest unsigned number; a number here is a number from end to
 * end, in decimal, without a leading zero that C would read as octal. Infinities and NaN are in no key's range. */
static bool is_number(const char *text, np_key_type type) {
  if (type == NP_KEY_STRING || type == NP_KEY_CHOICE) return true;
  if (*text == '+' || (*text == '-' && type != NP_KEY_UINT64)) text++;
  if (type != NP_KEY_DOUBLE) return *text && text[strspn(text, "0123456789")] == 0 && (*text != '0' || text[1] == 0);
  char *end;
  strtod(text, &end);
  return (*text == '.' || (*text >= '0' && *text <= '9')) && *end == 0 && !strpbrk(text, "xX");
}

static bool holds_nul(const yaml_event_t *event) {
  return strlen((const char *)event->data.scalar.value) != event->data.scalar.length;
}

static bool scalar_fits(const yaml_event_t *event, const np_key *key) {
  return !holds_nul(event) && is_number((const char *)event->data.scalar.value, key->type);
}

/* The value of `key`: a scalar, or a list of scalars; anything deeper is wrong whatever the key is. */
static np_status value(walk *w, const np_key *key, int line, char text[SHOWN + 8]) {
  np_status st = NP_OK;
  bool bad = false;
  text[0] = 0;
  if (w->event.type == YAML_SCALAR_EVENT) {
    show(text, (const char *)w->event.data.scalar.value);
    if (!*text) show(text, "''");
    bad = !scalar_fits(&w->event, key);
  } else if (w->event.type == YAML_SEQUENCE_START_EVENT) {
    show(text, "[");
    for (unsigned i = 0;; i++) {
      NP_TRY(next(w));
      if (w->event.type == YAML_SEQUENCE_END_EVENT) break;
      bool deeper = w->event.type != YAML_SCALAR_EVENT;
      if (i > 0) show(text, ", ");
      show(text, deeper ? "..." : (const char *)w->event.data.scalar.value);
      bad = bad || deeper || !scalar_fits(&w->event, key);
      if (deeper) break;
    }
    show(text, "]");
  } else {
    show(text, "{}");
    bad = true;
  }
  if (bad) {
    char allowed[NP_ALLOWED_ROOM], remark[NP_ALLOWED_ROOM + SHOWN + 32];
    snprintf(remark, sizeof remark, "%s: expected %s", text, np_key_allowed(key, allowed));
    st = fail(w, line, key->name, remark);
  }
out:
  return st;
}

static np_status add(walk *w, const np_key *key, int line) {
  char text[SHOWN + 8], remark[64];
  for (unsigned i = 0; i < w->out->count; i++) {
    if (w->out->entries[i].key != key) continue;
    snprintf(remark, sizeof remark, "given twice, first on line %d; once is allowed", w->out->entries[i].line);
    return fail(w, line, key->name, remark);
  }
  np_status st = value(w, key, line, text);
  if (st != NP_OK) return st;
  char *copy = strdup(text);
  if (!copy) return np_error(NP_ERR_MEMORY, "%s: not enough memory", w->where);
  w->out->entries[w->out->count++] = (np_entry){.key = key, .line = line, .text = copy};
  return NP_OK;
}

static np_status unknown(walk *w, const char *section) {
  char name[SHOWN + 8] = "", dotted[2 * SHOWN], remark[512], both[600];
  show(name, (const char *)w->event.data.scalar.value);
  snprintf(dotted, sizeof dotted, "%s%s%s", section, *section ? "." : "", name);
  const char *dot = strchr(name, '.');
  if (dot && np_key_find("", name))
    snprintf(remark, sizeof remark, "in a file write it under its section, %.*s: {%s: ...}", (int)(dot - name), name,
             dot + 1);
  else np_key_suggest(dotted, remark, sizeof remark);
  snprintf(both, sizeof both, "no such key; %s", remark);
  return fail(w, line_of(w), dotted, both);
}

/* The keys of one mapping, up to its end; `section` is "" at the top. Depth two is all there is. */
static np_status mapping(walk *w, const char *section) {
  np_status st = NP_OK;
  char seen[NP_SECTION_ROOM][32];
  unsigned seen_count = 0;
  for (;;) {
    NP_TRY(next(w));
    if (w->event.type == YAML_MAPPING_END_EVENT) break;
    if (w->event.type != YAML_SCALAR_EVENT) return fail(w, line_of(w), "", "expected a key, such as train:");
    const char *name = (const char *)w->event.data.scalar.value;
    int line = line_of(w);
    if (holds_nul(&w->event)) return fail(w, line, "", "a key with a NUL character");
    const np_key *key = strchr(name, '.') ? NULL : np_key_find(section, name);
    if (key) {
      NP_TRY(next(w));
      NP_TRY(add(w, key, line));
      continue;
    }
    if (*section || !np_key_is_section(name)) return unknown(w, section);
    for (unsigned i = 0; i < seen_count; i++)
      if (strcmp(seen[i], name) == 0) return fail(w, line, name, "section given twice; once is allowed");
    char *kept = seen[seen_count++];
    snprintf(kept, sizeof seen[0], "%s", name);
    NP_TRY(next(w));
    if (w->event.type != YAML_MAPPING_START_EVENT)
      return fail(w, line, kept, "a section; expected its keys, indented on the lines below");
    NP_TRY(mapping(w, kept));
  }
out:
  return st;
}

static np_status document(walk *w) {
  np_status st;
  NP_TRY(next(w)); /* the stream's start */
  NP_TRY(next(w));
  if (w->event.type == YAML_DOCUMENT_START_EVENT) NP_TRY(next(w));
  bool empty = w->event.type == YAML_STREAM_END_EVENT ||
               (w->event.type == YAML_SCALAR_EVENT && w->event.data.scalar.length == 0);
  if (empty) return fail(w, line_of(w), "", "an empty recipe; expected keys, such as train: {steps: 1000}");
  if (w->event.type != YAML_MAPPING_START_EVENT)
    return fail(w, line_of(w), "", "expected keys, such as train: {steps: 1000}");
  NP_TRY(mapping(w, ""));
  NP_TRY(next(w)); /* the document's end */
  NP_TRY(next(w));
  if (w->event.type != YAML_STREAM_END_EVENT) return fail(w, line_of(w), "", "a second YAML document; one is allowed");
out:
  return st;
}

np_status np_source_read(const char *text, size_t size, const char *where, bool with_lines, np_source *out) {
  walk w = {.text = text, .size = size, .where = where, .with_lines = with_lines, .out = out};
  memset(out, 0, sizeof *out);
  if (!yaml_parser_initialize(&w.parser)) return np_error(NP_ERR_MEMORY, "%s: not enough memory", where);
  yaml_parser_set_input_string(&w.parser, (const unsigned char *)text, size);
  np_status st = document(&w);
  yaml_event_delete(&w.event);
  yaml_parser_delete(&w.parser);
  return st;
}

void np_source_free(np_source *source) {
  for (unsigned i = 0; i < source->count; i++) free(source->entries[i].text);
  memset(source, 0, sizeof *source);
}
