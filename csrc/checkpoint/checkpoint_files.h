/* What writing and reading of checkpoints share. */
#ifndef NP_CHECKPOINT_CHECKPOINT_FILES_H
#define NP_CHECKPOINT_CHECKPOINT_FILES_H

#include "checkpoint/checkpoint.h"
#include "ops/choose.h"

#include <cjson/cJSON.h>
#include <inttypes.h>

#define NP_CHECKPOINT_STEP "step-%08" PRId64 /* the name of a step's folder */
#define NP_MOMENT_FIRST    "exp_avg."        /* torch.optim.AdamW's names of its state */
#define NP_MOMENT_SECOND   "exp_avg_sq."

enum { NP_CHECKPOINT_FORMAT = 1, NP_HASH_TEXT = 33 };

/* Size and XXH3-128 (32 hexadecimal digits) of a file. */
np_status np_checkpoint_hash_file(const char *path, int64_t *bytes, char hash[NP_HASH_TEXT]);

/* XXH3-128 of the JSON's compact text: checkpoint.json carries that of the rest of itself. */
np_status np_checkpoint_hash_json(const cJSON *json, char hash[NP_HASH_TEXT]);

#endif
