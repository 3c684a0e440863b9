/* Runs that begin with the weights of others. */
#include "system/work.h"

#include "system/result.h"

#include "checkpoint/checkpoint.h"
#include "util/safetensors.h"

#include <stdbool.h>

static const char recipe[] =
    "threads: 1\n"
    "precision: fp32\n"
    "model: {image_size: [16, 16], patch_size: 4, width: 32, blocks: 2, heads: 2, head_width: 32, "
    "head_blocks: 1}\n"
    "train: {steps: 4, batch: 8}\n";

#define TRAIN(run, ...)                                                                                                \
  np_run((const char *const[]){NP_PROGRAM, "pretrain", "recipe.yaml", "data.train=images/train", "run.dir=" run,       \
                               __VA_ARGS__, NULL},                                                                     \
         &result)
/* One step that changes no weight: what is saved is what the run began with. */
#define STAND "train.steps=1", "optim.lr=0", "optim.lr_start=0"
#define FIRST "first/checkpoints/step-00000004/" NP_CHECKPOINT_MODEL

static int make_work(void **state) {
  if (work_make(state, recipe, "val=4", "size=16") != 0) return -1;
  TRAIN("first", "seed=1");
  if (result.exit_code != 0) fprintf(stderr, "%s", result.err);
  return result.exit_code;
}

/* Whether the first weights of `run` are those of the file `like`, by part of the model. */
static void assert_begins_like(const char *run, const char *like, bool trunk, bool head) {
  np_safetensors *a, *b;
  char *path = np_format("%s/checkpoints/step-00000001/" NP_CHECKPOINT_MODEL, run);
  assert_ok(np_safetensors_open(path, &a));
  assert_ok(np_safetensors_open(like, &b));
  for (int i = 0; i < np_safetensors_count(a); i++) {
    const np_tensor *x = np_safetensors_at(a, i), *y = np_safetensors_find(b, x->name);
    const bool of_head = strncmp(x->name, "head.", 5) == 0, matrix = x->ndim > 1; /* vectors begin alike */
    if (of_head ? !head : !trunk) {
      if (matrix && y && x->bytes == y->bytes) assert_memory_not_equal(x->data, y->data, x->bytes);
      continue;
    }
    if (!y || x->bytes != y->bytes || memcmp(x->data, y->data, x->bytes) != 0)
      fail_msg("%s: %s is not that of %s", run, x->name, like);
  }
  np_safetensors_close(a);
  np_safetensors_close(b);
  free(path);
}

/* A run, one of its checkpoints, a file: the same weights, and a new optimiser, schedule and counting. */
static void with_all(void **state) {
  (void)state;
  TRAIN("run", STAND, "run.init=first");
  assert_done();
  assert_non_null(strstr(result.err, "weights: those of '" FIRST "'\n"));
  assert_begins_like("run", FIRST, true, true);
  TRAIN("folder", STAND, "run.init=first/checkpoints/step-00000004");
  assert_done();
  assert_begins_like("folder", FIRST, true, true);
  TRAIN("file", STAND, "run.init=" FIRST, "model.image_size=[24, 24]"); /* positions are a table of the grid */
  assert_done();
  assert_null(strstr(result.err, "warning: "));
  assert_begins_like("file", FIRST, true, true);
  TRAIN("drawn", STAND, "seed=1");
  assert_done();
  assert_begins_like("drawn", FIRST, false, false);
}

/* Which alone has a new head: the one a run draws that has no weights to begin with. */
static void with_trunk(void **state) {
  (void)state;
  np_run((const char *const[]){NP_PROGRAM, "probe", "first", "data=images", "out=probe.safetensors", "probe.epochs=1",
                               "probe.batch=8", "probe.lr=[0.01]", "probe.weight_decay=[0.1]", NULL},
         &result);
  assert_done();
  TRAIN("trunk", STAND, "run.init=probe.safetensors", "seed=7", "model.head_width=48");
  assert_done();
  assert_non_null(strstr(result.err, "'probe.safetensors', which has no pixel head: that is drawn from the seed\n"));
  assert_null(strstr(result.err, "warning: "));
  assert_begins_like("trunk", FIRST, true, false);
  TRAIN("seven", STAND, "seed=7", "model.head_width=48");
  assert_done();
  assert_begins_like("trunk", "seven/checkpoints/step-00000001/" NP_CHECKPOINT_MODEL, false, true);
}

/* Once it has a checkpoint of its own a run goes on from that, whatever is at run.init. */
static void goes_on(void **state) {
  (void)state;
#define ON "checkpoint.every=1", "checkpoint.keep_last=9"
  TRAIN("whole", ON, "run.init=first");
  assert_done();
  assert_int_equal(system("mkdir on && cp -r whole/run.json whole/checkpoints on && cd on/checkpoints && "
                          "rm -r step-00000003 step-00000004"),
                   0);
  TRAIN("on", ON, "run.init=gone");
  assert_done();
  assert_non_null(strstr(result.err, "going on from 'on/checkpoints/step-00000002', not from run.init"));
  assert_same_files("whole/checkpoints/step-00000004/" NP_CHECKPOINT_MODEL,
                    "on/checkpoints/step-00000004/" NP_CHECKPOINT_MODEL);
  char *record;
  size_t size;
  assert_ok(np_file_read("on/run.json", 1 << 20, &record, &size)); /* what it began with */
  assert_non_null(strstr(record, "\"path\":\t\"" FIRST "\""));
  assert_non_null(strstr(record, "\"weights_xxh3_64\":"));
  free(record);
}

static void what_shapes_do_not_tell(void **state) {
  (void)state;
  TRAIN("heads", STAND, "run.init=first", "model.heads=4", "model.norm_eps=1e-6");
  assert_done();
  assert_non_null(strstr(result.err, "was trained with model.heads: 2, this run has heads: 4"));
  assert_non_null(strstr(result.err, "was trained with model.norm_eps: 1e-05, this run has norm_eps: 1e-06"));
}

static void refused(void **state) {
  (void)state;
  TRAIN("no", "run.init=nowhere");
  assert_failed(2, "run.init: cannot open model 'nowhere'");
  TRAIN("no", "run.init=images");
  assert_failed(2, "run.init: 'images' holds no model");
  TRAIN("no", "run.init=first", "model.width=48");
  assert_failed(1, "run.init: " FIRST ": tensor head.decoder_projection.weight has shape [32, 32]; the recipe's model "
                   "expects [32, 48]");
  assert_null(strstr(result.err, "warning: "));
  assert_int_equal(system("cp " FIRST " nan.safetensors && printf '\\377\\377\\377\\377' | dd of=nan.safetensors bs=1 "
                          "seek=$(($(stat -c %s nan.safetensors) - 4)) conv=notrunc 2>/dev/null"),
                   0);
  TRAIN("no", "run.init=nan.safetensors");
  assert_failed(1, "is not finite");
  TRAIN("no", "run.init=recipe.yaml");
  assert_failed(1, "run.init: 'recipe.yaml': a header of");
  assert_int_equal(system("cp -r first broken && printf x | dd of=broken/checkpoints/step-00000004/model.safetensors "
                          "bs=1 seek=4000 conv=notrunc 2>/dev/null"),
                   0);
  TRAIN("no", "run.init=broken");
  assert_failed(1, "is damaged");
  assert_int_not_equal(access("no/checkpoints", F_OK), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(with_all), cmocka_unit_test(with_trunk),
      cmocka_unit_test(goes_on),  cmocka_unit_test(what_shapes_do_not_tell),
      cmocka_unit_test(refused),
  };
  return cmocka_run_group_tests(tests, make_work, work_remove);
}
