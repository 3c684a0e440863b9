/* Runs on tar files beside runs on the same images in class folders. */
#include "system/work.h"

#include "system/result.h"

#include "checkpoint/checkpoint.h"
#include "data/dataset.h"

#include <fcntl.h>
#include <signal.h>

static const char recipe[] =
    "threads: 1\n"
    "precision: fp32\n"
    "model: {image_size: [16, 16], patch_size: 4, width: 32, blocks: 2, heads: 2, head_width: 32, head_blocks: 1}\n"
    "train: {steps: 40, batch: 8, log_every: 1}\n"
    "checkpoint: {every: 20}\n"
    "probe: {epochs: 1, batch: 16, lr: [1.0e-2], weight_decay: [0.1], log_every: 1}\n";

#define RUN(...) np_run((const char *const[]){NP_PROGRAM, __VA_ARGS__, NULL}, &result)

#define MODEL(run) run "/checkpoints/step-00000040/" NP_CHECKPOINT_MODEL

static int make_work(void **state) {
  if (work_make(state, recipe, "val=10", "size=16") != 0) return -1;
  RUN("synth", "shards", "classes=4", "train=40", "val=10", "size=16", "shards=3");
  if (result.exit_code == 0) RUN("pretrain", "recipe.yaml", "data.train=images/train", "run.dir=files");
  if (result.exit_code == 0) RUN("pretrain", "recipe.yaml", "data.train=shards/train", "run.dir=tars");
  if (result.exit_code != 0) fprintf(stderr, "%s", result.err);
  return result.exit_code;
}

/* synth cuts its images into tars in order, so each class is in the same order as in its folder: the same run. */
static void trains_alike(void **state) {
  (void)state;
  RUN("pretrain", "recipe.yaml", "data.train=shards/train", "run.dir=tars");
  assert_done();
  assert_non_null(strstr(result.err, "'tars' is complete"));
  assert_non_null(strstr(result.err, "40 images in 3 tar files of 'shards/train'"));
  assert_same_files(MODEL("files"), MODEL("tars"));
}

/* Stopped in the middle, and begun again behind the checkpoint of step 20: the same end. */
static void resumes(void **state) {
  (void)state;
  assert_ok(np_folder_remove("tars/checkpoints/step-00000040"));
  RUN("pretrain", "recipe.yaml", "data.train=shards/train", "run.dir=tars", "run.resume=must");
  assert_done();
  assert_non_null(strstr(result.err, "going on from 'tars/checkpoints/step-00000020'"));
  assert_same_files(MODEL("files"), MODEL("tars"));
}

/* The run knows its images by the names of tars and members: other ones are refused, the same ones elsewhere taken. */
static void other_shards_are_refused(void **state) {
  (void)state;
  assert_int_equal(system("cp -r shards other && cp -r shards moved && mv other/train/00001.tar other/train/1.tar"), 0);
  RUN("pretrain", "recipe.yaml", "data.train=other/train", "run.dir=tars");
  assert_failed(2, "other images");
  RUN("pretrain", "recipe.yaml", "data.train=images/train", "run.dir=tars");
  assert_failed(2, "other images");
  RUN("pretrain", "recipe.yaml", "data.train=moved/train", "run.dir=tars");
  assert_done();
  /* Another name inside a tar, of the same length. */
  assert_int_equal(
      system("rm -r other && cp -r shards other && mkdir in && tar -xf other/train/00001.tar -C in && "
             "mv in/disc/00016.png in/disc/00017.png && tar --sort=name -cf other/train/00001.tar -C in ."),
      0);
  RUN("pretrain", "recipe.yaml", "data.train=other/train", "run.dir=tars");
  assert_failed(2, "40 files, then 40, with other names");
}

/* An image damaged inside its tar is left out and named; a tar cut off is refused before the run begins. */
static void damage(void **state) {
  np_dataset *set;
  char *text;
  size_t size;
  int64_t end = 0;
  (void)state;
  assert_int_equal(system("cp -r shards spoilt"), 0);
  assert_ok(np_dataset_open("spoilt/train", true, &set));
  const np_sample *s = &set->samples[5];
  assert_int_equal(s->shard, 1);
  char *expected = np_format("spoilt/train/00001.tar:%s: ", s->path);
  int file = open("spoilt/train/00001.tar", O_WRONLY);
  assert_int_equal(pwrite(file, "damaged", 7, s->offset), 7);
  close(file);
  for (int i = 0; i < set->count; i++) /* inside a member of the last tar */
    if (set->samples[i].shard == 2 && set->samples[i].label == 0) end = set->samples[i].offset + 100;
  np_dataset_close(set);
  RUN("pretrain", "recipe.yaml", "data.train=spoilt/train", "run.dir=spoilt_run", "data.max_bad_share=0.5");
  assert_done();
  assert_non_null(strstr(result.err, expected));
  assert_ok(np_file_read("spoilt_run/bad_images.txt", 1 << 16, &text, &size));
  assert_int_equal(strncmp(text, expected, strlen(expected)), 0);
  free(expected);
  free(text);
  assert_int_equal(truncate("spoilt/train/00002.tar", end), 0);
  RUN("pretrain", "recipe.yaml", "data.train=spoilt/train", "run.dir=cut_run");
  assert_failed(1, "spoilt/train/00002.tar' is cut off: ");
  assert_int_not_equal(access("cut_run", F_OK), 0);
}

/* The same rows; beside them the members' names, from which those of the files follow. */
static void features_agree(void **state) {
  char *text, *names = NULL;
  size_t size;
  (void)state;
  RUN("features", "files", "images/val", "out=f.npy");
  assert_done();
  RUN("features", "files", "shards/val", "out=t.npy");
  assert_done();
  assert_same_files("f.npy", "t.npy");
  assert_int_equal(system("sed 's,^shards/val/0000[0-2].tar:,images/val/,' t.txt | cmp - f.txt"), 0);
  RUN("features", "files", "shards/val/00001.tar", "out=one.npy");
  assert_done();
  assert_ok(np_file_read("one.txt", 1 << 16, &text, &size));
  int lines = 0;
  for (char *line = strtok_r(text, "\n", &names); line; line = strtok_r(NULL, "\n", &names), lines++)
    assert_int_equal(strncmp(line, "shards/val/00001.tar:", 21), 0);
  assert_int_equal(lines, 3);
  free(text);
}

/* A folder of shards and two single tars are sets of two parts, as two folders are. */
static void probe_eval_and_report(void **state) {
  (void)state;
  assert_int_equal(system("mkdir two && tar --sort=name -cf two/train.tar -C images/train . && "
                          "tar --sort=name -cf two/val.tar -C images/val ."),
                   0);
  static const char *const sets[][4] = {
      {"data=images", "out=0.safetensors", "0.safetensors", "json=0.eval"},
      {"data=shards", "out=1.safetensors", "1.safetensors", "json=1.eval"},
      {"data=two", "out=2.safetensors", "2.safetensors", "json=2.eval"},
  };
  for (int i = 0; i < 3; i++) {
    RUN("probe", "files", sets[i][0], sets[i][1]);
    assert_done();
    assert_same_files("0.safetensors", sets[i][2]);
    RUN("eval", "0.safetensors", sets[i][0], sets[i][3]);
    assert_done();
  }
  assert_int_equal(system("for i in 0 1 2; do grep -v '\"data\":' $i.eval >$i && cmp 0 $i || exit 1; done"), 0);
  RUN("probe", "files", "data=two/val");
  assert_failed(2, "has neither val/ nor test/");
  RUN("eval", "0.safetensors", "data=shards/val/00000.tar");
  assert_failed(2, "classes");
  RUN("report", "tars", "out=r.html");
  assert_done();
  assert_int_equal(system("grep -q 'images of shards/val' r.html"), 0);
  RUN("report", "tars", "images=two/val.tar", "out=r.html");
  assert_done();
  assert_int_equal(system("grep -q 'data:image/png' r.html"), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(trains_alike), cmocka_unit_test(resumes),        cmocka_unit_test(other_shards_are_refused),
      cmocka_unit_test(damage),       cmocka_unit_test(features_agree), cmocka_unit_test(probe_eval_and_report),
  };
  return cmocka_run_group_tests(tests, make_work, work_remove);
}
