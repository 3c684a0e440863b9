/* Which backend and precision a recipe gets on this machine, and the backend opened. */
#ifndef NP_OPS_CHOOSE_H
#define NP_OPS_CHOOSE_H

#include "ops/ops.h"
#include "recipe/recipe.h"

typedef struct np_ops_choice {
  np_backend backend; /* CPU or CUDA */
  np_dtype act;
  int threads;       /* of the CPU backend, at least 1; a caller may set it before opening */
  char hardware[80]; /* "cpu, avx2, oneDNN 2.6.3 AVX2", "cuda, NVIDIA H200": what bits may depend on, for the record */
  size_t memory;     /* of the GPU, in bytes; 0 on the CPU */
  char why[192];     /* this backend, and not the other one */
} np_ops_choice;

/* Opens nothing. backend auto: the GPU when this build has CUDA operators and one can be used, else the CPU; precision
 * auto: bf16 where the hardware multiplies it natively, as every GPU here does. NP_ERR_ARGUMENT, with
 * what is allowed, for what this build or machine lacks: nothing falls back silently. */
np_status np_ops_choose(const np_recipe *recipe, np_ops_choice *out);
/* Opens what was chosen. */
np_status np_ops_open(const np_recipe *recipe, const np_ops_choice *choice, np_ops **out);
/* A float32 table of the same backend as `beside`, which stays the caller's: memory of one may be used with the other.
 */
np_status np_ops_open_f32(const np_recipe *recipe, np_ops *beside, np_ops **out);

/* Says which backend and precision run, and why. */
void np_ops_announce(const np_recipe *recipe, const np_ops_choice *choice);

/* "fp32" or "bf16". */
static inline const char *np_precision_name(np_dtype act) { return act == NP_BF16 ? "bf16" : "fp32"; }

#endif
