#include "optim/schedule.h"

#include <math.h>

double np_schedule_lr(const np_schedule *s, int64_t step) {
  double where = (double)step / (double)s->steps;
  if (where >= 1) return s->lr_end;
  if (where < s->warmup) return s->lr_start + (s->lr - s->lr_start) * (where / s->warmup);
  double along = (where - s->warmup) / (1 - s->warmup);
  return s->lr_end + 0.5 * (s->lr - s->lr_end) * (1 + cos(acos(-1.0) * along));
}
