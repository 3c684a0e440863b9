/* Private to this room: the one table of keys, and what the files of the room share about it. */
#ifndef NP_RECIPE_RECIPE_SCHEMA_H
#define NP_RECIPE_RECIPE_SCHEMA_H

#include "recipe/recipe.h"

#include <cyaml/cyaml.h>

typedef enum np_key_type {
  NP_KEY_INT,    /* int */
  NP_KEY_INT64,  /* int64_t */
  NP_KEY_UINT64, /* uint64_t */
  NP_KEY_DOUBLE, /* double */
  NP_KEY_STRING, /* char *, malloc'ed */
  NP_KEY_CHOICE, /* an enum, the size of an int */
} np_key_type;

typedef enum np_key_form { NP_KEY_SCALAR, NP_KEY_FIXED, NP_KEY_LIST } np_key_form;

/* Numbers x with low <= x <= high, or < where open. */
typedef struct np_range {
  double low, high;
  bool low_open, high_open;
} np_range;

typedef struct np_key {
  const char *name; /* dotted: "model.width" */
  np_key_type type; /* of one value */
  np_key_form form;
  size_t offset;       /* of the first value in np_recipe */
  size_t count_offset; /* LIST: of its `unsigned` count */
  unsigned length;     /* values there is room for: 1 for a scalar */
  np_range range;      /* numbers only, each value of a list */
  const cyaml_strval_t *choices;
  unsigned choice_count;
  const char *fallback; /* the default, as YAML */
  const char *meaning;
} np_key;

enum { NP_KEY_ROOM = 80, NP_SECTION_ROOM = 16, NP_ALLOWED_ROOM = 256 };

extern const np_key np_keys[];
extern const unsigned np_key_count;

/* The key of that dotted name; NULL when there is none. Names may be given in two parts: section "" for the top level.
 */
const np_key *np_key_find(const char *section, const char *name);
bool np_key_is_section(const char *name);
/* "model" of "model.width": its length; 0 for a key of the top level. */
size_t np_key_section_length(const np_key *key);
size_t np_key_value_size(np_key_type type);
/* How many values the key holds in this recipe. */
unsigned np_key_values(const np_key *key, const np_recipe *recipe);
bool np_range_holds(np_range range, double x);

/* What a value may be, in words: "a whole number from 1 to 128", "one of auto, fp32, bf16". Returns `text`. */
const char *np_key_allowed(const np_key *key, char text[NP_ALLOWED_ROOM]);
/* A remark on a name that is no key: "did you mean train.steps?" or "keys of train: steps, batch, …". Returns `text`.
 */
const char *np_key_suggest(const char *dotted, char *text, size_t room);

/* The table in libcyaml's terms. The top value points into the struct, which therefore stays where it is. */
typedef struct np_schema {
  cyaml_schema_value_t top;
  cyaml_schema_field_t top_fields[NP_SECTION_ROOM + 1];
  cyaml_schema_field_t fields[NP_KEY_ROOM + NP_SECTION_ROOM];
  cyaml_schema_value_t entries[NP_KEY_ROOM]; /* one value of a list */
  char names[NP_SECTION_ROOM][32];
} np_schema;
void np_schema_build(np_schema *schema);

/* One key as it stands in a document. */
typedef struct np_entry {
  const np_key *key;
  int line;   /* from 1 */
  char *text; /* the value as a person wrote it, on one line, shortened when long */
} np_entry;

typedef struct np_source {
  np_entry entries[NP_KEY_ROOM];
  unsigned count;
} np_source;

/* Walk a document's structure before its values are read: known keys, each once, no anchors, aliases or tags, no second
 * document. `where` stands in messages, followed by the line when `with_lines`. Free with np_source_free, also on
 * error. */
np_status np_source_read(const char *text, size_t size, const char *where, bool with_lines, np_source *out);
void np_source_free(np_source *source);

#define NP_COMMAND_LINE "command line" /* where an override stands */

/* Where the value of each key came from. */
typedef struct np_origin {
  const char *where; /* file name or NP_COMMAND_LINE; NULL: the default */
  int line;          /* 0: none */
  char *text;        /* as in np_entry */
} np_origin;

typedef struct np_origins {
  np_origin of[NP_KEY_ROOM];
} np_origins;

/* NP_ERR_ARGUMENT "FILE:LINE: key: value" + the formatted rest; "command line: key=value" for an override. A default
 * that clashes with `other` (NULL: none) is told at the place of `other`, where somebody can mend it. */
np_status np_origin_error(const np_origins *origins, const np_key *key, const np_key *other, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Every range and combination, and where the recipe is to be trained what that takes; also puts N-1 for a largest
 * prefix of -1. */
np_status np_recipe_check(np_recipe *recipe, const np_origins *origins, bool trains);

/* `text` as a double-quoted YAML scalar, malloc'ed. Bytes that are not UTF-8 stay as they are: a YAML reader refuses
 * them. */
char *np_yaml_quote(const char *text);

#endif
