#include "util/nearest.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

enum { LONGEST = 63 }; /* longer words are nobody's typing error */

static int least(int a, int b) { return a < b ? a : b; }

/* Optimal string alignment distance; three rows are enough since a swap looks two rows back. */
int np_edits(const char *a, const char *b) {
  int rows[3][LONGEST + 1];
  if (strlen(a) > LONGEST || strlen(b) > LONGEST) return INT_MAX;
  const int a_length = (int)strlen(a), b_length = (int)strlen(b);
  for (int j = 0; j <= b_length; j++) rows[0][j] = j;
  for (int i = 1; i <= a_length; i++) {
    int *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
    row[0] = i;
    for (int j = 1; j <= b_length; j++) {
      int replace = above[j - 1] + (a[i - 1] != b[j - 1]);
      row[j] = least(replace, 1 + least(above[j], row[j - 1]));
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = least(row[j], above2[j - 2] + 1);
    }
  }
  return rows[a_length % 3][b_length];
}

const char *np_nearest(const char *word, const char *const *words, int count) {
  const char *best = NULL;
  int fewest = 4;
  size_t length = strlen(word);
  for (int i = 0; i < count; i++) {
    size_t other = strlen(words[i]), longer = length > other ? length : other;
    int distance = np_edits(word, words[i]);
    if (distance < fewest && 3 * (size_t)distance <= longer) {
      fewest = distance;
      best = words[i];
    }
  }
  return best;
}
