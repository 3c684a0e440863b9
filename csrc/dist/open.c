#include "dist/open.h"

#include "ops/cuda.h"
#include "util/log.h"
#include "util/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static np_status share_machine(const np_recipe *recipe, const np_launch *l, np_recipe *out) {
  const int cores = np_machine_cores();
  *out = *recipe;
  if (l->world > 1 && out->threads == 0 && !np_machine_bound())
    out->threads = cores > l->local_world ? cores / l->local_world : 1;
  if (out->backend == NP_BACKEND_CPU) return NP_OK;
  return np_launch_device(l, out->device, np_cuda_device_count(), &out->device);
}

static void take_name(const np_launch *l) {
  char name[32];
  if (l->world == 1) return;
  snprintf(name, sizeof name, "rank %d", l->rank);
  np_log_set_name(name);
  if (l->rank > 0) np_log_set_level(NP_LOG_WARNING);
}

np_status np_ranks_open(const np_recipe *recipe, const np_launch *launch, np_ops_choice *choice, np_ops **ops,
                        np_comm **comm) {
  np_status st = NP_OK;
  np_recipe here; /* borrows strings */
  *ops = NULL;
  *comm = NULL;
  take_name(launch);
  NP_TRY(share_machine(recipe, launch, &here));
  NP_TRY(np_ops_choose(&here, choice));
  NP_TRY(np_ops_open(&here, choice, ops));
  st = np_comm_open(launch, *ops, recipe->run.patience, comm);
out:
  return st;
}

static np_status hash_recipe(const np_recipe *recipe, int64_t *out) {
  char *text;
  np_status st = np_recipe_dump_common(recipe, &text);
  if (st != NP_OK) return st;
  *out = (int64_t)XXH3_64bits(text, strlen(text));
  free(text);
  return NP_OK;
}

np_status np_ranks_compare(np_comm *comm, const np_recipe *recipe, np_dtype act) {
  np_status st = NP_OK;
  int64_t hash = 0;
  NP_TRY(np_comm_settle(comm, hash_recipe(recipe, &hash)));
  NP_TRY(np_comm_same(comm, "the recipe", hash));
  NP_TRY(np_comm_same(comm, "precision", act));
out:
  return st;
}
