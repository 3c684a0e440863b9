/* A probe that is stopped or killed and goes on from OUT.progress: to the same bits; and what may not go on. */
#include "system/work.h"

#include "system/result.h"
#include "util/safetensors.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

/* A folder with a run, `run`, images/train and images/val, and an undisturbed probe, whole.safetensors. */
#define PROBE    "probe", "run", "data=images", "probe.batch=8", "probe.save_every=5", "probe.log_every=1"
#define RUN(...) np_run((const char *const[]){NP_PROGRAM, __VA_ARGS__, NULL}, &result)

static bool is_there(const char *path) {
  struct stat about;
  return stat(path, &about) == 0;
}

static const char recipe[] =
    "backend: cpu\nprecision: fp32\nthreads: 1\n"
    "model: {image_size: [16, 16], patch_size: 4, width: 32, blocks: 2, heads: 2, head_width: 32, head_blocks: 1}\n"
    "train: {steps: 2, batch: 8}\n"
    "probe: {epochs: 20, lr: [1.0e-3, 1.0e-2], weight_decay: [0.1]}\n";

static int make_work(void **state) {
  if (work_make(state, recipe, "val=8", "size=16") != 0) return -1;
  RUN("pretrain", "recipe.yaml", "data.train=images/train", "run.dir=run");
  if (result.exit_code == 0) RUN("pretrain", "recipe.yaml", "data.train=images/train", "run.dir=run2", "seed=7");
  if (result.exit_code == 0) RUN(PROBE, "out=whole.safetensors");
  if (result.exit_code != 0) fprintf(stderr, "%s", result.err);
  return result.exit_code;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); }

/* Its standard error is a pipe that nobody reads before `finish`: it stands still after some fifty of its 100 lines, so
 * that it is never done before the signal comes. Returns behind the first save. */
enum { PIPE_BYTES = 4096 };
static int said = -1;
static pid_t start(const char *name) {
  char *out = np_format("out=%s.safetensors", name), *progress = np_format("%s.progress", name);
  int status, ends[2];
  assert_int_equal(pipe(ends), 0);
  assert_true(fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) >= 0);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    execl(NP_PROGRAM, NP_PROGRAM, PROBE, out, (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  said = ends[0];
  while (!is_there(progress)) {
    assert_int_equal(waitpid(child, &status, WNOHANG), 0);
    nap();
  }
  free(out);
  free(progress);
  return child;
}

static int finish(pid_t child) {
  char bytes[PIPE_BYTES];
  int status;
  while (read(said, bytes, sizeof bytes) > 0) continue;
  close(said);
  assert_int_equal(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void stopped(void **state) {
  static const int signals[] = {SIGTERM, SIGUSR1, SIGINT};
  (void)state;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    const pid_t child = start("stopped");
    kill(child, signals[i]);
    assert_int_equal(finish(child), 75);
    assert_true(is_there("stopped.progress") && !is_there("stopped.safetensors"));
    RUN(PROBE, "out=stopped.safetensors");
    assert_done();
    assert_non_null(strstr(result.err, "going on from 'stopped.progress': step "));
    assert_same_files("whole.safetensors", "stopped.safetensors");
    assert_true(!is_there("stopped.progress"));
    assert_int_equal(unlink("stopped.safetensors"), 0);
  }
}

/* Steps done, by the file, and images drawn: a batch of them a step, since the very beginning. */
static long counted(const char *progress) {
  np_safetensors *file;
  assert_ok(np_safetensors_open(progress, &file));
  const long step = strtol(np_safetensors_metadata(file, "step"), NULL, 10);
  const int64_t *images = np_safetensors_find(file, "images")->data;
  assert_true(step > 0 && images[0] == 8 * step && images[1] == 0);
  np_safetensors_close(file);
  return step;
}

static void killed(void **state) {
  (void)state;
  pid_t child = start("killed");
  kill(child, SIGKILL);
  assert_int_equal(finish(child), -SIGKILL);
  const long before = counted("killed.progress");
  child = start("killed");
  while (counted("killed.progress") == before) nap();
  kill(child, SIGKILL);
  assert_int_equal(finish(child), -SIGKILL);
  RUN(PROBE, "out=killed.safetensors");
  assert_done();
  assert_non_null(strstr(result.err, "going on from 'killed.progress': step "));
  assert_same_files("whole.safetensors", "killed.safetensors");
}

/* What does not decide the heads may be another, and what may decide their last bits is told. */
static void other_circumstances(void **state) {
  (void)state;
  const pid_t child = start("elsewhere");
  kill(child, SIGKILL);
  (void)finish(child);
  RUN(PROBE, "out=elsewhere.safetensors", "threads=7", "data.workers=1", "data.prefetch=3", "data.max_bad_share=0.5",
      "train.log_every=3", "probe.save_every=0");
  assert_done();
  assert_non_null(strstr(result.err, "going on from 'elsewhere.progress': step "));
  assert_non_null(strstr(result.err, " threads, 1 ranks, this is cpu"));
}

/* A probe that came to nothing leaves nothing to go on from. */
static void not_finite(void **state) {
  (void)state;
  RUN(PROBE, "out=wild.safetensors", "probe.lr=[1e6]", "probe.warmup=0");
  assert_failed(1, "no head's outputs are finite");
  assert_true(!is_there("wild.progress") && !is_there("wild.safetensors"));
}

/* Nothing is computed that was not asked for, and what is there stays. */
static void refused(void **state) {
  (void)state;
  char *bytes;
  size_t size;
  const pid_t child = start("other");
  kill(child, SIGKILL);
  (void)finish(child);
  RUN(PROBE, "out=other.safetensors", "probe.batch=16");
  assert_failed(2, "'other.progress' is the progress of a probe with 'probe.batch: 8', here it is 'probe.batch: 16'");
  RUN(PROBE, "out=other.safetensors", "init=random");
  assert_failed(2, "with 'weights: ");
  RUN("probe", "run2", "data=images", "probe.batch=8", "out=other.safetensors");
  assert_failed(2, "with 'weights: ");
  assert_int_equal(rename("images/train/disc", "images/train/dusk"), 0);
  assert_int_equal(rename("images/val/disc", "images/val/dusk"), 0);
  RUN(PROBE, "out=other.safetensors");
  assert_failed(2, "with 'images: 40, ");
  assert_int_equal(rename("images/train/dusk", "images/train/disc"), 0);
  assert_int_equal(rename("images/val/dusk", "images/val/disc"), 0);
  assert_ok(np_file_read("other.progress", 1 << 24, &bytes, &size));
  bytes[size - 100] ^= 1;
  assert_ok(np_file_write("other.progress", bytes, size));
  RUN(PROBE, "out=other.safetensors");
  assert_failed(1, "'other.progress' is damaged: its bytes are not those that were written");
  assert_ok(np_file_write("other.progress", bytes, size / 2));
  free(bytes);
  RUN(PROBE, "out=other.safetensors");
  assert_failed(1, "'other.progress'");
  assert_int_equal(unlink("other.progress"), 0);
  assert_ok(np_file_read("whole.safetensors", 1 << 24, &bytes, &size));
  assert_ok(np_file_write("other.progress", bytes, size));
  free(bytes);
  RUN(PROBE, "out=other.safetensors");
  assert_failed(1, "'other.progress' is not the progress of a probe");
  assert_true(!is_there("other.safetensors"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(stopped), cmocka_unit_test(killed),
                                     cmocka_unit_test(other_circumstances), cmocka_unit_test(not_finite),
                                     cmocka_unit_test(refused)};
  return cmocka_run_group_tests(tests, make_work, work_remove);
}
