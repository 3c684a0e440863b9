/* What a person meets first: help, version, doctor, and what happens to typing errors. */
#include "system/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static np_run_result result;

#define RUN(...) np_run((const char *const[]){NP_PROGRAM, __VA_ARGS__, NULL}, &result)

static const char *const commands[] = {"pretrain", "probe",   "eval",   "loss",  "features", "complete",
                                       "plan",     "inspect", "report", "synth", "bench",    "doctor"};
enum { COMMANDS = sizeof commands / sizeof *commands };

/* Exit status 2, nothing on standard output, one line on standard error that begins with "error: " and names `what`. */
static void assert_refused(const char *what) {
  if (result.exit_code != 2 || strncmp(result.err, "error: ", 7) || !strstr(result.err, what))
    fail_msg("wanted exit status 2 and one error line with '%s'; got %d and: %s", what, result.exit_code, result.err);
  assert_string_equal(result.out, "");
  assert_ptr_equal(strchr(result.err, '\n'), result.err + strlen(result.err) - 1);
}

static void help_of_every_command(void **state) {
  (void)state;
  RUN("--help");
  assert_int_equal(result.exit_code, 0);
  for (int i = 0; i < COMMANDS; i++) {
    char line[64];
    snprintf(line, sizeof line, "\n  %s ", commands[i]);
    assert_non_null(strstr(result.out, line));
  }
  for (int i = 0; i < COMMANDS; i++) {
    char example[64], usage[64];
    snprintf(usage, sizeof usage, "usage: nextpatch %s ", commands[i]);
    snprintf(example, sizeof example, "  nextpatch %s", commands[i]);
    RUN(commands[i], "--help");
    assert_int_equal(result.exit_code, 0);
    assert_string_equal(result.err, "");
    assert_int_equal(strncmp(result.out, usage, strlen(usage)), 0);
    const char *examples = strstr(result.out, "\nexamples:\n");
    if (!examples || !strstr(examples, example)) fail_msg("%s --help shows no example", commands[i]);
  }
}

/* --help is for somebody who is lost: it works whatever else stands on the line. */
static void help_wins(void **state) {
  (void)state;
  RUN("doctor", "--nonsense", "-h");
  assert_int_equal(result.exit_code, 0);
  assert_int_equal(strncmp(result.out, "usage: ", 7), 0);
}

static void version(void **state) {
  (void)state;
  RUN("--version");
  assert_int_equal(result.exit_code, 0);
  assert_int_equal(strncmp(result.out, "nextpatch 0.", 12), 0);
}

static void typing_errors(void **state) {
  (void)state;
  np_run((const char *const[]){NP_PROGRAM, NULL}, &result);
  assert_refused("needs a command");
  RUN("pretrian");
  assert_refused("did you mean 'pretrain'?");
  RUN("frobnicate");
  assert_refused("unknown command 'frobnicate'");
  RUN("doctor", "extra");
  assert_refused("unexpected argument 'extra'");
  RUN("doctor", "--jsno");
  assert_refused("did you mean --json?");
  RUN("doctor", "key=value");
  assert_refused("unknown key 'key'");
  for (int i = 0; i < COMMANDS; i++) {
    RUN(commands[i], "--nonsense");
    assert_refused("unknown option '--nonsense'");
    if (!strcmp(commands[i], "doctor")) continue;
    RUN(commands[i]);
    assert_refused("needs an argument");
  }
}

/* A recipe that cannot be: the line names the place, the key and what would be. */
static void wrong_recipes(void **state) {
  (void)state;
  const char *demo = NP_SOURCE_DIR "/recipes/demo.yaml";
  RUN("plan", demo, "model.widht=96");
  assert_refused("did you mean model.width?");
  RUN("plan", demo, "model.width=wide");
  assert_refused("model.width");
  RUN("plan", demo, "model.patch_size=5");
  assert_refused("model.patch_size");
  RUN("plan", demo, "gpus=0");
  assert_refused("gpus=0");
  RUN("pretrain", demo, "model.patch_size=32", "data.prefix=[0, 0]");
  assert_refused("demo.yaml:3: model.image_size: [32, 32] is one patch");
  RUN("bench", "step", NP_SOURCE_DIR "/recipes/demo.yaml", "model.patch_size=32");
  assert_refused("model.image_size: [32, 32] is one patch");
  RUN("plan", demo, "model.patch_size=32");
  assert_refused("model.image_size: [32, 32] is one patch");
  setenv("CUDA_VISIBLE_DEVICES", "", 1); /* where there is a GPU, too */
  RUN("pretrain", demo, "backend=cuda", "data.train=" NP_SOURCE_DIR, "run.dir=/nonexistent/run");
  assert_refused("backend: cuda: ");
  unsetenv("CUDA_VISIBLE_DEVICES");
  RUN("pretrain", demo);
  assert_refused("data.train");
}

static void doctor(void **state) {
  (void)state;
  RUN("doctor");
  assert_int_equal(result.exit_code, 0);
  assert_string_equal(result.err, "");
  const char *const lines[] = {"version",     "commit", "CUDA operators",  "NCCL",  "MPI", "cores", "instruction sets",
                               "other loops", "bf16",   "matrix products", "memory"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    char line[64];
    snprintf(line, sizeof line, "\n  %s ", lines[i]);
    if (!strstr(result.out, line)) fail_msg("doctor says nothing of %s", lines[i]);
  }
  RUN("doctor", "--json");
  assert_int_equal(result.exit_code, 0);
  assert_int_equal(result.out[0], '{');
}

static void assert_printed(const char *text) {
  assert_int_equal(result.exit_code, 0);
  if (!strstr(result.out, text)) fail_msg("no '%s' in: %s", text, result.out);
}

/* As on a processor without native bf16 products. */
static void bf16_that_is_not_there(void **state) {
  (void)state;
  setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1);
  RUN("bench", "step", NP_SOURCE_DIR "/recipes/demo.yaml", "backend=cpu", "precision=bf16");
  assert_refused(
      "precision: bf16: this processor has no native bf16 products (AVX512-BF16 or AMX); allowed: auto, fp32");
  RUN("doctor");
  assert_printed("no: precision auto takes fp32");
  unsetenv("ONEDNN_MAX_CPU_ISA");
}

/* The published model's size and model.md's 1.7 TFLOP an image; fp32 masters, gradients and two moments are 4, 4 and 8
 * bytes a parameter. */
static void plan(void **state) {
  (void)state;
  RUN("plan", NP_SOURCE_DIR "/recipes/aim_600m.yaml", "gpus=64", "tflops=100");
  assert_printed("680.54 M");
  assert_printed("1.69 TFLOP");
  assert_printed("gradients, fp32                        4.35 GB");
  assert_printed("moments, fp32                          8.70 GB");
  assert_printed("days on 64 ranks");
  assert_printed("train.recompute");
  assert_printed("gelu_norm");
  RUN("plan", NP_SOURCE_DIR "/recipes/aim_600m.yaml", "gpus=3");
  assert_refused("expected a multiple of 192");
}

static void bench(void **state) {
  (void)state;
  RUN("bench", "step", NP_SOURCE_DIR "/recipes/demo.yaml", "steps=2", "warmup=0", "--json", "train.batch=4");
  assert_printed("\"images_per_s\": ");
  assert_ptr_equal(strchr(result.out, '\n'), result.out + strlen(result.out) - 1);
  assert_printed("\"attention backward\": {\"s\": ");
  RUN("bench", "step", NP_SOURCE_DIR "/recipes/demo.yaml", "steps=1", "warmup=0", "profile=0", "train.batch=4",
      "--plans", "backend=cpu");
  assert_printed("backend: cpu has no plans to print");
  RUN("bench", "stairs", NP_SOURCE_DIR "/recipes/demo.yaml");
  assert_refused("allowed: allreduce, attention, ops, step");
  RUN("bench", "attention", "tokens=20,33", "head_width=16", "width=32", "rows=66", "rotate_mb=1", "precision=fp32",
      "--json");
  assert_printed("\"mask\": \"causal\", \"pass\": \"backward\"");
  int lines = 0;
  for (const char *at = result.out; (at = strchr(at, '\n')); at++) lines++;
  assert_int_equal(lines, 2 * 3 * 2); /* shapes × masks × passes, all on one version */
  RUN("bench", "attention", "tokens=20;33");
  assert_refused("separated by commas");
  RUN("bench", "attention", "--help");
  assert_printed("  nextpatch bench attention tokens=256");
  RUN("bench", "ops", "images=1", "parameters=1000", "runs=2", "rotate_mb=1", "model.width=48", "model.heads=2",
      "model.image_size=[28,42]");
  assert_printed("of copy");
  assert_printed("pixel_loss");
}

/* A result that could not be written is not a success. */
static void full_disk(void **state) {
  (void)state;
  int status = system(NP_PROGRAM " doctor >/dev/full 2>/dev/null");
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(help_of_every_command),
      cmocka_unit_test(help_wins),
      cmocka_unit_test(version),
      cmocka_unit_test(typing_errors),
      cmocka_unit_test(wrong_recipes),
      cmocka_unit_test(bf16_that_is_not_there),
      cmocka_unit_test(doctor),
      cmocka_unit_test(plan),
      cmocka_unit_test(bench),
      cmocka_unit_test(full_disk),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
