#include "model/model.h"

/* Means over the prefix range: pairs of query and key that the mask allows, and loss tokens. */
typedef struct work {
  double pairs, loss_tokens;
} work;

static work mean_work(double N, const int prefix_range[2]) {
  work w = {0};
  double lengths = prefix_range[1] - prefix_range[0] + 1;
  for (int S = prefix_range[0]; S <= prefix_range[1]; S++) {
    /* Query i sees max(i + 1, S) keys: S for the first S queries, then S + 1, …, N. */
    w.pairs += ((double)S * S + (N * (N + 1) - (double)S * (S + 1)) / 2) / lengths;
    w.loss_tokens += (N - (S > 0 ? S : 1)) / lengths;
  }
  return w;
}

double np_model_flops(const np_recipe_model *c, const int prefix_range[2], bool all_tokens) {
  double N = np_recipe_tokens(c), D = c->width, E = c->head_width, values = np_recipe_patch_values(c),
         ratio = c->mlp_ratio;
  work w = mean_work(N, prefix_range);
  double head_tokens = all_tokens ? N : w.loss_tokens;
  double trunk = N * (c->blocks * (4 + 2 * ratio) * D * D + values * D);
  trunk -= (N - head_tokens) * (1 + 2 * ratio) * D * D; /* projection and MLP of the last block */
  double head = head_tokens * (c->head_blocks * 2 * ratio * E * E + D * E + E * values);
  double attention = 2 * c->blocks * D * w.pairs; /* multiply-adds of q·k and of weights·v */
  return 2 * 3 * (trunk + head + attention);      /* two per multiply-add; backward costs twice forward */
}

double np_model_recompute_flops(const np_recipe_model *c, const int prefix_range[2], np_recompute recompute) {
  if (recompute != NP_RECOMPUTE_BLOCK) return 0; /* norms and GELU: no product */
  double N = np_recipe_tokens(c), D = c->width, E = c->head_width, ratio = c->mlp_ratio;
  work w = mean_work(N, prefix_range);
  /* All products of a block but its last; of the last block, nothing. */
  double blocks = c->blocks - 1, head_blocks = c->head_blocks > 0 ? c->head_blocks - 1 : 0;
  double trunk = blocks * (N * (4 + ratio) * D * D + 2 * D * w.pairs);
  return 2 * (trunk + w.loss_tokens * head_blocks * ratio * E * E);
}
