/* A probe between two of its steps, as a file beside what it will write: OUT.progress, which the same command goes on
 * from. */
#ifndef NP_PROBE_PROGRESS_H
#define NP_PROBE_PROGRESS_H

#include "model/attentive_head.h"
#include "optim/optimiser.h"
#include "probe/probe.h"

/* What there is to keep. Heads and optimisers: result->count of them; of the result the training losses. */
typedef struct np_probe_progress {
  const char *settings; /* all that decides what becomes of the heads, as YAML: another one is refused */
  const char *machine;  /* what the last bits may depend on besides: another one is warned of */
  int64_t step;         /* steps done */
  double seconds;       /* that they took */
  int64_t images[2];    /* drawn for them, and of these damaged */
  np_heads *heads;
  np_optimiser **optimisers;
  np_probe_result *result;
} np_probe_progress;

/* As np_safetensors_write: the old file or the whole new one. */
np_status np_probe_progress_write(const char *path, const np_probe_progress *progress);

/* Fill all but settings and machine from the file; step 0 where there is none. NP_ERR_ARGUMENT for the progress of
 * other settings, naming the first that differs; NP_ERR_FORMAT where it is damaged. */
np_status np_probe_progress_read(const char *path, np_probe_progress *progress);

#endif
