/* The golden cases: computed by the official code, they are the judge of correctness (README of the cases' folder).
 *
 * Each function runs one case folder, reads every size from its case.json, prints what disagrees, and returns 0 when
 * all agree. */
#ifndef NP_TESTS_GOLDEN_H
#define NP_TESTS_GOLDEN_H

int golden_pretrain(const char *folder);
int golden_probe(const char *folder);
int golden_transforms(const char *folder);

#endif
