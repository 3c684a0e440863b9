#include "cli/options.h"

#include "recipe/recipe.h"
#include "util/nearest.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Length of the key of "key=value"; 0 when the word is not of that form. */
static size_t key_length(const char *word) {
  size_t n = 0;
  if (!isalpha((unsigned char)word[0])) return 0;
  while (isalnum((unsigned char)word[n]) || word[n] == '_' || word[n] == '.') n++;
  return word[n] == '=' ? n : 0;
}

static int word_count(const np_cli_word *words) {
  int n = 0;
  while (words && words[n].name) n++;
  return n;
}

static bool known(const np_cli_word *words, const char *name, size_t length) {
  for (; words && words->name; words++)
    if (strlen(words->name) == length && !memcmp(words->name, name, length)) return true;
  return false;
}

/* " (did you mean ...?)" into `text`, or "". */
static const char *hint(const np_cli_word *words, const char *name, size_t length, const char *dashes, char text[96]) {
  const char *names[64];
  char typed[64];
  int count = word_count(words);
  text[0] = 0;
  if (count > 64 || length >= sizeof typed) return text;
  for (int i = 0; i < count; i++) names[i] = words[i].name;
  memcpy(typed, name, length);
  typed[length] = 0;
  const char *near = np_nearest(typed, names, count);
  if (near) snprintf(text, 96, " (did you mean %s%s?)", dashes, near);
  return text;
}

static void print_words(const char *title, const char *dashes, const np_cli_word *words) {
  printf("\n%s:\n", title);
  for (; words->name; words++) printf("  %s%-*s  %s\n", dashes, 16 - (int)strlen(dashes), words->name, words->meaning);
}

static void print_help(const np_cli_usage *usage) {
  const np_cli_word none[] = {{NULL, NULL}};
  printf("usage: nextpatch %s %s\n\n%s", usage->name, usage->arguments, usage->text);
  if (word_count(usage->keys)) print_words("keys", "", usage->keys);
  print_words("flags", "--", usage->flags ? usage->flags : none);
  printf("  --%-14s  %s\n", "help", "print this");
  if (usage->recipe) {
    printf("\nkeys of the recipe, in the YAML file or as KEY=VALUE here, which wins:\n");
    np_recipe_print_keys(usage->section);
  }
  printf("\nexamples:\n%s", usage->examples);
}

static np_status take_flag(np_cli_options *out, const char *word) {
  const np_cli_usage *usage = out->usage;
  char text[96];
  const char *name = word + (word[1] == '-' ? 2 : 1);
  size_t length = strcspn(name, "=");
  if (word[1] == '-' && !name[length] && known(usage->flags, name, length)) {
    out->own[out->own_count++] = word;
    return NP_OK;
  }
  if (word[1] == '-' && name[length] == '=' && key_length(name))
    return np_error(NP_ERR_ARGUMENT, "%s: unknown option '%s'; a key is written without dashes: %s", usage->name, word,
                    name);
  return np_error(NP_ERR_ARGUMENT, "%s: unknown option '%s'%s; 'nextpatch %s --help' lists what there is", usage->name,
                  word, hint(usage->flags, name, length, "--", text), usage->name);
}

static np_status take_key(np_cli_options *out, const char *word, size_t length) {
  const np_cli_usage *usage = out->usage;
  char text[96];
  if (known(usage->keys, word, length)) {
    out->own[out->own_count++] = word;
  } else if (usage->recipe) {
    out->overrides[out->override_count++] = word;
  } else {
    return np_error(NP_ERR_ARGUMENT, "%s: unknown key '%.*s'%s; 'nextpatch %s --help' lists what there is", usage->name,
                    (int)length, word, hint(usage->keys, word, length, "", text), usage->name);
  }
  return NP_OK;
}

static np_status check_count(const np_cli_options *options) {
  const np_cli_usage *usage = options->usage;
  int n = options->positional_count;
  if (usage->most >= 0 && n > usage->most)
    return np_error(NP_ERR_ARGUMENT, "%s: unexpected argument '%s'; usage: nextpatch %s %s", usage->name,
                    options->positional[usage->most], usage->name, usage->arguments);
  if (n < usage->least)
    return np_error(NP_ERR_ARGUMENT, "%s: %s argument; usage: nextpatch %s %s", usage->name,
                    n ? "needs another" : "needs an", usage->name, usage->arguments);
  return NP_OK;
}

/* Sort argv[1..] into *out; the strings stay argv's. --help anywhere wins over errors. Release with `forget`, also
 * after an error. */
static np_status parse(const np_cli_usage *usage, int argc, char **argv, np_cli_options *out) {
  np_status st = NP_OK;
  *out = (np_cli_options){.usage = usage, .argc = argc, .argv = argv};
  for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
    if (strcmp(argv[i], "--help") && strcmp(argv[i], "-h")) continue;
    print_help(usage);
    out->help = true;
    return NP_OK;
  }
  out->positional = calloc((size_t)argc + 1, sizeof *out->positional);
  out->overrides = calloc((size_t)argc + 1, sizeof *out->overrides);
  out->own = calloc((size_t)argc + 1, sizeof *out->own);
  if (!out->positional || !out->overrides || !out->own)
    return np_error(NP_ERR_MEMORY, "%s: out of memory", usage->name);
  bool rest = false; /* behind "--" every word is an argument */
  for (int i = 1; i < argc; i++) {
    size_t length = key_length(argv[i]);
    if (!rest && !strcmp(argv[i], "--")) {
      rest = true;
    } else if (!rest && argv[i][0] == '-' && argv[i][1]) {
      NP_TRY(take_flag(out, argv[i]));
    } else if (!rest && length) {
      NP_TRY(take_key(out, argv[i], length));
    } else {
      out->positional[out->positional_count++] = argv[i];
    }
  }
  NP_TRY(check_count(out));
out:
  return st;
}

const char *np_cli_value(const np_cli_options *options, const char *key, const char *missing) {
  size_t length = strlen(key);
  for (int i = options->own_count - 1; i >= 0; i--)
    if (!strncmp(options->own[i], key, length) && options->own[i][length] == '=') return options->own[i] + length + 1;
  return missing;
}

np_status np_cli_integer(const np_cli_options *options, const char *key, int64_t least, int64_t most, int64_t *out) {
  const char *text = np_cli_value(options, key, NULL);
  char *end;
  if (!text) return NP_OK;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (end == text || *end || errno || value < least || value > most)
    return np_error(NP_ERR_ARGUMENT, "%s: %s=%s: expected a whole number from %lld to %lld", options->usage->name, key,
                    text, (long long)least, (long long)most);
  *out = value;
  return NP_OK;
}

np_status np_cli_number(const np_cli_options *options, const char *key, double least, double most, double *out) {
  const char *text = np_cli_value(options, key, NULL);
  char *end;
  if (!text) return NP_OK;
  double value = strtod(text, &end);
  if (end == text || *end || !(value >= least && value <= most) || !isfinite(value))
    return np_error(NP_ERR_ARGUMENT, "%s: %s=%s: expected a number from %g to %g", options->usage->name, key, text,
                    least, most);
  *out = value;
  return NP_OK;
}

bool np_cli_flag(const np_cli_options *options, const char *flag) {
  for (int i = 0; i < options->own_count; i++)
    if (!strncmp(options->own[i], "--", 2) && !strcmp(options->own[i] + 2, flag)) return true;
  return false;
}

static void forget(np_cli_options *options) {
  free(options->positional);
  free(options->overrides);
  free(options->own);
  *options = (np_cli_options){0};
}

np_status np_cli_run(const np_cli_usage *usage, int argc, char **argv,
                     np_status (*body)(const np_cli_options *options)) {
  np_cli_options options;
  np_status st;
  NP_TRY(parse(usage, argc, argv, &options));
  if (!options.help) st = body(&options);
out:
  forget(&options);
  return st;
}
