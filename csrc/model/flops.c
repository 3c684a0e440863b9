#include "model/model.h"

double np_model_flops(const np_recipe_model *c, const int prefix_range[2], bool all_tokens) {
  double N = np_recipe_tokens(c), D = c->width, E = c->head_width, values = np_recipe_patch_values(c),
         ratio = c->mlp_ratio;
  double pairs = 0, loss_tokens = 0, lengths = prefix_range[1] - prefix_range[0] + 1;
  for (int S = prefix_range[0]; S <= prefix_range[1]; S++) {
    /* Query i sees max(i + 1, S) keys: S for the first S queries, then S + 1, …, N. */
    pairs += ((double)S * S + (N * (N + 1) - (double)S * (S + 1)) / 2) / lengths;
    loss_tokens += (N - (S > 0 ? S : 1)) / lengths;
  }
  double head_tokens = all_tokens ? N : loss_tokens;
  double trunk = N * (c->blocks * (4 + 2 * ratio) * D * D + values * D);
  trunk -= (N - head_tokens) * (1 + 2 * ratio) * D * D; /* projection and MLP of the last block */
  double head = head_tokens * (c->head_blocks * 2 * ratio * E * E + D * E + E * values);
  double attention = 2 * c->blocks * D * pairs; /* multiply-adds of q·k and of weights·v */
  return 2 * 3 * (trunk + head + attention);    /* two per multiply-add; backward costs twice forward */
}
