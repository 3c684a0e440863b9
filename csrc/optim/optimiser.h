/* AdamW with clipping by the global norm, over the flat buffers of np_params.
 *
 * The step is torch.optim.AdamW's (Loshchilov & Hutter, arXiv 1711.05101: decay apart from the gradient, multiplied by
 * the learning rate) after torch.nn.utils.clip_grad_norm_. Matrices decay; biases, gains and tables do not. */
#ifndef NP_OPTIM_OPTIMISER_H
#define NP_OPTIM_OPTIMISER_H

#include "model/model.h"
#include "ops/ops.h"
#include "recipe/recipe.h"
#include "util/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct np_optimiser np_optimiser;

/* Take both moments on the device, zeroed; the step count is 0. pieces: what of the parameters is updated, and has
 * moments here; NULL: everything. `ops` must outlive the optimiser; the rest is copied. */
np_status np_optimiser_create(np_ops *ops, const np_params *params, const np_pieces *pieces,
                              const np_recipe_optim *config, np_optimiser **out);
void np_optimiser_destroy(np_optimiser *optimiser); /* NULL is fine */

/* From here on every parameter decays, as the released probe trains its head. */
void np_optimiser_decay_all(np_optimiser *optimiser);

/* What a step works on: device buffers of params->total elements, float32 but for `low`; with several pieces `weights`
 * holds those alone where there is a `low`. The gaps of grads hold zeros. */
typedef struct np_optimised {
  float *weights;
  const float *grads;
  void *low; /* act copy of the weights; NULL: none */
} np_optimised;
np_optimised np_optimised_model(np_model *model);

/* Queue one step at learning rate `lr`; the host does not wait. Where the gradient's norm is not finite nothing
 * changes, the step count neither. */
np_status np_optimiser_step(np_optimiser *optimiser, const np_optimised *what, double lr);
/* The same in two, where ranks have pieces: norm leaves the rank's share of the norm's square in *squares, device, of
 * which update expects the sum over ranks. */
np_status np_optimiser_norm(np_optimiser *optimiser, const np_optimised *what, double **squares);
np_status np_optimiser_update(np_optimiser *optimiser, const np_optimised *what, double lr);

/* Before the first step: a step that changes nothing, of a gradient whose norm is not finite. So the backend takes what
 * memory a step needs; and where it records, the step is recorded, and replayed for these same buffers from then on. */
np_status np_optimiser_prepare(np_optimiser *optimiser, const np_optimised *what);

/* What became of the step queued last. */
typedef struct np_step_outcome {
  double grad_norm; /* L2, before clipping */
  bool applied;
  int64_t steps; /* applied so far: the t of the bias correction */
} np_step_outcome;

/* Read it late, by a slot of np_ops.fetch: fetch is queued behind the step, arrive waits for it and not for what was
 * queued since. Or at once: read waits for the device. */
np_status np_optimiser_fetch(np_optimiser *optimiser, int slot);
np_status np_optimiser_arrive(np_optimiser *optimiser, int slot, np_step_outcome *out);
np_status np_optimiser_read(np_optimiser *optimiser, np_step_outcome *out);

/* First and second moments from and to the host, [params->total] each: what a checkpoint holds. set takes what is
 * not NULL. Where ranks have pieces it takes this rank's; get is NP_ERR_ARGUMENT, for it has not the others'. */
np_status np_optimiser_get(np_optimiser *optimiser, float *first, float *second);
np_status np_optimiser_set(np_optimiser *optimiser, const float *first, const float *second, int64_t steps);
/* On the device, as they are kept. */
const float *np_optimiser_first(const np_optimiser *optimiser);
const float *np_optimiser_second(const np_optimiser *optimiser);

#endif
