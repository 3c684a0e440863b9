/* "did you mean": the known word closest to a mistyped one. */
#ifndef NP_UTIL_NEAREST_H
#define NP_UTIL_NEAREST_H

/* Single-character edits (insert, delete, replace, swap of neighbours) from one word to the other; INT_MAX where one is
 * longer than 63 bytes. */
int np_edits(const char *a, const char *b);

/* The word of `words` [count] with the fewest edits from `word`; NULL when none is near: more than a third of the
 * longer word's letters, or more than 3, would change. The first of equals. */
const char *np_nearest(const char *word, const char *const *words, int count);

#endif
