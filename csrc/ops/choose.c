#include "ops/choose.h"

#include "ops/cuda.h"
#include "util/log.h"
#include "util/machine.h"

#include <stdio.h>
#include <string.h>

enum { WIDEST_BF16_HEAD = 128 }; /* of the CUDA backend's attention in bf16 */

/* ---- the backend ---- */

static np_status choose_backend(const np_recipe *recipe, np_ops_choice *out) {
  np_cuda_about about;
  np_status st = NP_OK;
  char products[NP_CPU_TEXT];
  np_cpu_products_name(products);
  out->backend = NP_BACKEND_CPU;
  snprintf(out->hardware, sizeof out->hardware, "cpu, %s, %s", np_cpu_isa_name(), products);
  if (recipe->backend == NP_BACKEND_CPU) {
    snprintf(out->why, sizeof out->why, "as the recipe asks");
    return NP_OK;
  }
  st = np_cuda_look(recipe->device, &about);
  if (st != NP_OK && recipe->backend == NP_BACKEND_CUDA) /* asked for: nothing else will do */
    return np_error(NP_ERR_ARGUMENT, "backend: cuda: %s; backend: cpu needs no GPU", np_error_message());
  if (st != NP_OK && recipe->device >= 0 && np_cuda_device_count() > 0) return st; /* one was asked for by its number */
  if (st != NP_OK) {
    snprintf(out->why, sizeof out->why, "backend: auto; %s", np_error_message());
    return NP_OK;
  }
  out->backend = NP_BACKEND_CUDA;
  out->memory = about.memory;
  snprintf(out->hardware, sizeof out->hardware, "cuda, %s", about.name);
  snprintf(out->why, sizeof out->why, "%s; GPU %d of %d",
           recipe->backend == NP_BACKEND_CUDA ? "as the recipe asks" : "backend: auto", about.device,
           np_cuda_device_count());
  return NP_OK;
}

/* ---- the precision ---- */

static np_status check_cpu(np_dtype act) {
  if (act != NP_BF16 || np_cpu_has_bf16()) return NP_OK;
  return np_error(
      NP_ERR_ARGUMENT,
      "precision: bf16: this processor has no native bf16 products (AVX512-BF16 or AMX); allowed: auto, fp32");
}

static np_status check_cuda(const np_recipe *recipe, np_dtype act) {
  int head = recipe->model.width / recipe->model.heads;
  if (act != NP_BF16 || head <= WIDEST_BF16_HEAD) return NP_OK;
  return np_error(NP_ERR_ARGUMENT,
                  "model.heads: %d makes heads %d wide; the CUDA backend takes up to %d in bf16: set more model.heads, "
                  "precision: fp32 or backend: cpu",
                  recipe->model.heads, head, WIDEST_BF16_HEAD);
}

/* ---- the attention kernels ---- */

/* Those that were asked for by name run, or nothing does. */
static np_status check_attention(const np_recipe *recipe, const np_ops_choice *choice) {
  static const char *const names[] = {[NP_ATTENTION_AUTO] = "auto",
                                      [NP_ATTENTION_PORTABLE] = "portable",
                                      [NP_ATTENTION_HOPPER] = "hopper",
                                      [NP_ATTENTION_CUDNN] = "cudnn"};
  const char *name = names[recipe->attention];
  if (recipe->attention == NP_ATTENTION_AUTO) return NP_OK;
  if (choice->backend != NP_BACKEND_CUDA)
    return np_error(NP_ERR_ARGUMENT,
                    "attention: %s: kernels of backend: cuda, and this runs on the CPU (%s); allowed: auto", name,
                    choice->why);
  if (choice->act != NP_BF16)
    return np_error(
        NP_ERR_ARGUMENT,
        "attention: %s: kernels for precision: bf16, and fp32 has its own; allowed: auto, or precision: bf16", name);
  return NP_OK;
}

/* ---- all of it ---- */

np_status np_ops_choose(const np_recipe *recipe, np_ops_choice *out) {
  np_status st;
  *out = (np_ops_choice){.threads = recipe->threads ? recipe->threads : np_machine_cores()};
  NP_TRY(choose_backend(recipe, out));
  bool cuda = out->backend == NP_BACKEND_CUDA;
  bool native = cuda || np_cpu_has_bf16();
  bool low = recipe->precision == NP_PRECISION_BF16 || (recipe->precision == NP_PRECISION_AUTO && native);
  out->act = low ? NP_BF16 : NP_F32;
  NP_TRY(cuda ? check_cuda(recipe, out->act) : check_cpu(out->act));
  NP_TRY(check_attention(recipe, out));
out:
  return st;
}

/* ---- opening ---- */

np_status np_ops_open(const np_recipe *recipe, const np_ops_choice *choice, np_ops **out) {
  const np_cuda_options options = {.act = choice->act, .device = recipe->device, .attention = recipe->attention};
  *out = NULL;
  if (choice->backend == NP_BACKEND_CUDA) return np_ops_cuda(&options, out);
  return np_ops_cpu(choice->act, choice->threads, out);
}

np_status np_ops_open_f32(const np_recipe *recipe, np_ops *beside, np_ops **out) {
  const np_cuda_options options = {.act = NP_F32, .share = beside};
  *out = NULL;
  if (!strcmp(beside->name, "cuda")) return np_ops_cuda(&options, out);
  return np_ops_cpu(NP_F32, recipe->threads, out);
}

void np_ops_announce(const np_recipe *recipe, const np_ops_choice *choice) {
  const char *why = "as the recipe asks";
  bool cuda = choice->backend == NP_BACKEND_CUDA;
  np_info("backend: %s (%s)", choice->hardware, choice->why);
  if (recipe->precision == NP_PRECISION_AUTO)
    why = cuda                     ? "precision: auto, on a GPU"
          : choice->act == NP_BF16 ? "precision: auto, this processor multiplies bf16 natively"
                                   : "precision: auto, this processor has no native bf16 products";
  np_info("precision: %s (%s)", choice->act == NP_BF16 ? "bf16, fp32 master weights" : "fp32", why);
}
