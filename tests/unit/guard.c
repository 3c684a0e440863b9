/* What a resumed run says when its bits will not be those of a run without a break. */
#include "unit/temp.h"

#include "train/guard.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static const np_checkpoint_state cpu = {.hardware = "cpu, avx512, oneDNN AVX-512", .threads = 2, .micro_batch = 8};
static const np_checkpoint_state gpu = {
    .hardware = "cuda, some GPU", .attention = "hopper", .threads = 2, .micro_batch = 8};

/* Going on with `now` from `then` warns in one line that holds `what`; NULL: not at all. */
static void assert_warned(void **state, np_checkpoint_state now, np_checkpoint_state then, const char *what) {
  char *path = np_path_join(*state, "log"), *text = NULL;
  size_t size = 0;
  int kept = dup(STDERR_FILENO), file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(file, STDERR_FILENO);
  np_guard_warn(&now, &then);
  dup2(kept, STDERR_FILENO);
  close(kept);
  close(file);
  assert_ok(np_file_read(path, 1 << 16, &text, &size));
  bool one = size > 0 && strchr(text, '\n') == text + size - 1;
  if (what ? !one || !strstr(text, what) || !strstr(text, "not the same bits") : size > 0)
    fail_msg("wanted %s, got '%s'", what ? what : "nothing", text);
  free(text);
  free(path);
}

static np_checkpoint_state on(np_checkpoint_state as, const char *hardware) {
  snprintf(as.hardware, sizeof as.hardware, "%s", hardware);
  return as;
}

static np_checkpoint_state attending(const char *attention) {
  np_checkpoint_state as = gpu;
  snprintf(as.attention, sizeof as.attention, "%s", attention);
  return as;
}

static np_checkpoint_state of_threads(np_checkpoint_state as, int threads) {
  as.threads = threads;
  return as;
}

static void what_changes_bits_is_told(void **state) {
  np_checkpoint_state micro = cpu, sharded = cpu;
  micro.micro_batch = 4;
  sharded.sharded = true;
  assert_warned(state, on(cpu, "cpu, avx2, oneDNN AVX2"), cpu,
                "computes on cpu, avx2, oneDNN AVX2, the checkpoint was made on cpu, avx512, oneDNN AVX-512");
  assert_warned(state, on(cpu, "cpu, avx512, oneDNN AVX-512 AMX"), cpu, "made on cpu, avx512, oneDNN AVX-512:");
  assert_warned(state, cpu, gpu, "made on cuda, some GPU");
  assert_warned(state, gpu, on(cpu, "cpu"), "made on cpu:");
  assert_warned(state, on(gpu, "cuda, another GPU"), gpu, "computes on cuda, another GPU");
  assert_warned(state, attending("portable"), gpu, "attention: portable, the checkpoint was made with hopper");
  assert_warned(state, of_threads(cpu, 1), cpu, "1 threads, the checkpoint was made with 2");
  assert_warned(state, micro, cpu, "micro-batches of 4");
  assert_warned(state, sharded, cpu, "train.shard: optim, the checkpoint was made with none");
  assert_warned(state, cpu, sharded, "train.shard: none, the checkpoint was made with optim");
  micro.ranks = 8; /* which explains the other */
  assert_warned(state, micro, cpu, "8 ranks, the checkpoint was made with 0");
}

static void what_does_not_is_not(void **state) {
  assert_warned(state, cpu, cpu, NULL);
  assert_warned(state, gpu, gpu, NULL);
  assert_warned(state, of_threads(gpu, 1), gpu, NULL);
}

/* A checkpoint of an older program does not say which instruction sets or attention kernels it was made with. */
static void the_unknown_is_not_told(void **state) {
  assert_warned(state, cpu, on(cpu, "cpu"), NULL);
  assert_warned(state, of_threads(cpu, 1), on(cpu, "cpu"), "1 threads");
  assert_warned(state, gpu, attending(""), NULL);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, temp_setup, temp_teardown)
  const struct CMUnitTest tests[] = {TEST(what_changes_bits_is_told), TEST(what_does_not_is_not),
                                     TEST(the_unknown_is_not_told)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
