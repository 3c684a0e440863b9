/* How a call of attention becomes a launch: descriptor → configuration, as data that can be printed. Pure functions;
 * the launchers launch what they say, np_kernel_attention_describe prints it. */
#ifndef NP_KERNELS_ATTENTION_PLAN_H
#define NP_KERNELS_ATTENTION_PLAN_H

extern "C" {
#include "kernels/kernels.h" /* and all that it includes: C symbols */
}

#include <limits.h>

enum { NP_ATT_TILE = 64, NP_ATT_THREADS = 128 };         /* tensor cores: rows of a tile; four warps of 16 rows */
enum { NP_ATT_F32_THREADS = 256, NP_ATT_F32_TILE = 32 }; /* float32: eight warps; rows of a tile that is walked */

/* The instantiation that takes head width d: the columns of its tiles. */
constexpr int np_att_wide(int width) { return (width + 31) / 32 * 32; }

/* Shared memory. Forward: a ring of three tiles. Backward: two tiles that stay, three that are walked through, and the
 * numbers of two tiles of rows. */
constexpr size_t np_att_tile_bytes(int wide) { return static_cast<size_t>(NP_ATT_TILE) * wide * sizeof(np_bf16); }
constexpr size_t np_att_forward_shared(int wide) { return 3 * np_att_tile_bytes(wide); }
constexpr size_t np_att_backward_shared(int wide) { return 5 * np_att_tile_bytes(wide) + 2ull * NP_ATT_TILE * 8; }

/* Blocks that a multiprocessor should hold: what registers (65536 of them) allow without a spill. Shared memory allows
 * as many on sm_80 (164 KiB, 1 KiB of it reserved a block) and later; 81 KiB, the largest block, fit twice there just
 * so. */
constexpr int np_att_forward_blocks(int wide) { return wide <= 32 ? 4 : wide <= 96 ? 3 : 2; }
constexpr int np_att_backward_blocks(int wide) { return wide <= 32 ? 4 : wide <= 64 ? 3 : 2; }

/* float32. Each of eight warps has `rows` rows of its own, each lane columns lane, lane + 32, …: `columns` of them. */
constexpr int np_att_f32_columns(int width) { return width <= 64 ? 2 : width <= 128 ? 4 : 8; }
constexpr int np_att_f32_rows(int columns) { return columns <= 4 ? 4 : 2; }
constexpr int np_att_f32_own(int columns) { return NP_ATT_F32_THREADS / 32 * np_att_f32_rows(columns); }
/* Rows that lanes read side by side are four floats apart in banks; rows that are broadcast need no padding. */
constexpr size_t np_att_f32_forward_shared(int columns, int width) {
  return sizeof(float) * (static_cast<size_t>(np_att_f32_own(columns)) * width + NP_ATT_F32_TILE * (width + 4ull));
}
constexpr size_t np_att_f32_backward_shared(int columns, int width) {
  return sizeof(float) * (2ull * np_att_f32_own(columns) * width + 2ull * NP_ATT_F32_TILE * (width + 4));
}

typedef struct np_att_plan {
  const char *kernel, *why;
  int tile, columns; /* rows a block owns; columns of its tiles (float32: of a lane) */
  int threads, occupancy;
  size_t shared;
  int64_t blocks;
} np_att_plan;

static inline int64_t np_att_tiles(int64_t rows, int tile) { return (rows + tile - 1) / tile; }

/* Queries that the backward scratch has room for: whole tiles. */
static inline int64_t np_att_scratch_rows(int batch, int tokens, int heads, int tile) {
  return static_cast<int64_t>(batch) * heads * np_att_tiles(tokens, tile) * tile;
}

static inline np_att_plan np_att_plan_of(const np_kernel_attention *at, bool backward) {
  np_att_plan plan = {};
  const int64_t heads = static_cast<int64_t>(at->batch) * at->heads;
  if (at->act == NP_BF16) {
    plan.columns = np_att_wide(at->head_width);
    plan.tile = NP_ATT_TILE;
    plan.threads = NP_ATT_THREADS;
    plan.shared = backward ? np_att_backward_shared(plan.columns) : np_att_forward_shared(plan.columns);
    plan.occupancy = backward ? np_att_backward_blocks(plan.columns) : np_att_forward_blocks(plan.columns);
    plan.kernel = backward ? "attention_backward" : "attention_forward";
    plan.why = backward ? "a block owns a key tile (dk, dv) or a query tile (dq) and walks the other side"
                        : "a block owns a query tile and walks its visible key tiles";
  } else {
    plan.columns = np_att_f32_columns(at->head_width);
    plan.tile = np_att_f32_own(plan.columns);
    plan.threads = NP_ATT_F32_THREADS;
    plan.shared = backward ? np_att_f32_backward_shared(plan.columns, at->head_width)
                           : np_att_f32_forward_shared(plan.columns, at->head_width);
    plan.occupancy = 1;
    plan.kernel = backward ? "attention_backward_f32" : "attention_forward_f32";
    plan.why = "true float32 has no tensor core: products by FMA";
  }
  plan.blocks = heads * np_att_tiles(at->tokens, plan.tile) * (backward ? 2 : 1);
  return plan;
}

/* Whether this GPU and these kernels take the call; an error that says what they would take. */
static inline np_status np_att_check(const np_gpu *gpu, const np_kernel_attention *at, const np_att_plan *plan) {
  const bool bf16 = at->act == NP_BF16;
  const int step = bf16 ? 8 : 4, widest = bf16 ? 128 : 256;
  if (gpu->major < 8)
    return np_error(NP_ERR_ARGUMENT, "kernel %s: %s has compute capability %d.%d, 8.0 is the least", plan->kernel,
                    gpu->name, gpu->major, gpu->minor);
  if (at->batch < 0 || at->tokens < 1 || at->heads < 1 || at->head_width < step || at->head_width > widest ||
      at->head_width % step != 0)
    return np_error(NP_ERR_ARGUMENT, "kernel %s: B %d, N %d, h %d, d %d; it takes d a multiple of %d up to %d",
                    plan->kernel, at->batch, at->tokens, at->heads, at->head_width, step, widest);
  if (plan->blocks > INT_MAX)
    return np_error(NP_ERR_ARGUMENT, "kernel %s: B %d, N %d, h %d make %lld blocks, %d is the most", plan->kernel,
                    at->batch, at->tokens, at->heads, static_cast<long long>(plan->blocks), INT_MAX);
  if (plan->shared > gpu->shared_limit)
    return np_error(NP_ERR_ARGUMENT, "kernel %s: needs %zu bytes of shared memory, %s grants %zu", plan->kernel,
                    plan->shared, gpu->name, gpu->shared_limit);
  return NP_OK;
}

#endif
