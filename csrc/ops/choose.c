#include "ops/choose.h"

np_status np_ops_choose(const np_recipe *recipe, np_dtype *act) {
  bool native = np_cpu_has_bf16();
  *act =
      recipe->precision == NP_PRECISION_BF16 || (recipe->precision == NP_PRECISION_AUTO && native) ? NP_BF16 : NP_F32;
  if (recipe->backend == NP_BACKEND_CUDA)
    return np_error(NP_ERR_ARGUMENT, "backend: cuda: this build has no CUDA operators; allowed: auto, cpu");
  if (*act == NP_BF16 && !native)
    return np_error(
        NP_ERR_ARGUMENT,
        "precision: bf16: this processor has no native bf16 products (AVX512-BF16 or AMX); allowed: auto, fp32");
  return NP_OK;
}
