/* Private to this room: the weights that a new run begins with, drawn from its seed or those of run.init. */
#ifndef NP_TRAIN_BEGIN_H
#define NP_TRAIN_BEGIN_H

#include "model/params.h"
#include "recipe/recipe.h"
#include "util/safetensors.h"

#include <stdint.h>

typedef struct np_begin {
  char *path; /* NULL: drawn */
  np_safetensors *file;
  uint64_t hash; /* of all weights, once they were read */
} np_begin;

/* Before anything is taken: the file is there and whole. `tell`: say which it is, and warn where it was trained with
 * another model section than the recipe's, of which shapes tell nothing. */
np_status np_begin_open(const np_recipe *recipe, bool tell, np_begin *out);
void np_begin_close(np_begin *begin);

/* weights [params->total] on the host. A file without a pixel head leaves that as it is drawn. */
np_status np_begin_weights(np_begin *begin, const np_recipe *recipe, const np_params *params, float *weights);

#endif
