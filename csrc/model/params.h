/* The parameters of a model as one flat buffer, and the table that names its slices.
 *
 *   ├ matrices, pred … patchifier: as the backward pass finishes their gradients ┤├ vectors, likewise ┤
 *
 * Each begins at a multiple of 64 elements; the gaps hold zeros. Weights, gradients, both moments and the low-precision
 * copy share this layout, so the table serves them all. Matrices are nearly everything, decay, and may be kept in
 * pieces by several ranks (np_pieces); vectors, biases and gains, are few, and float32 wherever they are read. Names
 * are those of the published checkpoints (model.md, "Names"). */
#ifndef NP_MODEL_PARAMS_H
#define NP_MODEL_PARAMS_H

#include "recipe/recipe.h"
#include "util/safetensors.h"
#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum np_param_role { NP_PARAM_MATRIX, NP_PARAM_BIAS, NP_PARAM_GAIN } np_param_role;

typedef struct np_param {
  char name[72];
  int ndim;
  int64_t shape[4];
  int64_t rows, columns; /* a matrix as a linear layer sees it: [out, in]; a vector: [1, count] */
  int64_t offset, count; /* elements, in the flat buffer */
  np_param_role role;    /* only matrices decay */
} np_param;

typedef struct np_params {
  int count;
  np_param *items;                 /* layer by layer, as the backward pass goes: matrices and vectors in turn */
  int64_t total;                   /* elements of the flat buffer, gaps included */
  int64_t elements, head_elements; /* without the gaps: the model's size, and of it the pixel head's */
} np_params;

/* Elements that `count` of a parameter take in the flat buffer, gap included. */
enum { NP_PARAM_ALIGN = 64 }; /* 256 bytes of float32: a whole vector or DMA line in any precision */
static inline int64_t np_param_room(int64_t count) {
  return (count + NP_PARAM_ALIGN - 1) / NP_PARAM_ALIGN * NP_PARAM_ALIGN;
}

/* Lay out the trunk and, when asked, the pixel head. */
np_status np_params_layout(const np_recipe_model *model, bool with_head, np_params *out);
void np_params_free(np_params *params);
/* NULL when there is none of that name. */
const np_param *np_params_find(const np_params *params, const char *name);

/* Xavier uniform for matrices, 0 for biases, 1 for gains; gaps 0. Element i of parameter p depends on (seed, p's name's
 * place, i) alone. */
void np_params_init(const np_params *params, uint64_t seed, float *weights /* [total] */);

/* Fill weights from a file by name. Missing tensors and wrong shapes are errors that name them; tensors under "head."
 * are not asked for when the layout has no pixel head; other tensors the layout does not know are errors, too. `name`
 * stands in messages. */
np_status np_params_load(const np_params *params, const np_safetensors *file, const char *name, float *weights);
/* The same of the trunk alone: the pixel head's weights stay as they are, and tensors under "head." are not looked at.
 */
np_status np_params_load_trunk(const np_params *params, const np_safetensors *file, const char *name, float *weights);

/* Whether a file has a pixel head, or a trunk alone. */
bool np_params_head_in(const np_safetensors *file);

/* One np_tensor a parameter, pointing into `values` [total]; with `prefix` (NULL: none) before each name. The array and
 * its names are one malloc'ed block: free(*out). */
np_status np_params_tensors(const np_params *params, const float *values, const char *prefix, np_tensor **out);

/* Read the shapes of a published or own checkpoint into `model`: D, L, P, C, and with a pixel head E, M. What a file
 * cannot tell (image size, heads, eps, kind of head block) is left as it stands in `model`. */
np_status np_params_infer(const np_safetensors *file, const char *name, np_recipe_model *model, bool *has_head);

#endif
