/* Launchers are told by their environment. */
#include "unit/temp.h"

#include "dist/launch.h"

static const char *const names[] = {"RANK",        "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                    "PMI_RANK",    "PMI_SIZE",   "SLURM_PROCID",         "SLURM_STEP_NUM_TASKS",
                                    "SLURM_NTASKS"};

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
    assert_error(np_launch_single("probe"), NP_ERR_ARGUMENT, "started 8 processes");
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(by_hand, forget),
      cmocka_unit_test_setup(each_launcher, forget),
      cmocka_unit_test_setup(batch_script, forget),
      cmocka_unit_test_setup(nonsense, forget),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
