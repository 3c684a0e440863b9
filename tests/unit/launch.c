/* Launchers are told by their environment. */
#include "unit/temp.h"

#include "dist/launch.h"

#include <stdio.h>

static const char *const names[] = {"RANK",
                                    "WORLD_SIZE",
                                    "LOCAL_RANK",
                                    "LOCAL_WORLD_SIZE",
                                    "OMPI_COMM_WORLD_RANK",
                                    "OMPI_COMM_WORLD_SIZE",
                                    "OMPI_COMM_WORLD_LOCAL_RANK",
                                    "OMPI_COMM_WORLD_LOCAL_SIZE",
                                    "PMI_RANK",
                                    "PMI_SIZE",
                                    "SLURM_PROCID",
                                    "SLURM_STEP_NUM_TASKS",
                                    "SLURM_STEP_TASKS_PER_NODE",
                                    "SLURM_NODEID",
                                    "MPI_LOCALRANKID",
                                    "CUDA_VISIBLE_DEVICES",
                                    "SLURM_LOCALID",
                                    "SLURM_NTASKS",
                                    "MASTER_ADDR",
                                    "MASTER_PORT",
                                    "TORCHELASTIC_RUN_ID",
                                    "TORCHELASTIC_USE_AGENT_STORE"};

static int forget(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
  return 0;
}

static void by_hand(void **state) {
  np_launch launch;
  (void)state;
  assert_ok(np_launch_detect(&launch));
  assert_true(launch.rank == 0 && launch.world == 1 && !launch.launcher);
  assert_ok(np_launch_single("probe"));
}

static void each_launcher(void **state) {
  static const struct {
    const char *launcher, *rank, *world;
  } cases[] = {{"torchrun", "RANK", "WORLD_SIZE"},
               {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
               {"mpirun", "PMI_RANK", "PMI_SIZE"},
               {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}};
  np_launch launch;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    forget(state);
    setenv(cases[i].rank, "3", 1);
    setenv(cases[i].world, "8", 1);
    assert_ok(np_launch_detect(&launch));
    assert_string_equal(launch.launcher, cases[i].launcher);
    assert_true(launch.rank == 3 && launch.world == 8);
    assert_error(np_launch_single("probe"), NP_ERR_ARGUMENT, "started 8 processes, and 'probe' runs in one");
    setenv(cases[i].rank, "0", 1);
    setenv(cases[i].world, "1", 1);
    assert_ok(np_launch_single("probe"));
  }
}

/* A batch script's own environment: the program runs once, whatever was allocated. */
static void batch_script(void **state) {
  (void)state;
  setenv("SLURM_PROCID", "0", 1);
  setenv("SLURM_NTASKS", "16", 1);
  assert_ok(np_launch_single("probe"));
}

static void nonsense(void **state) {
  np_launch launch;
  (void)state;
  setenv("WORLD_SIZE", "4", 1);
  assert_error(np_launch_detect(&launch), NP_ERR_ARGUMENT, "without RANK");
  setenv("RANK", "4", 1);
  assert_error(np_launch_detect(&launch), NP_ERR_ARGUMENT, "below the number");
  setenv("RANK", "-1", 1);
  assert_error(np_launch_detect(&launch), NP_ERR_ARGUMENT, "RANK='-1'");
  setenv("RANK", "1x", 1);
  assert_error(np_launch_detect(&launch), NP_ERR_ARGUMENT, "RANK='1x'");
}

/* ---- places on a machine ---- */

static void local_places(void **state) {
  np_launch launch;
  (void)state;
  setenv("RANK", "11", 1), setenv("WORLD_SIZE", "16", 1);
  setenv("LOCAL_RANK", "3", 1), setenv("LOCAL_WORLD_SIZE", "8", 1);
  assert_ok(np_launch_detect(&launch));
  assert_true(launch.local_rank == 3 && launch.local_world == 8 && !launch.mpi);
  forget(state);
  setenv("SLURM_PROCID", "2", 1), setenv("SLURM_STEP_NUM_TASKS", "4", 1), setenv("SLURM_LOCALID", "2", 1);
  setenv("SLURM_STEP_TASKS_PER_NODE", "4", 1), setenv("SLURM_NODEID", "0", 1);
  assert_ok(np_launch_detect(&launch));
  assert_true(launch.local_rank == 2 && launch.local_world == 4);
  setenv("SLURM_STEP_TASKS_PER_NODE", "8(x3),2,5(x2)", 1);
  static const int tasks[] = {8, 8, 8, 2, 5, 5, 1}; /* behind the list: not told */
  for (int node = 0; node < 7; node++) {
    char text[8];
    snprintf(text, sizeof text, "%d", node);
    setenv("SLURM_NODEID", text, 1);
    assert_ok(np_launch_detect(&launch));
    assert_int_equal(launch.local_world, tasks[node]);
  }
  setenv("PMI_RANK", "2", 1), setenv("PMI_SIZE", "4", 1); /* srun --mpi=pmi2 */
  assert_ok(np_launch_detect(&launch));
  assert_true(!strcmp(launch.launcher, "srun") && !launch.mpi && launch.local_rank == 2);
  setenv("MPI_LOCALRANKID", "1", 1); /* MPICH's mpirun, inside a step */
  assert_ok(np_launch_detect(&launch));
  assert_true(!strcmp(launch.launcher, "mpirun") && launch.mpi && launch.local_rank == 1);
  unsetenv("PMI_RANK"), unsetenv("PMI_SIZE");
  setenv("SLURM_LOCALID", "two", 1);
  assert_error(np_launch_detect(&launch), NP_ERR_ARGUMENT, "SLURM_LOCALID='two'");
}

static void devices(void **state) {
  np_launch alone = {.world = 1, .local_world = 1},
            third = {.rank = 10, .world = 16, .local_rank = 2, .local_world = 8};
  int device;
  (void)state;
  assert_ok(np_launch_device(&alone, -1, 8, &device));
  assert_int_equal(device, -1); /* the first */
  assert_ok(np_launch_device(&alone, 5, 8, &device));
  assert_int_equal(device, 5);
  assert_ok(np_launch_device(&third, -1, 8, &device));
  assert_int_equal(device, 2);
  assert_error(np_launch_device(&third, -1, 1, &device), NP_ERR_ARGUMENT, "8 ranks on a machine that shows 1 GPU");
  setenv("CUDA_VISIBLE_DEVICES", "2", 1);
  assert_ok(np_launch_device(&third, -1, 1, &device)); /* the launcher shows it its own alone */
  assert_int_equal(device, 0);
  assert_error(np_launch_device(&third, -1, 2, &device), NP_ERR_ARGUMENT, "shows 2 GPUs: start one process a GPU");
  assert_error(np_launch_device(&third, 1, 8, &device), NP_ERR_ARGUMENT, "device: 1: the 8 ranks of this machine");
}

static void addresses(void **state) {
  np_launch here = {.launcher = "srun", .world = 4, .local_world = 4}, wide = here;
  char text[NP_LAUNCH_ADDRESS];
  wide.local_world = 2;
  assert_ok(np_launch_address(&here, text));
  assert_string_equal(text, "127.0.0.1:29500");
  assert_error(np_launch_address(&wide, text), NP_ERR_ARGUMENT, "set MASTER_ADDR");
  setenv("MASTER_ADDR", "node7", 1), setenv("MASTER_PORT", "31000", 1);
  assert_ok(np_launch_address(&wide, text));
  assert_string_equal(text, "node7:31000");
  setenv("MASTER_ADDR", "fd00::7", 1);
  assert_ok(np_launch_address(&wide, text));
  assert_string_equal(text, "[fd00::7]:31000");
  setenv("MASTER_ADDR", "node7", 1);
  wide.launcher = "torchrun"; /* whose own store listens there */
  setenv("TORCHELASTIC_RUN_ID", "none", 1), setenv("TORCHELASTIC_USE_AGENT_STORE", "True", 1);
  assert_ok(np_launch_address(&wide, text));
  assert_string_equal(text, "node7:31001");
  setenv("MASTER_PORT", "65535", 1);
  assert_error(np_launch_address(&wide, text), NP_ERR_ARGUMENT, "MASTER_PORT='65535'");
  forget(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(by_hand, forget),      cmocka_unit_test_setup(each_launcher, forget),
      cmocka_unit_test_setup(batch_script, forget), cmocka_unit_test_setup(nonsense, forget),
      cmocka_unit_test_setup(local_places, forget), cmocka_unit_test_setup(devices, forget),
      cmocka_unit_test_setup(addresses, forget),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
