/* The learning rate as a function of the step. */
#ifndef NP_OPTIM_SCHEDULE_H
#define NP_OPTIM_SCHEDULE_H

#include <stdint.h>

/* Linear from lr_start to lr over the first warmup·steps steps, then half a cosine from lr to lr_end over the rest,
 * each reparametrised to its own span (model.md, "Training"; a composite of two fvcore schedulers in the released
 * code). */
typedef struct np_schedule {
  double lr, lr_start, lr_end; /* peak, first, last */
  double warmup;               /* share of all steps, 0..1 */
  int64_t steps;               /* of the whole run, at least 1 */
} np_schedule;

/* Learning rate of step `step` = 0 .. steps-1; lr_end is what step `steps` would have. */
double np_schedule_lr(const np_schedule *schedule, int64_t step);

#endif
