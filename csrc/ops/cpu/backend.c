/* The CPU backend opened and closed: which instruction set, how many threads, memory. */
#include "ops/cpu/cpu.h"

#include "util/machine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef NP_HAVE_X86_ISAS
#include <cpuid.h>
#endif

/* ---- processor features ---- */

#define NP_SIMD_ENTRY(result, name, parameters) .name = NP_SIMD_JOIN(name, NP_SIMD_TABLE),
#define NP_SIMD_TABLE                           generic
static const np_simd simd_generic = {.isa = "generic", NP_SIMD_FUNCTIONS(NP_SIMD_ENTRY)};
#undef NP_SIMD_TABLE
#ifdef NP_HAVE_X86_ISAS
#define NP_SIMD_TABLE avx2
static const np_simd simd_avx2 = {.isa = "avx2", NP_SIMD_FUNCTIONS(NP_SIMD_ENTRY)};
#undef NP_SIMD_TABLE
#define NP_SIMD_TABLE avx512
static const np_simd simd_avx512 = {.isa = "avx512", NP_SIMD_FUNCTIONS(NP_SIMD_ENTRY)};
#undef NP_SIMD_TABLE

static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* AMX has bits of its own: CPUID(7,0).EDX 22 and 24, and the system must save its tiles (XCR0 17 and 18). */
static bool has_amx_bf16(void) {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx & (1u << 22)) || !(edx & (1u << 24))) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low >> 17 & 3u) == 3u;
}

bool np_cpu_has_bf16(void) {
  return ((has_avx512() && __builtin_cpu_supports("avx512bf16")) || has_amx_bf16()) && np_cpu_products_take_bf16();
}
#else
bool np_cpu_has_bf16(void) { return false; }
#endif

/* The instruction set of `name`, or NULL when it is unknown or this processor lacks it. */
static const np_simd *simd_by_name(const char *name) {
  if (!strcmp(name, "generic")) return &simd_generic;
#ifdef NP_HAVE_X86_ISAS
  if (!strcmp(name, "avx2") && has_avx2()) return &simd_avx2;
  if (!strcmp(name, "avx512") && has_avx512()) return &simd_avx512;
#endif
  return NULL;
}

/* The best one, or the one that NEXTPATCH_ISA names; NULL when that one cannot be had. */
static const np_simd *simd_choice(void) {
  const char *wanted = getenv("NEXTPATCH_ISA");
  if (wanted && *wanted) return simd_by_name(wanted);
  static const char *const order[] = {"avx512", "avx2"};
  for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
    const np_simd *simd = simd_by_name(order[i]);
    if (simd) return simd;
  }
  return &simd_generic;
}

const char *np_cpu_isa_name(void) {
  const np_simd *simd = simd_choice();
  return simd ? simd->isa : simd_generic.isa;
}

/* ---- memory ---- */

/* What is worth pages of 2 MiB begins at one and asks for them. A product reads its operands in strips, one page a row:
 * with pages of 4 KiB it waits for their addresses (AIM-0.6B in bf16: some 4 % of a step, docs/results.md). */
enum { HUGE_PAGE = 1 << 21 };

static np_status take(size_t bytes, void **out) {
  size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
  *out = NULL;
  if (bytes > SIZE_MAX - HUGE_PAGE) return np_error(NP_ERR_MEMORY, "%zu bytes do not fit in the address space", bytes);
  if (posix_memalign(out, alignment, np_cpu_lines(bytes ? bytes : 1)) != 0) {
    *out = NULL;
    return np_error(NP_ERR_MEMORY, "not enough memory for %zu bytes", bytes);
  }
  if (alignment == HUGE_PAGE) (void)madvise(*out, bytes, MADV_HUGEPAGE); /* a kernel without them: small pages */
  return NP_OK;
}

static np_status cpu_alloc(np_ops *ops, size_t bytes, void **out) {
  (void)ops;
  return take(bytes, out);
}

static void cpu_release(np_ops *ops, void *memory) {
  (void)ops;
  free(memory);
}

static np_status cpu_copy(np_ops *ops, void *to, const void *from, size_t bytes) {
  (void)ops;
  if (bytes) memcpy(to, from, bytes);
  return NP_OK;
}

static np_status cpu_zero(np_ops *ops, void *device, size_t bytes) {
  np_cpu *cpu = np_cpu_of(ops);
  int parts = np_cpu_parts(cpu, (int64_t)bytes, 1 << 18);
#pragma omp parallel for num_threads(cpu->threads) schedule(static, 1) if (parts > 1)
  for (int part = 0; part < parts; part++) {
    int64_t begin = np_cpu_border((int64_t)bytes, 4096, parts, part);
    int64_t end = np_cpu_border((int64_t)bytes, 4096, parts, part + 1);
    if (end > begin) memset((char *)device + begin, 0, (size_t)(end - begin));
  }
  return NP_OK;
}

np_status np_cpu_scratch(np_cpu *cpu, size_t bytes, void **out) {
  np_status st = NP_OK;
  if (bytes > cpu->scratch_bytes) {
    free(cpu->scratch);
    cpu->scratch = NULL;
    cpu->scratch_bytes = 0;
    NP_TRY(take(bytes, &cpu->scratch));
    cpu->scratch_bytes = bytes;
  }
out:
  *out = cpu->scratch;
  return st;
}

/* ---- open and close ---- */

static void cpu_destroy(np_ops *ops) {
  if (!ops) return;
  np_cpu *cpu = np_cpu_of(ops);
  np_cpu_matmul_close(cpu->matmul);
  free(cpu->scratch);
  free(cpu->marks);
  free(cpu);
}

static const np_ops operations = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .release = cpu_release,
    .available = np_cpu_available,
    .upload = cpu_copy,
    .download = cpu_copy,
    .zero = cpu_zero,
    .fetch = np_cpu_fetch,
    .arrive = np_cpu_arrive,
    .mark = np_cpu_mark,
    .elapsed = np_cpu_elapsed,
    .to_act = np_cpu_to_act,
    .axpy = np_cpu_axpy,
    .patchify = np_cpu_patchify,
    .add_table = np_cpu_add_table,
    .gather_rows = np_cpu_gather_rows,
    .scatter_rows = np_cpu_scatter_rows,
    .matmul = np_cpu_matmul,
    .column_sum = np_cpu_column_sum,
    .norm_forward = np_cpu_norm_forward,
    .norm_backward = np_cpu_norm_backward,
    .gelu_forward = np_cpu_gelu_forward,
    .gelu_backward = np_cpu_gelu_backward,
    .attention_forward = np_cpu_attention_forward,
    .attention_backward = np_cpu_attention_backward,
    .pixel_loss = np_cpu_pixel_loss,
    .batch_moments = np_cpu_batch_moments,
    .batch_norm = np_cpu_batch_norm,
    .pool_forward = np_cpu_pool_forward,
    .pool_backward = np_cpu_pool_backward,
    .cross_entropy = np_cpu_cross_entropy,
    .sum_squares = np_cpu_sum_squares,
    .adamw_prepare = np_cpu_adamw_prepare,
    .adamw = np_cpu_adamw,
    .destroy = cpu_destroy,
};

np_status np_ops_cpu(np_dtype act, int threads, np_ops **out) {
  np_status st = NP_OK;
  np_cpu *cpu = NULL;
  *out = NULL;
  if (act != NP_F32 && act != NP_BF16)
    return np_error(NP_ERR_ARGUMENT, "the CPU backend computes in float32 or bfloat16");
  if (act == NP_BF16 && !np_cpu_has_bf16())
    return np_error(NP_ERR_ARGUMENT, "bf16: this processor has neither AVX512-BF16 nor AMX-BF16; use fp32");
  const np_simd *simd = simd_choice();
  if (!simd)
    return np_error(NP_ERR_ARGUMENT,
                    "NEXTPATCH_ISA=%s: expected generic, avx2 or avx512, and one that this processor has",
                    getenv("NEXTPATCH_ISA"));

  cpu = calloc(1, sizeof *cpu);
  if (!cpu) return np_error(NP_ERR_MEMORY, "not enough memory for the CPU backend");
  cpu->table = operations;
  cpu->table.act = act;
  cpu->bf16 = act == NP_BF16;
  cpu->threads = threads > 0 ? threads : np_machine_cores();
  cpu->simd = simd;
  NP_TRY(np_cpu_matmul_open(&cpu->matmul));
  *out = &cpu->table;
  cpu = NULL;
out:
  if (cpu) cpu_destroy(&cpu->table);
  return st;
}
