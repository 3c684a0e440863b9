/* Which backend and precision a recipe gets on this machine. */
#ifndef NP_OPS_CHOOSE_H
#define NP_OPS_CHOOSE_H

#include "ops/ops.h"
#include "recipe/recipe.h"

/* The activation type: precision auto takes bf16 where the processor multiplies it natively. NP_ERR_ARGUMENT, with what
 * is allowed, for a backend this build lacks or a precision this processor lacks: nothing falls back silently. */
np_status np_ops_choose(const np_recipe *recipe, np_dtype *act);

/* "fp32" or "bf16". */
static inline const char *np_precision_name(np_dtype act) { return act == NP_BF16 ? "bf16" : "fp32"; }

#endif
