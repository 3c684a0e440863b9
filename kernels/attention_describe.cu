/* What a call of attention becomes, in words: for nextpatch doctor and bench. Host code beside the kernels, for it
 * prints the very plans that their launchers launch. */
#include "kernels/attention_plan.h"

#include <stdio.h>

static int describe(const np_gpu *gpu, const np_kernel_attention *at, bool backward, char *text, size_t size) {
  const np_att_plan plan = np_att_plan_of(at, backward);
  if (np_att_check(gpu, at, &plan) != NP_OK) return snprintf(text, size, "%s\n", np_error_message());
  const bool bf16 = at->act == NP_BF16;
  const int64_t at_once = static_cast<int64_t>(gpu->processors) * plan.occupancy;
  return snprintf(
      text, size,
      "%s<%d>: d %d in tiles of %d columns; a block owns %d rows and walks tiles of %d; %d threads, %zu bytes of "
      "shared memory; %lld blocks, %lld at once; %s\n",
      plan.kernel, plan.columns, at->head_width, bf16 ? plan.columns : at->head_width, plan.tile,
      bf16 ? static_cast<int>(NP_ATT_TILE) : static_cast<int>(NP_ATT_F32_TILE), plan.threads, plan.shared,
      static_cast<long long>(plan.blocks), static_cast<long long>(at_once), plan.why);
}

extern "C" int np_kernel_attention_describe(const np_gpu *gpu, const np_kernel_attention *attention, char *text,
                                            size_t size) {
  const int forward = describe(gpu, attention, false, text, size);
  if (forward < 0) return forward;
  const size_t used = static_cast<size_t>(forward) < size ? static_cast<size_t>(forward) : size;
  const int backward = describe(gpu, attention, true, size > 0 ? text + used : text, size - used);
  return backward < 0 ? backward : forward + backward;
}
