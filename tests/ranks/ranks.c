/* Runs of several processes: the same training as one process does, stopped and gone on with, and what happens when one
 * of them fails. The same source three times: CPU ranks that mpirun starts (NP_RANKS_MPI), and GPU ranks that are
 * started as torchrun does, on the emulated GPU and an emulated NCCL, and on GPUs (NP_RANKS_GPU), which they share
 * where there are few. */
#include "ranks/bed.h"
#include "system/work.h"

#include "checkpoint/checkpoint.h"
#include "ops/ops.h"
#include "train/metrics.h"

#include <signal.h>
#include <sys/resource.h>

#ifdef NP_RANKS_GPU
char np_ranks_program[4096];
int np_ranks_gpus;
#endif

static const char recipe[] =
    "threads: 1\n"
    "precision: fp32\n"
    "model: {image_size: [16, 16], patch_size: 4, width: 64, blocks: 2, heads: 2, head_width: 32, "
    "head_blocks: 1}\n"
    "train: {steps: " TEXT(STEPS) ", batch: 8, log_every: 1}\n"
                                  "checkpoint: {every: 4, keep_last: 2}\n";

/* The words of a run in folder `dir`. */
#define TRAIN(dir, ...)                                                                                                \
  (const char *const[]) {                                                                                              \
    "pretrain", "recipe.yaml", "data.train=images/train", "data.workers=1", BACKEND, "run.dir=" dir, __VA_ARGS__, NULL \
  }

static int make_work(void **state) {
  if (work_make(state, recipe, "val=4", "size=16") != 0) return -1;
  expect(1, TRAIN("whole", "seed=0"), 0, NULL);
  return 0;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

/* The same of the last weights of two runs. */
static double difference(const char *run, const char *other) {
  char *a = np_format("%s/checkpoints/step-%08d/" NP_CHECKPOINT_MODEL, run, STEPS);
  char *b = np_format("%s/checkpoints/step-%08d/" NP_CHECKPOINT_MODEL, other, STEPS);
  const double most = difference_of(a, b);
  free(a);
  free(b);
  return most;
}

/* Every step's loss and gradient norm, and all weights in the end: those of one process, but for rounding. AdamW's
 * first steps divide gradients by themselves, which makes the most of it. */
static void assert_like_whole(const char *run) {
  np_metric *one, *many;
  int count[2];
  assert_ok(np_metrics_read("whole", &one, &count[0]));
  assert_ok(np_metrics_read(run, &many, &count[1]));
  assert_true(count[0] == STEPS && count[1] == STEPS);
  for (int i = 0; i < STEPS; i++) {
    if (fabs(one[i].loss - many[i].loss) > 1e-4 * one[i].loss ||
        fabs(one[i].grad_norm - many[i].grad_norm) > 1e-3 * one[i].grad_norm)
      fail_msg("step %d: loss %.9g and norm %.9g, one process has %.9g and %.9g", i + 1, many[i].loss,
               many[i].grad_norm, one[i].loss, one[i].grad_norm);
    assert_true(one[i].lr == many[i].lr);
  }
  free(one);
  free(many);
  double most = difference("whole", run);
  if (most > 2e-3) fail_msg("weights differ by %g", most);
}

static int line_count(const char *run) {
  np_metric *lines;
  int count;
  assert_ok(np_metrics_read(run, &lines, &count));
  free(lines);
  return count;
}

/* Start, and wait for some steps. A run that is to be stopped is a long one. */
static void start_and_wait(np_ranks *r, int world, const char *run, const char *const *words) {
  np_ranks_start(r, world, words);
  for (int i = 0; line_count(run) < 3; i++) {
    if (i == 6000 || np_ranks_ended(r)) {
      np_run_slurp(r->file, r->err, sizeof r->err);
      fail_msg("no step in %d seconds: %s", i / 100, r->err);
    }
    nap(10);
  }
}

/* ---- the same training ------------------------------------------------------------------------------------------- */

/* The run of two ranks that others are compared with: there after the first that asks. */
static void train_two(void) {
  if (access("two", F_OK) != 0) expect(2, TRAIN("two", "seed=0"), 0, NULL);
}

static void as_one(void **state) {
  (void)state;
  train_two();
  assert_like_whole("two");
  expect(4, TRAIN("four", "train.micro_batch=1"), 0, NULL);
  assert_like_whole("four");
  expect(2, TRAIN("again", "seed=0"), 0, NULL);
  assert_true(difference("two", "again") == 0);
}

/* Both files of the last checkpoints, to the bit. */
static void assert_equal_state(const char *run, const char *other, int step) {
  static const char *const files[] = {NP_CHECKPOINT_MODEL, NP_CHECKPOINT_MOMENTS};
  for (int i = 0; i < 2; i++) {
    char *a = np_format("%s/checkpoints/step-%08d/%s", run, step, files[i]),
         *b = np_format("%s/checkpoints/step-%08d/%s", other, step, files[i]);
    if (difference_of(a, b) != 0) fail_msg("%s and %s differ", a, b);
    free(a);
    free(b);
  }
}

/* Ranks that share out the optimiser's state train as those that do not; of two, whose sums have one order, to the bit.
 * With slices as small as they come there are several. */
static void sharded(void **state) {
#define SHARD "train.shard=optim", "train.slice_mb=0"
#define GAPS  "model.mlp_ratio=3", "model.head_width=20" /* matrices with gaps behind them */
  (void)state;
  train_two();
  expect(2, TRAIN("shared2", SHARD), 0, NULL);
  assert_equal_state("two", "shared2", STEPS);
  expect(4, TRAIN("shared4", SHARD), 0, "each keeps a part of the optimiser's state");
  assert_like_whole("shared4");
  expect(2, TRAIN("gaps2", GAPS), 0, NULL);
  expect(2, TRAIN("gaps_shared2", GAPS, SHARD), 0, NULL);
  assert_equal_state("gaps2", "gaps_shared2", STEPS);
#if defined(NP_RANKS_MPI) || defined(NP_RANKS_GPU) /* the emulated GPU is slow */
  expect(1, TRAIN("shared1", SHARD), 0, NULL);
  assert_equal_state("whole", "shared1", STEPS);
  expect(3, TRAIN("three", GAPS, "train.batch=9"), 0, NULL);
  expect(3, TRAIN("shared3", GAPS, "train.batch=9", SHARD), 0, NULL);
  const double most = difference("three", "shared3");
  if (most > 2e-3) fail_msg("weights differ by %g", most);
#endif
}

/* In bf16 float32 weights are shared out, too; also over a stop. */
static void sharded_low(void **state) {
  (void)state;
#ifdef NP_RANKS_MPI
  if (!np_cpu_has_bf16()) skip();
#endif
  expect(2, TRAIN("two16", "precision=bf16"), 0, NULL);
  expect(2, TRAIN("shared16", "precision=bf16", SHARD), 0, NULL);
  assert_equal_state("two16", "shared16", STEPS);
  assert_ok(np_folder_remove("shared16/checkpoints/step-000" LAST));
  expect(2, TRAIN("shared16", "precision=bf16", SHARD), 0, "going on from");
  assert_equal_state("two16", "shared16", STEPS);
}

#ifdef NP_RANKS_MPI
/* Gradients of several slices of 32 MiB and more: 76 MB of them. */
static void several_slices(void **state) {
  np_metric *one, *two;
  int count[2];
  (void)state;
#define LARGE "model.width=512", "model.heads=8", "model.blocks=6", "train.steps=4"
  expect(1, TRAIN("large1", LARGE), 0, NULL);
  expect(2, TRAIN("large2", LARGE), 0, NULL);
  expect(2, TRAIN("large3", LARGE, "train.shard=optim"), 0, NULL);
  assert_equal_state("large2", "large3", 4);
  assert_ok(np_metrics_read("large1", &one, &count[0]));
  assert_ok(np_metrics_read("large2", &two, &count[1]));
  assert_true(count[0] == 4 && count[1] == 4);
  for (int i = 0; i < 4; i++)
    if (fabs(one[i].loss - two[i].loss) > 1e-4 * one[i].loss ||
        fabs(one[i].grad_norm - two[i].grad_norm) > 1e-3 * one[i].grad_norm)
      fail_msg("step %d: loss %.9g and norm %.9g, one process has %.9g and %.9g", i + 1, two[i].loss, two[i].grad_norm,
               one[i].loss, one[i].grad_norm);
  free(one);
  free(two);
}
#endif

#ifdef NP_RANKS_MPI
/* Two programs in one run, which were not told the same. */
static void told_otherwise(const char *word, const char *what) {
  np_run_result result;
#define ONE NP_PROGRAM, "pretrain", "recipe.yaml", BACKEND, "run.dir=other", "data.train=images/train"
  np_run((const char *const[]){NP_MPIRUN, "--oversubscribe", "-np", "1", ONE, ":", "-np", "1", ONE, word, NULL},
         &result);
  if (what ? result.exit_code != 2 || !strstr(result.err, what) : result.exit_code != 0)
    fail_msg("%s: exit status %d: %s", word, result.exit_code, result.err);
  (void)np_folder_remove("other");
}

static void differing(void **state) {
  (void)state;
  told_otherwise("optim.lr=0.5", "the ranks differ in the recipe");
  told_otherwise("checkpoint.every=5", "the ranks differ in the recipe");
  told_otherwise("train.shard=optim", "the ranks differ in the recipe");
  told_otherwise("data.train=images/val", "the ranks differ in the images of data.train");
  told_otherwise("data.workers=2", NULL); /* each as it likes */
}
#endif

static void bench(void **state) {
  (void)state;
  expect(4, (const char *const[]){"bench", "allreduce", BACKEND, "most_mb=1", "runs=2", NULL}, 0, NULL);
  expect(3, (const char *const[]){"bench", "allreduce", BACKEND, "what=scatter", "most_mb=1", "runs=2", NULL}, 0, NULL);
  expect(3, (const char *const[]){"bench", "allreduce", BACKEND, "what=gather", "most_mb=1", "runs=2", NULL}, 0, NULL);
  expect(2, (const char *const[]){"bench", "allreduce", BACKEND, "what=it", NULL}, 2,
         "expected sum, scatter or gather");
  expect(1, (const char *const[]){"bench", "allreduce", BACKEND, NULL}, 2, "one process has nobody to sum with");
  expect(2, (const char *const[]){"bench", "allreduce", BACKEND, "most_mb=1", "least_kb=2000", NULL}, 2,
         "expected at most the largest slice");
}

/* Asked to stop through one rank alone, all stop behind the same step, and go on in other numbers. */
static void stopped_and_gone_on(void **state) {
  np_ranks r;
  (void)state;
  start_and_wait(&r, 2, "stopped", TRAIN("stopped", "train.shard=optim")); /* what they share out is put together */
  kill(np_ranks_pid(&r, 1), SIGUSR1);
  np_ranks_wait(&r);
  for (int i = 0; i < r.count; i++)
    if (r.exit_code[i] != 75) fail_msg("exit status %d: %s", r.exit_code[i], r.err);
  assert_non_null(strstr(r.err, "stopped: rank 0: a signal to another rank after step"));
  assert_non_null(strstr(r.err, "stopped: rank 1: User defined signal 1"));
  expect(4, TRAIN("stopped", "seed=0"), 0, "4 ranks, the checkpoint was made with 2");
  assert_like_whole("stopped");
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* A rank is killed: the others leave, and what they had is there. */
static void killed(void **state) {
  np_ranks r;
  (void)state;
  train_two();
  start_and_wait(&r, 2, "killed", TRAIN("killed", "run.patience=" PATIENCE, "checkpoint.every=1"));
  kill(np_ranks_pid(&r, 1), SIGKILL);
  np_ranks_wait(&r);
  for (int i = 0; i < r.count; i++) assert_int_not_equal(r.exit_code[i], 0);
  expect(2, TRAIN("killed", "train.shard=optim"), 0, "train.shard: optim, the checkpoint was made with none");
  assert_equal_state("two", "killed", STEPS);
}

/* A rank hangs: patience ends. */
static void stuck(void **state) {
  np_ranks r;
  (void)state;
  start_and_wait(&r, 2, "stuck", TRAIN("stuck", "run.patience=" PATIENCE, SHARD, "checkpoint.every=1"));
  kill(np_ranks_pid(&r, 1), SIGSTOP);
  np_ranks_wait_first(&r);
  assert_non_null(strstr(r.err, "error: rank 0: waited"));
  assert_non_null(strstr(r.err, "run.patience is " PATIENCE));
}

/* An image in the share of one rank alone breaks what the recipe allows: of the images of all, which all judge alike.
 */
static void damaged(void **state) {
  (void)state;
  assert_int_equal(system("cp -r images damaged && f=$(find damaged/train -name '*.png' | sort | head -n 1) && : >$f"),
                   0);
  np_ranks r;
  np_ranks_start(&r, 2,
                 (const char *const[]){"pretrain", "recipe.yaml", "data.train=damaged/train", BACKEND, "run.dir=bad",
                                       "data.max_bad_share=0", NULL});
  np_ranks_wait(&r);
  for (int i = 0; i < r.count; i++) assert_int_equal(r.exit_code[i], 1);
  const char *first = strstr(r.err, "error: rank 0: 1 of "), *second = strstr(r.err, "error: rank 1: 1 of ");
  if (!first || !second || !strstr(r.err, " images are damaged: more than the allowed share of 0"))
    fail_msg("%s", r.err);
  assert_int_equal(atoi(first + strlen("error: rank 0: 1 of ")) % 8, 0); /* batches of both */
}

/* Something goes wrong for the first rank alone, before the run and in it: the other hears of it. */
static void first_fails(void **state) {
  (void)state;
  assert_ok(np_folder_make("unready/metrics.jsonl")); /* a folder where a file should be */
  expect(2, TRAIN("unready", "seed=0"), 1, "rank 0 failed: its own line says why");
#ifdef NP_RANKS_MPI /* who reads what ranks say, so that the limit is not theirs */
  const struct rlimit none = {1, 1};
  np_ranks r;
  start_and_wait(&r, 2, "full", TRAIN("full", "checkpoint.every=1000"));
  assert_int_equal(prlimit(np_ranks_pid(&r, 0), RLIMIT_FSIZE, &none, NULL), 0);
  np_ranks_wait(&r);
  assert_int_equal(r.exit_code[0], 1);
  if (!strstr(r.err, "error: rank 0: cannot write") || !strstr(r.err, "error: rank 1: another rank failed"))
    fail_msg("%s", r.err);
  /* In the middle of a checkpoint, for which others give their part. */
  const struct rlimit few = {300000, 300000};
  start_and_wait(&r, 2, "fuller", TRAIN("fuller", "checkpoint.every=250", "train.shard=optim"));
  assert_int_equal(prlimit(np_ranks_pid(&r, 0), RLIMIT_FSIZE, &few, NULL), 0);
  np_ranks_wait(&r);
  assert_int_equal(r.exit_code[0], 1);
  if (!strstr(r.err, "error: rank 0: cannot write") || !strstr(r.err, "error: rank 1: rank 0 failed"))
    fail_msg("%s", r.err);
#endif
}

/* All decide alike that a step is not applied, and that there were too many. */
static void not_finite(void **state) {
  (void)state;
  expect(2,
         TRAIN("overflow", "optim.lr=1e6", "optim.lr_start=1e6", "optim.warmup=0", "optim.grad_clip=0",
               "optim.weight_decay=1e6", "train.max_bad_steps=2", "checkpoint.every=1000"),
         1, "error: rank 1: 2 steps in a row had a non-finite loss or gradient");
}

static void refused(void **state) {
  (void)state;
  expect(3, TRAIN("no", "seed=0"), 2, "train.batch: 8 among 3 ranks; expected a multiple of 3");
  expect(2, (const char *const[]){"complete", "whole", "images", NULL}, 2, "'complete' runs in one: start it once");
  expect(2, TRAIN("no", "data.train=nowhere"), 1, "error: rank 0: cannot read the folder");
  expect(2, TRAIN("whole", "optim.lr=1"), 2, "the recipe differs");
}

/* NAME: that test alone. */
int main(int argc, char **argv) {
#ifdef NP_RANKS_GPU
  const char *lack = np_ranks_lack(4);
  if (lack) {
    printf("skipped: %s\n", lack);
    return 77;
  }
#endif
  const struct CMUnitTest tests[] = {
#ifdef NP_RANKS_MPI
      cmocka_unit_test(several_slices),
      cmocka_unit_test(differing),
#endif
      cmocka_unit_test(bench),
      cmocka_unit_test(as_one),
      cmocka_unit_test(sharded),
      cmocka_unit_test(sharded_low),
      cmocka_unit_test(stopped_and_gone_on),
      cmocka_unit_test(killed),
      cmocka_unit_test(stuck),
      cmocka_unit_test(damaged),
      cmocka_unit_test(first_fails),
      cmocka_unit_test(not_finite),
      cmocka_unit_test(refused),
      cmocka_unit_test(probed),
      cmocka_unit_test(features),
      cmocka_unit_test(probe_stopped_and_gone_on),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, make_work, work_remove);
}
