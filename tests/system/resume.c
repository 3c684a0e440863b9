/* A run that is stopped and goes on: by signals, after damage, with other workers; and what may not go on. */
#include "system/work.h"

#include "system/result.h"

#include "checkpoint/checkpoint.h"
#include "data/dataset.h"
#include "ops/ops.h"
#include "train/metrics.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <time.h>

static const char recipe[] =
    "threads: 1\n"
    "precision: fp32\n"
    "model: {image_size: [16, 16], patch_size: 4, width: 32, blocks: 2, heads: 2, head_width: 32, "
    "head_blocks: 1}\n"
    "train: {steps: 200, batch: 8, log_every: 1}\n"
    "checkpoint: {every: 20, keep_last: 3}\n";
enum { STEPS = 200 };

/* pretrain in run folder `run` with these keys. */
#define TRAIN(run, ...)                                                                                                \
  np_run((const char *const[]){NP_PROGRAM, "pretrain", "recipe.yaml", "data.train=images/train", "run.dir=" run,       \
                               __VA_ARGS__, NULL},                                                                     \
         &result)

static void assert_same_end(const char *run) {
  char *whole = np_format("whole/checkpoints/step-%08d/" NP_CHECKPOINT_MODEL, STEPS);
  char *path = np_format("%s/checkpoints/step-%08d/" NP_CHECKPOINT_MODEL, run, STEPS);
  assert_same_files(whole, path);
  free(whole);
  free(path);
}

static int make_work(void **state) {
  if (work_make(state, recipe, "val=4", "size=16") != 0) return -1;
  TRAIN("whole", "data.workers=2");
  if (result.exit_code != 0) fprintf(stderr, "%s", result.err);
  return result.exit_code;
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); }

static int line_count(const char *run) {
  np_metric *lines;
  int count;
  assert_ok(np_metrics_read(run, &lines, &count));
  free(lines);
  return count;
}

/* A run's standard error is a pipe that nobody reads before `finish`: it stands still after some forty lines, a step
 * each, so that it is never done before the signal comes, however long this process has to wait for its turn. */
enum { PIPE_BYTES = 4096 };
static int said = -1;

/* Start a run, or go on with it, and wait until it has done a step. */
static pid_t start(const char *run) {
  char *dir = np_format("run.dir=%s", run);
  int status, ends[2], before = line_count(run);
  assert_int_equal(pipe(ends), 0);
  assert_true(fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) >= 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    execl(NP_PROGRAM, NP_PROGRAM, "pretrain", "recipe.yaml", "data.train=images/train", dir, (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  said = ends[0];
  while (line_count(run) <= before) {
    assert_int_equal(waitpid(child, &status, WNOHANG), 0);
    nap();
  }
  free(dir);
  return child;
}

/* Let it go on to its end; its exit status as waitpid gives it. */
static int finish(pid_t child) {
  char bytes[PIPE_BYTES];
  int status;
  while (read(said, bytes, sizeof bytes) > 0) continue;
  close(said);
  assert_int_equal(waitpid(child, &status, 0), child);
  return status;
}

static void stopped_by_signals(void **state) {
  static const int signals[] = {SIGTERM, SIGUSR1, SIGINT};
  int64_t *steps;
  int count, status;
  (void)state;
  for (int i = 0; i < 3; i++) {
    pid_t child = start("stopped");
    kill(child, signals[i]);
    status = finish(child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 75);
    assert_ok(np_checkpoint_list("stopped", &steps, &count));
    assert_true(count > 0);
    assert_int_equal(line_count("stopped"), steps[count - 1]); /* nothing was done that is not in the checkpoint */
    free(steps);
  }
  TRAIN("stopped", "run.resume=must");
  assert_done();
  assert_same_end("stopped");
  TRAIN("stopped", "run.resume=must");
  assert_done();
  assert_non_null(strstr(result.err, "'stopped' is complete"));
}

static void one_process_a_folder(void **state) {
  (void)state;
  pid_t child = start("locked");
  TRAIN("locked", "data.workers=1");
  assert_failed(1, "another process");
  kill(child, SIGKILL);
  finish(child);
  TRAIN("locked", "data.workers=1"); /* a killed process leaves no lock */
  assert_done();
  assert_same_end("locked");
}

/* ---- equal bits -------------------------------------------------------------------------------------------------- */

static void workers_and_logging_do_not_matter(void **state) {
  (void)state;
  TRAIN("workers", "data.workers=5", "data.prefetch=4", "train.log_every=50", "checkpoint.every=70");
  assert_done();
  assert_same_end("workers");
}

/* What the backward pass makes again is as free to change as where the run stands. */
static void recomputing_does_not_matter(void **state) {
  (void)state;
  pid_t child = start("recomputed");
  kill(child, SIGTERM);
  finish(child);
  TRAIN("recomputed", "train.recompute=gelu_norm", "train.steps=200", "run.resume=must");
  assert_done();
  assert_same_end("recomputed");
  TRAIN("blocks", "train.recompute=block");
  assert_done();
  assert_same_end("blocks");
}

/* Another instruction set: other sums, and the run says so when it goes on. */
static void another_instruction_set_is_told(void **state) {
  (void)state;
  TRAIN("isa", "train.log_every=50");
  assert_done();
  for (int generic = 0; generic < 2; generic++) {
    assert_ok(np_folder_remove("isa/checkpoints/step-00000200")); /* goes on from step 180 */
    if (generic) setenv("NEXTPATCH_ISA", "generic", 1);
    TRAIN("isa", "train.log_every=50");
    unsetenv("NEXTPATCH_ISA");
    assert_done();
    bool other = generic && strcmp(np_cpu_isa_name(), "generic") != 0;
    if (!strstr(result.err, "computes on cpu, generic, ") == other || !strstr(result.err, "not the same bits") == other)
      fail_msg("wanted %s: %s", other ? "a warning" : "none", result.err);
  }
}

/* Micro-batches: the same mathematics, so the same loss but for rounding. */
static void accumulation(void **state) {
  np_metric *whole, *cut;
  int count, cut_count;
  (void)state;
  TRAIN("micro", "train.micro_batch=2");
  assert_done();
  assert_ok(np_metrics_read("whole", &whole, &count));
  assert_ok(np_metrics_read("micro", &cut, &cut_count));
  assert_int_equal(count, cut_count);
  for (int i = 0; i < 20; i++)
    if (!(fabs(whole[i].loss - cut[i].loss) <= 1e-4 * whole[i].loss) ||
        !(fabs(whole[i].grad_norm - cut[i].grad_norm) <= 1e-3 * whole[i].grad_norm))
      fail_msg("step %d: loss %.9g, norm %.9g; in micro-batches %.9g, %.9g", i + 1, whole[i].loss, whole[i].grad_norm,
               cut[i].loss, cut[i].grad_norm);
  free(whole);
  free(cut);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

static void damaged_checkpoint(void **state) {
  int64_t *steps;
  int count;
  (void)state;
  pid_t child = start("damaged");
  do { /* until two checkpoints are there: forty steps */
    char line[PIPE_BYTES / 4];
    assert_true(read(said, line, sizeof line) > 0);
    assert_ok(np_checkpoint_list("damaged", &steps, &count));
    free(steps);
  } while (count < 2);
  kill(child, SIGKILL);
  finish(child);
  assert_ok(np_checkpoint_list("damaged", &steps, &count));
  char *path = np_format("damaged/checkpoints/step-%08d/" NP_CHECKPOINT_MOMENTS, (int)steps[count - 1]);
  assert_int_equal(truncate(path, 1000), 0);
  free(path);
  free(steps);
  TRAIN("damaged", "run.resume=auto");
  assert_failed(1, "optimizer.safetensors has 1000 bytes");
  TRAIN("damaged", "checkpoint.fallback=true");
  assert_done();
  assert_same_end("damaged");
}

/* Damaged images are counted over all starts of a run: their allowed share is the run's. */
static void damaged_images_count_on(void **state) {
  np_metric *lines;
  int count;
  int64_t bad[2];
  (void)state;
  np_run((const char *const[]){NP_PROGRAM, "synth", "spoilt", "classes=4", "train=40", "val=4", "size=16", NULL},
         &result);
  assert_done();
  np_dataset *dataset;
  assert_ok(np_dataset_open("spoilt/train", true, &dataset));
  assert_int_equal(truncate(dataset->samples[7].path, 0), 0);
  np_dataset_close(dataset);
  for (int start = 0; start < 2; start++) {
    if (start == 1) assert_ok(np_folder_remove("spoilt_run/checkpoints/step-00000200")); /* goes on from step 180 */
    TRAIN("spoilt_run", "data.train=spoilt/train", "data.max_bad_share=0.5");
    assert_done();
    assert_ok(np_metrics_read("spoilt_run", &lines, &count));
    assert_int_equal(count, STEPS);
    bad[start] = lines[count - 1].bad_images;
    free(lines);
  }
  assert_true(bad[0] > 2);
  assert_int_equal(bad[1], bad[0]);
}

/* One bit of the weights flipped: whoever reads them refuses. */
static void altered_weights(void **state) {
  (void)state;
  char *path = np_format("altered/checkpoints/step-%08d/" NP_CHECKPOINT_MODEL, 4);
  TRAIN("altered", "train.steps=4");
  assert_done();
  FILE *file = fopen(path, "r+b");
  assert_non_null(file);
  assert_int_equal(fseek(file, -3, SEEK_END), 0);
  int byte = fgetc(file);
  assert_int_equal(fseek(file, -3, SEEK_END), 0);
  assert_int_equal(fputc(byte ^ 1, file), byte ^ 1);
  fclose(file);
  free(path);
  np_run((const char *const[]){NP_PROGRAM, "features", "altered", "images/val", "out=f.npy", NULL}, &result);
  assert_failed(1, "model.safetensors was altered");
  assert_int_equal(access("f.npy", F_OK), -1);
  TRAIN("altered", "train.steps=4");
  assert_failed(1, "model.safetensors was altered");
}

/* Files may not grow beyond 8 KiB: the first checkpoint cannot be written. */
static void full_disk(void **state) {
  struct rlimit before, small;
  int64_t *steps;
  int count;
  (void)state;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = (struct rlimit){8192, before.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  TRAIN("full", "train.log_every=100");
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_failed(1, "model.safetensors': File too large");
  assert_ok(np_checkpoint_list("full", &steps, &count));
  assert_int_equal(count, 0);
  free(steps);
  TRAIN("full", "train.log_every=100");
  assert_done();
  assert_same_end("full");
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void another_recipe_is_refused(void **state) {
  (void)state;
  TRAIN("whole", "optim.lr=0.5", "model.width=64", "seed=9");
  assert_failed(2, "seed: 9 (was 0)");
  assert_non_null(strstr(result.err, "model.width: 64 (was 32)"));
  assert_non_null(strstr(result.err, "optim.lr: 0.5 (was 0.001)"));
  TRAIN("whole", "train.steps=300");
  assert_failed(2, "train.steps: 300 (was 200)");
  TRAIN("whole", "data.train=images/val");
  assert_failed(2, "other images");
  TRAIN("whole", "run.resume=never");
  assert_failed(2, "run.resume: never");
  TRAIN("nothing", "run.resume=must");
  assert_failed(2, "run.resume: must");
  TRAIN("whole", "checkpoint.every=3", "train.log_every=7", "data.workers=3", "train.max_bad_steps=2");
  assert_done();
}

static void what_cannot_run_is_refused(void **state) {
  (void)state;
  setenv("CUDA_VISIBLE_DEVICES", "", 1); /* where there is a GPU, too */
  TRAIN("refused", "backend=cuda");
  assert_failed(2, "backend: cuda: ");
  unsetenv("CUDA_VISIBLE_DEVICES");
  TRAIN("refused", "data.train=");
  assert_failed(2, "data.train is not set");
  TRAIN("refused", "data.train=absent");
  assert_failed(1, "absent");
  TRAIN("refused", "model.width=8192", "model.blocks=128", "model.heads=64");
  assert_failed(1, "of memory and this machine grants");
  setenv("RANK", "1", 1);
  setenv("WORLD_SIZE", "2", 1);
  TRAIN("refused", "seed=1");
  assert_failed(2, "MPI"); /* CPU ranks are mpirun's; or this build has none */
  setenv("WORLD_SIZE", "two", 1);
  TRAIN("refused", "seed=1");
  assert_failed(2, "WORLD_SIZE='two'");
  unsetenv("WORLD_SIZE");
  unsetenv("RANK");
  unsetenv("WORLD_SIZE");
  assert_int_not_equal(access("refused", F_OK), 0);
}

static void non_finite_steps_stop_the_run(void **state) {
  np_metric *lines;
  int count;
  (void)state;
  TRAIN("overflow", "optim.lr=1e6", "optim.lr_start=1e6", "optim.warmup=0", "optim.grad_clip=0",
        "optim.weight_decay=1e6", "train.max_bad_steps=4");
  assert_failed(1, "4 steps in a row");
  assert_ok(np_metrics_read("overflow", &lines, &count));
  assert_true(count > 0 && lines[count - 1].skipped_steps >= 3);
  free(lines);
  /* The count goes on where it stood: three in the last checkpoint, and the next one stops the run again. */
  const char *const again[] = {"optim.lr=1e6",      "optim.lr_start=1e6",     "optim.warmup=0",
                               "optim.grad_clip=0", "optim.weight_decay=1e6", "train.max_bad_steps=4",
                               "checkpoint.every=1"};
  for (int round = 0; round < 2; round++) {
    TRAIN("overflow_often", again[0], again[1], again[2], again[3], again[4], again[5], again[6]);
    assert_failed(1, "4 steps in a row");
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(stopped_by_signals),
      cmocka_unit_test(one_process_a_folder),
      cmocka_unit_test(workers_and_logging_do_not_matter),
      cmocka_unit_test(recomputing_does_not_matter),
      cmocka_unit_test(another_instruction_set_is_told),
      cmocka_unit_test(accumulation),
      cmocka_unit_test(damaged_checkpoint),
      cmocka_unit_test(damaged_images_count_on),
      cmocka_unit_test(altered_weights),
      cmocka_unit_test(full_disk),
      cmocka_unit_test(another_recipe_is_refused),
      cmocka_unit_test(what_cannot_run_is_refused),
      cmocka_unit_test(non_finite_steps_stop_the_run),
  };
  return cmocka_run_group_tests(tests, make_work, work_remove);
}
