/* What the backward pass makes again (train.recompute) changes no bit of loss and gradients, and takes less memory. On
 * the CPU, on the emulated GPU (simt.model_recompute) and on a GPU (gpu.model_recompute). */
#include "unit/model_parts.h"

#include <math.h>
#include <stdio.h>

/* Two steps, the first of two micro-batches; what the second finds in the buffers is the first's. */
static const part two_steps[] = {
    {0, 2, false, true, {1, 7}}, {2, 1, true, false, {4}}, {0, 3, true, true, {N - 1, 2, N}}};

static void compare_recompute(np_dtype act, np_head_block block, int head_blocks, bool all_tokens, int recompute) {
  char what[80];
  np_recipe_model config = small;
  np_ops *ops[2];
  config.blocks = 3;
  config.head_blocks = head_blocks;
  config.head_block = block;
  for (int i = 0; i < 2; i++) ok(np_ops_cpu(act, 0, &ops[i]));
  bed *kept = make_on(ops[0], &config, (np_model_options){.all_tokens = all_tokens});
  bed *again =
      make_on(ops[1], &config, (np_model_options){.all_tokens = all_tokens, .recompute = (np_recompute)recompute});
  snprintf(what, sizeof what, "act %d, head block %d × %d, all tokens %d, recompute %d", act, block, head_blocks,
           all_tokens, recompute);
  for (size_t i = 0; i < sizeof two_steps / sizeof *two_steps; i++) {
    run_part(kept, &two_steps[i]);
    run_part(again, &two_steps[i]);
    compare(kept, again, what);
  }
  unmake(kept);
  unmake(again);
}

#ifdef NP_TEST_CUDA /* fewer forms of the model: it is the operators that are others */
enum { SIMPLEST = NP_HEAD_L3M, LEAST_BLOCKS = 3 };
#else
enum { SIMPLEST = NP_HEAD_MLP, LEAST_BLOCKS = 1 };
#endif

static void recomputing_changes_no_bit(void **state) {
  (void)state;
  for (int act = 0; act < 1 + np_cpu_has_bf16(); act++)
    for (int block = SIMPLEST; block <= NP_HEAD_L3M; block++)
      for (int head_blocks = LEAST_BLOCKS; head_blocks <= 3; head_blocks += 2)
        for (int all_tokens = 0; all_tokens < 2; all_tokens++)
          for (int recompute = NP_RECOMPUTE_GELU_NORM; recompute <= NP_RECOMPUTE_BLOCK; recompute++)
            compare_recompute(act ? NP_BF16 : NP_F32, (np_head_block)block, head_blocks, all_tokens, recompute);
}

/* Less and less memory, and the FLOPs that pay for it. */
static void recomputing_takes_less_memory(void **state) {
  (void)state;
  size_t before = SIZE_MAX;
  np_recipe_model config = small;
  config.blocks = config.head_blocks = 12;
  for (int recompute = NP_RECOMPUTE_NONE; recompute <= NP_RECOMPUTE_BLOCK; recompute++) {
    np_memory_plan plan;
    np_model_options options = {.batch = BATCH, .head = true, .train = true, .recompute = (np_recompute)recompute};
    ok(np_model_plan(&config, &options, NP_BF16, &plan));
    assert_true(plan.activations < before);
    before = plan.activations;
  }
  double forward = np_model_flops(&config, (int[]){1, N - 1}, false) / 3;
  double again = np_model_recompute_flops(&config, (int[]){1, N - 1}, NP_RECOMPUTE_BLOCK);
  assert_true(np_model_recompute_flops(&config, (int[]){1, N - 1}, NP_RECOMPUTE_GELU_NORM) == 0);
  assert_true(again > 0.4 * forward && again < forward);
}

/* An AIM-0.6B image, by hand: 256 tokens of 1536, 24 blocks; on average 128 loss tokens of 2048, 12 blocks. */
static void recomputing_moves_bytes(void **state) {
  (void)state;
  const int prefix[2] = {1, 255};
  const double trunk = 256.0 * 1536, last = 128.0 * 1536, head = 128.0 * 2048;
  /* two norms and a GELU, each read and written; of the last block the MLP's for the loss tokens alone */
  double by_hand = 2 * (23 * 12 * trunk + 2 * trunk + 10 * last + 12 * 10 * head);
  assert_true(fabs(np_model_recompute_bytes(&aim_600m, prefix, NP_RECOMPUTE_GELU_NORM, NP_BF16) - by_hand) < 1);
  assert_true(fabs(np_model_recompute_bytes(&aim_600m, prefix, NP_RECOMPUTE_GELU_NORM, NP_F32) - 2 * by_hand) < 1);
  /* all blocks but the last; norm_2 also adds the branch, and head blocks have norm_1 */
  by_hand = 2 * (23 * 14 * trunk + 11 * 14 * head);
  assert_true(fabs(np_model_recompute_bytes(&aim_600m, prefix, NP_RECOMPUTE_BLOCK, NP_BF16) - by_hand) < 1);
  assert_true(np_model_recompute_bytes(&aim_600m, prefix, NP_RECOMPUTE_NONE, NP_BF16) == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(recomputing_changes_no_bit),
                                     cmocka_unit_test(recomputing_takes_less_memory),
                                     cmocka_unit_test(recomputing_moves_bytes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
