/* "did you mean": the known word closest to a mistyped one. */
#ifndef NP_UTIL_NEAREST_H
#define NP_UTIL_NEAREST_H

/* The word of `words` [count] with the fewest single-character edits (insert, delete, replace, swap of neighbours) from
 * `word`; NULL when none is near: more than a third of the longer word's letters, or more than 3, would change. The
 * first of equals. */
const char *np_nearest(const char *word, const char *const *words, int count);

#endif
