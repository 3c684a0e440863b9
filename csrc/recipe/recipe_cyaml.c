/* The key table in libcyaml's terms. All fields are optional and take their offsets from the start of np_recipe: a
 * section is a mapping that covers the whole struct, so no second set of offsets exists. */
#include "recipe/recipe_schema.h"

#include <string.h>

static cyaml_schema_value_t one_value(const np_key *key) {
  cyaml_schema_value_t value = {.flags = CYAML_FLAG_DEFAULT, .data_size = (uint32_t)np_key_value_size(key->type)};
  switch (key->type) {
  case NP_KEY_INT:
  case NP_KEY_INT64:
    value.type = CYAML_INT;
    break;
  case NP_KEY_UINT64:
    value.type = CYAML_UINT;
    break;
  case NP_KEY_DOUBLE:
    value.type = CYAML_FLOAT;
    break;
  case NP_KEY_STRING:
    value.type = CYAML_STRING;
    value.flags = CYAML_FLAG_POINTER;
    value.data_size = sizeof(char);
    value.string.max = CYAML_UNLIMITED;
    break;
  case NP_KEY_CHOICE:
    value.type = CYAML_ENUM;
    value.flags = CYAML_FLAG_STRICT;
    value.enumeration.strings = key->choices;
    value.enumeration.count = key->choice_count;
    break;
  }
  return value;
}

static cyaml_schema_field_t field_of(const np_key *key, cyaml_schema_value_t *entry) {
  size_t section = np_key_section_length(key);
  cyaml_schema_field_t field = {.key = key->name + (section ? section + 1 : 0), .data_offset = (uint32_t)key->offset};
  cyaml_schema_value_t one = one_value(key);
  if (key->form == NP_KEY_SCALAR) {
    field.value = one;
  } else {
    *entry = one;
    field.value.type = key->form == NP_KEY_FIXED ? CYAML_SEQUENCE_FIXED : CYAML_SEQUENCE;
    field.value.data_size = one.data_size;
    field.value.sequence.entry = entry;
    field.value.sequence.min = key->form == NP_KEY_FIXED ? key->length : 0;
    field.value.sequence.max = key->length;
    field.count_offset = (uint32_t)key->count_offset;
    field.count_size = key->form == NP_KEY_LIST ? sizeof(unsigned) : 0;
  }
  field.value.flags = (enum cyaml_flag)(field.value.flags | CYAML_FLAG_OPTIONAL);
  return field;
}

void np_schema_build(np_schema *schema) {
  memset(schema, 0, sizeof *schema);
  cyaml_schema_field_t *top = schema->top_fields, *field = schema->fields;
  unsigned sections = 0;
  for (unsigned i = 0; i < np_key_count; i++) {
    const np_key *key = &np_keys[i];
    size_t length = np_key_section_length(key);
    if (length == 0) {
      *top++ = field_of(key, &schema->entries[i]);
      continue;
    }
    if (i == 0 || np_key_section_length(key - 1) != length || strncmp(key->name, key[-1].name, length) != 0) {
      if (sections > 0) field++; /* the zeroed field that ends the section before */
      char *name = schema->names[sections++];
      memcpy(name, key->name, length);
      *top++ = (cyaml_schema_field_t){.key = name,
                                      .value = {.type = CYAML_MAPPING,
                                                .flags = CYAML_FLAG_OPTIONAL,
                                                .data_size = sizeof(np_recipe),
                                                .mapping.fields = field}};
    }
    *field++ = field_of(key, &schema->entries[i]);
  }
  schema->top = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                       .flags = CYAML_FLAG_POINTER,
                                       .data_size = sizeof(np_recipe),
                                       .mapping.fields = schema->top_fields};
}
