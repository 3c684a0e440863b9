/* The golden cases: computed by the official code, they are the judge of correctness (README of the cases' folder).
 *
 * Each function runs one case folder, reads every size from its case.json, prints what disagrees, and returns 0 when
 * all agree. */
#ifndef NP_TESTS_GOLDEN_H
#define NP_TESTS_GOLDEN_H

#include "ops/ops.h"
#include "recipe/recipe.h"

int golden_pretrain(const char *folder);
int golden_probe(const char *folder);
int golden_transforms(const char *folder);

/* ---- backend.c: what the cases run on ---- */

/* Before the first case; NP_BACKEND_CUDA fails, with the message, where no GPU can be used. */
np_status golden_backend(np_backend backend);
/* Opened; the CUDA backend beside `beside` (NULL: alone), on the same device. */
np_status golden_ops(np_dtype act, np_ops *beside, np_ops **out);
bool golden_has_bf16(void);

#endif
