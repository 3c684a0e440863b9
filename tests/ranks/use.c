/* What is done with a trained model by several processes: as one does it, but for rounding. Part of ranks.c's program.
 */
#include "ranks/bed.h"

/* ---- the probe --------------------------------------------------------------------------------------------------- */

#define PROBE(...)                                                                                                     \
  (const char *const[]) {                                                                                              \
    "probe", "whole", "data=images", BACKEND, "precision=fp32", "threads=1", "data.workers=1", "probe.batch=8",        \
        "probe.epochs=2", "probe.lr=[0.003]", "probe.weight_decay=[0.1]", "probe.warmup=0.1", __VA_ARGS__, NULL        \
  }

static double number_of(const char *path, const char *key) {
  char text[4096] = "", *at;
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  text[fread(text, 1, sizeof text - 1, file)] = 0;
  fclose(file);
  if (!(at = strstr(text, key))) fail_msg("%s has no %s: %s", path, key, text);
  return strtod(at + strlen(key), NULL);
}

/* What the first rank alone would write to is a folder: the other hears of it. */
static void refused_by_first(const char *const *words) {
  np_ranks r;
  np_ranks_start(&r, 2, words);
  np_ranks_wait(&r);
  for (int i = 0; i < r.count; i++) assert_int_not_equal(r.exit_code[i], 0);
  if (!strstr(r.err, "error: rank 0: ") || !strstr(r.err, "error: rank 1: rank 0 failed: its own line says why"))
    fail_msg("%s", r.err);
}

/* Heads are those of one process, but for rounding, and the same bits again; so are the scores, of however many ranks:
 * three of them share four images. */
void probed(void **state) {
  (void)state;
  expect(1, PROBE("out=head1.safetensors"), 0, NULL);
  expect(2, PROBE("out=head2.safetensors"), 0, NULL);
  expect(4, PROBE("out=head4.safetensors"), 0, NULL);
  expect(2, PROBE("out=again.safetensors"), 0, NULL);
  for (int n = 2; n <= 4; n += 2) {
    char *path = np_format("head%d.safetensors", n);
    const double most = difference_of("head1.safetensors", path);
    if (most > 2e-4) fail_msg("heads of %d ranks differ by %g", n, most);
    free(path);
  }
  assert_true(difference_of("head2.safetensors", "again.safetensors") == 0);
#define EVAL "eval", "head1.safetensors", "data=images", BACKEND, "precision=fp32", "threads=1"
  expect(1, (const char *const[]){EVAL, "json=score1.json", NULL}, 0, NULL);
  expect(3, (const char *const[]){EVAL, "json=score3.json", NULL}, 0, NULL);
  assert_true(number_of("score3.json", "\"images\":") == 4);
  assert_true(number_of("score1.json", "\"top1\":") == number_of("score3.json", "\"top1\":"));
  assert_true(fabs(number_of("score1.json", "\"loss\":") / number_of("score3.json", "\"loss\":") - 1) < 1e-5);
#define HELD_OUT "loss", "whole", BACKEND, "precision=fp32", "threads=1"
  expect(1, (const char *const[]){HELD_OUT, "data=images", "json=held1.json", NULL}, 0, NULL);
  expect(3, (const char *const[]){HELD_OUT, "data=images", "json=held3.json", NULL}, 0, NULL);
  assert_true(number_of("held3.json", "\"images\":") == 4);
  assert_true(number_of("held1.json", "\"targets\":") == number_of("held3.json", "\"targets\":"));
  assert_true(fabs(number_of("held1.json", "\"loss\":") / number_of("held3.json", "\"loss\":") - 1) < 1e-5);
  /* So many batches that the ranks meet on the way. */
  expect(1, (const char *const[]){HELD_OUT, "data=images/train", "batch=1", "json=held1.json", NULL}, 0, NULL);
  expect(2, (const char *const[]){HELD_OUT, "data=images/train", "batch=1", "json=held2.json", NULL}, 0, NULL);
  assert_true(number_of("held2.json", "\"images\":") == 40);
  assert_true(number_of("held1.json", "\"targets\":") == number_of("held2.json", "\"targets\":"));
  assert_true(fabs(number_of("held1.json", "\"loss\":") / number_of("held2.json", "\"loss\":") - 1) < 1e-5);
  /* Damaged images of one rank's part are some among those of all: 12 of 40 in the first half. */
  assert_int_equal(
      system("cp -r images/train half && for f in $(find half -name '*.png' | sort | head -n 12); do : >$f; "
             "done"),
      0);
  expect(2,
         (const char *const[]){"eval", "head1.safetensors", "data=half", BACKEND, "precision=fp32", "threads=1",
                               "data.max_bad_share=0.5", "json=half.json", NULL},
         0, NULL);
  assert_true(number_of("half.json", "\"images\":") == 28 && number_of("half.json", "\"damaged\":") == 12);
  expect(2,
         (const char *const[]){"eval", "head1.safetensors", "data=half", BACKEND, "precision=fp32", "threads=1", NULL},
         1, "12 of 40 images are damaged: more than the allowed share of 0.01");
  expect(3, PROBE("out=no.safetensors"), 2, "probe.batch: 8 among 3 ranks; expected a multiple of 3");
  refused_by_first(PROBE("out=images"));
  refused_by_first((const char *const[]){EVAL, "json=images", NULL});
}

/* Asked to stop through one rank alone, a probe stops behind the same step on all, and goes on in other numbers. */
void probe_stopped_and_gone_on(void **state) {
  np_ranks r;
  (void)state;
  expect(1, PROBE("out=long1.safetensors", LONG), 0, NULL);
  np_ranks_start(&r, 2, PROBE("out=long2.safetensors", LONG, "probe.save_every=2"));
  for (int i = 0; access("long2.progress", F_OK) != 0; i++) {
    if (i == 6000 || np_ranks_ended(&r)) {
      np_run_slurp(r.file, r.err, sizeof r.err);
      fail_msg("no progress in %d seconds: %s", i / 100, r.err);
    }
    nap(10);
  }
  kill(np_ranks_pid(&r, 1), SIGUSR1);
  np_ranks_wait(&r);
  for (int i = 0; i < r.count; i++)
    if (r.exit_code[i] != 75) fail_msg("exit status %d: %s", r.exit_code[i], r.err);
  assert_non_null(strstr(r.err, "stopped: rank 0: a signal to another rank after step"));
  expect(4, PROBE("out=long2.safetensors", LONG), 0, "going on from 'long2.progress'");
  const double most = difference_of("long1.safetensors", "long2.safetensors");
  if (most > 1e-3) fail_msg("heads differ by %g", most);
}

/* ---- features -----------------------------------------------------------------------------------------------------
 */

/* The same array but for rounding, and the same names, in both folders. */
static void assert_same_features(const char *const folders[2], size_t values) {
  char *bytes[2], *names[2];
  size_t size[2], length[2];
  for (int k = 0; k < 2; k++) {
    char *array = np_path_join(folders[k], "f.npy"), *list = np_path_join(folders[k], "f.txt");
    assert_ok(np_file_read(array, 1 << 24, &bytes[k], &size[k]));
    assert_ok(np_file_read(list, 1 << 24, &names[k], &length[k]));
    free(array);
    free(list);
  }
  enum { HEADER = 128 };
  assert_true(size[0] == size[1] && size[0] == HEADER + values * sizeof(float));
  assert_memory_equal(bytes[0], bytes[1], HEADER);
  const float *a = (const float *)(bytes[0] + HEADER), *b = (const float *)(bytes[1] + HEADER);
  for (size_t j = 0; j < values; j++) assert_true(fabs((double)a[j] - (double)b[j]) < 1e-4);
  assert_string_equal(names[0], names[1]);
  for (int k = 0; k < 2; k++) free(bytes[k]), free(names[k]);
}

#define BEGIN "pretrain", "recipe.yaml", "data.train=images/train", BACKEND, "run.dir=begun", "train.steps=4"

/* Of all images in their order, as one process writes them, and nothing beside. One of the four is damaged. */
void features(void **state) {
  (void)state;
  assert_int_equal(system("cp -r images/val odd && f=$(find odd -name '*.png' | sort | head -n 1) && : >$f"), 0);
#define FEATURES(...)                                                                                                  \
  (const char *const[]){"features",  "whole",   "odd",       BACKEND, "precision=fp32",                                \
                        "threads=1", "batch=2", __VA_ARGS__, NULL}
  expect(1, FEATURES("out=f1/f.npy"), 0, NULL);
  expect(3, FEATURES("out=f3/f.npy"), 0, NULL);
  assert_same_features((const char *const[2]){"f1", "f3"}, 3 * 64);
  expect(1, FEATURES("pool=none", "out=tokens1/f.npy"), 0, NULL);
  expect(4, FEATURES("pool=none", "out=tokens4/f.npy"), 0, NULL); /* one has no image that can be read */
  assert_same_features((const char *const[2]){"tokens1", "tokens4"}, 3 * 16 * 64);
  expect(3, FEATURES("data.max_bad_share=0", "out=f3/g.npy"), 1, "1 of 4 images are damaged: more than the allowed");
  assert_int_equal(system("test $(ls -A f3 | wc -l) = 2 && test $(ls -A tokens4 | wc -l) = 2"), 0);
  refused_by_first(FEATURES("out=images"));
  assert_int_equal(system("test $(ls -A | grep -c '^[.]images') = 0"), 0);
#ifdef NP_RANKS_MPI
  /* Two programs that were not told the same, or find another checkpoint; and what a job with more ranks has left. */
  np_run_result result;
#define ONE(...)  "-np", "1", NP_PROGRAM, __VA_ARGS__, "threads=1"
#define BOTH(...) np_run((const char *const[]){NP_MPIRUN, "--oversubscribe", __VA_ARGS__, NULL}, &result)
  BOTH(ONE("features", "whole", "odd", "out=f3/h.npy"), ":",
       ONE("features", "whole", "odd", "out=f3/h.npy", "pool=none"));
  if (result.exit_code != 2 || !strstr(result.err, "the ranks differ in pool")) fail_msg("%s", result.err);
  BOTH(ONE("loss", "whole", "data=images"), ":", ONE("loss", "whole/checkpoints/step-00000296", "data=images"));
  if (result.exit_code != 2 || !strstr(result.err, "the ranks differ in the weights")) fail_msg("%s", result.err);
  BOTH(ONE(BEGIN, "run.init=whole"), ":", ONE(BEGIN, "run.init=whole"));
  if (result.exit_code != 0) fail_msg("%s", result.err);
  assert_int_equal(system("touch f3/.f.npy.part3 f3/.f.txt.part3"), 0);
  expect(3, FEATURES("out=f3/f.npy"), 0, NULL);
  assert_int_equal(system("test $(ls -A f3 | wc -l) = 2"), 0);
#endif
}
