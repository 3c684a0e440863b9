#include "model/model.h"
#include "ops/attention_tiles.h"

double np_model_pairs(const np_recipe_model *config, const int prefix_range[2]) {
  double pairs = 0, lengths = prefix_range[1] - prefix_range[0] + 1;
  for (int S = prefix_range[0]; S <= prefix_range[1]; S++)
    pairs += np_attention_pairs(np_recipe_tokens(config), S) / lengths;
  return pairs;
}

static double mean_loss_tokens(double N, const int prefix_range[2]) {
  double tokens = 0, lengths = prefix_range[1] - prefix_range[0] + 1;
  for (int S = prefix_range[0]; S <= prefix_range[1]; S++) tokens += (N - (S > 0 ? S : 1)) / lengths;
  return tokens;
}

double np_model_flops(const np_recipe_model *c, const int prefix_range[2], bool all_tokens) {
  double N = np_recipe_tokens(c), D = c->width, E = c->head_width, values = np_recipe_patch_values(c),
         ratio = c->mlp_ratio;
  double head_tokens = all_tokens ? N : mean_loss_tokens(N, prefix_range);
  double trunk = N * (c->blocks * (4 + 2 * ratio) * D * D + values * D);
  trunk -= (N - head_tokens) * (1 + 2 * ratio) * D * D; /* projection and MLP of the last block */
  double head = head_tokens * (c->head_blocks * 2 * ratio * E * E + D * E + E * values);
  double attention = 2 * c->blocks * D * np_model_pairs(c, prefix_range); /* multiply-adds of q·k and of weights·v */
  return 2 * 3 * (trunk + head + attention); /* two per multiply-add; backward costs twice forward */
}

double np_model_recompute_flops(const np_recipe_model *c, const int prefix_range[2], np_recompute recompute) {
  if (recompute != NP_RECOMPUTE_BLOCK) return 0; /* norms and GELU: no product */
  double N = np_recipe_tokens(c), D = c->width, E = c->head_width, ratio = c->mlp_ratio;
  /* All products of a block but its last; of the last block, nothing. */
  double blocks = c->blocks - 1, head_blocks = c->head_blocks > 0 ? c->head_blocks - 1 : 0;
  double trunk = blocks * (N * (4 + ratio) * D * D + 2 * D * np_model_pairs(c, prefix_range));
  return 2 * (trunk + mean_loss_tokens(N, prefix_range) * head_blocks * ratio * E * E);
}

double np_model_recompute_bytes(const np_recipe_model *c, const int prefix_range[2], np_recompute recompute,
                                np_dtype act) {
  double tokens = np_recipe_tokens(c), loss_tokens = mean_loss_tokens(tokens, prefix_range);
  double D = c->width, E = c->head_width, gelu = 2 * c->mlp_ratio, blocks = c->blocks, head_blocks = c->head_blocks;
  double values = 0; /* a norm reads a row and writes one; with a branch to add two more */
  if (recompute == NP_RECOMPUTE_GELU_NORM) {
    values = ((blocks - 1) * tokens + loss_tokens) * (gelu + 2) * D + blocks * tokens * 2 * D +
             head_blocks * loss_tokens * (gelu + 2) * E;
  } else if (recompute == NP_RECOMPUTE_BLOCK) {
    double norms = c->head_block == NP_HEAD_L3M ? 2 + 4 : 2;
    values = (blocks - 1) * tokens * (gelu + 2 + 4) * D;
    if (head_blocks > 0) values += (head_blocks - 1) * loss_tokens * (gelu + norms) * E;
  }
  return values * (double)np_dtype_size(act);
}
