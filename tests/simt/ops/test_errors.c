/* What goes wrong on a GPU is told in one line: what, where, what to do. The emulated machine shows other devices and
 * refuses what a sound one would give; nothing goes on without the GPU that was asked for. */
#include "machine.h"
#include "ops/choose.h"
#include "ops/cuda/cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TOKENS = 16, HEADS = 2, WIDTH = 32 };

static const char LESS[] = "a smaller train.micro_batch or train.recompute: block takes less";

/* The message at hand is one line that has both texts. */
static void assert_said(const char *first, const char *second) {
  const char *said = np_error_message();
  if (!strstr(said, first)) fail_msg("wanted '%s' in: %s", first, said);
  if (!strstr(said, second)) fail_msg("wanted '%s' in: %s", second, said);
  if (strchr(said, '\n') || strlen(said) > 320) fail_msg("not one short line: %s", said);
}

static void show(int major, int minor, size_t shared_limit) {
  np_simt_now.major = major;
  np_simt_now.minor = minor;
  np_simt_now.shared_limit = shared_limit << 10;
}

static np_status open_with(np_attention attention, np_ops **out) {
  const np_cuda_options options = {.act = NP_BF16, .device = -1, .attention = attention};
  return np_ops_cuda(&options, out);
}

static np_ops *opened(np_attention attention) {
  np_ops *ops;
  if (open_with(attention, &ops) != NP_OK) fail_msg("%s", np_error_message());
  return ops;
}

static np_recipe *recipe(const char *backend) {
  np_recipe *out = NULL;
  if (np_recipe_load(NULL, &backend, 1, &out) != NP_OK) fail_msg("%s", np_error_message());
  return out;
}

static np_status choose(const char *backend, np_ops_choice *out) {
  np_recipe *r = recipe(backend);
  np_status st = np_ops_choose(r, out);
  np_recipe_free(r);
  return st;
}

static int sound(void **state) {
  (void)state;
  np_simt_now = np_simt_sound();
  return 0;
}

/* ---- which device ---- */

static void no_device(void **state) {
  (void)state;
  np_ops_choice choice;
  np_ops *ops;
  np_simt_now.devices = 0;
  assert_int_equal(open_with(NP_ATTENTION_AUTO, &ops), NP_ERR_LIBRARY);
  assert_null(ops);
  assert_said("no GPU can be used", "the driver shows none");
  assert_int_equal(choose("backend=cuda", &choice), NP_ERR_ARGUMENT);
  assert_said("backend: cuda: no GPU can be used", "backend: cpu needs no GPU");
}

static void an_old_device_is_refused(void **state) {
  (void)state;
  np_ops_choice choice;
  np_ops *ops;
  show(7, 5, 64);
  assert_int_equal(open_with(NP_ATTENTION_AUTO, &ops), NP_ERR_LIBRARY);
  assert_null(ops);
  assert_said("GPU 0 (emulated GPU) has compute capability 7.5", "need 8.0 or later");
  assert_null(strstr(np_error_message(), "device:")); /* there is no other */
  assert_int_equal(choose("backend=cuda", &choice), NP_ERR_ARGUMENT);
  assert_said("backend: cuda: GPU 0 (emulated GPU) has compute capability 7.5", "backend: cpu needs no GPU");
  np_simt_now.devices = 2;
  assert_int_equal(open_with(NP_ATTENTION_AUTO, &ops), NP_ERR_LIBRARY);
  assert_said("compute capability 7.5", "; device: chooses another");
  /* A free choice is the CPU, and says why. */
  assert_int_equal(choose("backend=auto", &choice), NP_OK);
  assert_true(choice.backend == NP_BACKEND_CPU);
  if (!strstr(choice.why, "compute capability 7.5")) fail_msg("why: %s", choice.why);
}

/* The text of the attention's choice and the kernel that a forward pass launches. */
static np_status attention_of(np_ops *ops, char text[NP_CUDA_TEXT]) {
  const size_t row = (size_t)HEADS * WIDTH;
  np_status st;
  void *qkv, *out, *lse;
  np_cuda_attention_reason(ops, TOKENS, WIDTH, text);
  assert_int_equal(ops->alloc(ops, TOKENS * 3 * row * sizeof(np_bf16), &qkv), NP_OK);
  assert_int_equal(ops->alloc(ops, TOKENS * row * sizeof(np_bf16), &out), NP_OK);
  assert_int_equal(ops->alloc(ops, HEADS * TOKENS * sizeof(float), &lse), NP_OK);
  assert_int_equal(ops->zero(ops, qkv, TOKENS * 3 * row * sizeof(np_bf16)), NP_OK);
  np_simt_now.launched = "none";
  st = ops->attention_forward(ops, 1, TOKENS, HEADS, WIDTH, NULL, qkv, out, lse);
  ops->release(ops, qkv);
  ops->release(ops, out);
  ops->release(ops, lse);
  return st;
}

static void attention_suits_the_device(void **state) {
  (void)state;
  static const struct {
    int major, minor;
    size_t shared_limit; /* KiB */
    const char *version, *kernel;
  } devices[] = {{8, 0, 163, "portable (", "attention_forward"},
                 {8, 9, 99, "portable (", "attention_forward"},
                 {9, 0, 227, "hopper (", "attention_hopper_forward"},
                 {10, 0, 227, "portable (", "attention_forward"}};
  char text[NP_CUDA_TEXT];
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    const bool hopper = !strcmp(devices[i].version, "hopper (");
    show(devices[i].major, devices[i].minor, devices[i].shared_limit);
    np_ops *ops = opened(NP_ATTENTION_AUTO);
    assert_int_equal(attention_of(ops, text), NP_OK);
    if (strncmp(text, devices[i].version, strlen(devices[i].version)) != 0) fail_msg("auto: %s", text);
    assert_string_equal(np_simt_now.launched, devices[i].kernel);
    ops->destroy(ops);

    ops = opened(NP_ATTENTION_HOPPER);
    assert_int_equal(attention_of(ops, text), hopper ? NP_OK : NP_ERR_ARGUMENT);
    assert_string_equal(np_simt_now.launched, hopper ? "attention_hopper_forward" : "none");
    if (!hopper) assert_said("attention: hopper: needs compute capability 9.0", "allowed: auto, portable");
    ops->destroy(ops);
  }
}

/* ---- memory ---- */

static void device_memory_ends(void **state) {
  (void)state;
  np_ops *ops = opened(NP_ATTENTION_AUTO);
  void *memory;
  np_simt_now.memory = (size_t)1 << 30;
  assert_int_equal(ops->alloc(ops, (size_t)3 << 30, &memory), NP_ERR_MEMORY);
  assert_null(memory);
  assert_said("GPU 0 (emulated GPU): not enough memory: 3.00 GiB asked, 0.88 of 1.00 GiB free; ", LESS);
  np_simt_now.memory = (size_t)150 << 20;
  assert_int_equal(ops->alloc(ops, (size_t)25 << 20, &memory), NP_ERR_MEMORY);
  assert_said("25.0 MiB asked", LESS);
  assert_int_equal(ops->alloc(ops, 1 << 20, &memory), NP_OK); /* and there is a smaller piece */
  ops->release(ops, memory);
  ops->destroy(ops);
}

/* A GPU that others have filled: an error, and not the CPU. */
static void a_full_device_is_not_opened(void **state) {
  (void)state;
  np_ops_choice choice;
  np_ops *ops = NULL;
  np_recipe *r = recipe("backend=auto");
  np_simt_now.memory = (size_t)100 << 20;
  assert_int_equal(np_ops_choose(r, &choice), NP_OK);
  assert_true(choice.backend == NP_BACKEND_CUDA);
  assert_int_equal(np_ops_open(r, &choice, &ops), NP_ERR_MEMORY);
  assert_null(ops);
  assert_said("64.0 MiB asked, 0.04 of 0.10 GiB free", LESS);
  np_recipe_free(r);
}

static void pinned_memory_ends(void **state) {
  (void)state;
  np_ops *ops;
  void *memory;
  np_simt_now.pinned = (size_t)50 << 20;
  assert_int_equal(open_with(NP_ATTENTION_AUTO, &ops), NP_ERR_MEMORY);
  assert_null(ops);
  assert_said("GPU 0 (emulated GPU): not enough pinned memory of the host: ", "raise the memory limit");
  assert_said(" MiB asked", "end other programs");
  np_simt_now = np_simt_sound();
  ops = opened(NP_ATTENTION_AUTO);
  np_simt_now.pinned = 0;
  assert_int_equal(np_cuda_mapped_alloc(ops, 3 << 20, &memory), NP_ERR_MEMORY);
  assert_null(memory);
  assert_said("pinned memory of the host: 3.0 MiB asked", "end other programs");
  ops->destroy(ops);
}

/* Memory that the driver takes by itself: what it says, and the same advice. */
static void a_recording_finds_no_memory(void **state) {
  (void)state;
  np_ops *ops = opened(NP_ATTENTION_AUTO);
  np_recording *recording;
  void *memory;
  assert_int_equal(ops->alloc(ops, 4096, &memory), NP_OK);
  assert_int_equal(ops->record_begin(ops), NP_OK);
  assert_int_equal(ops->zero(ops, memory, 4096), NP_OK);
  np_simt_now.memory = 0;
  assert_int_equal(ops->record_end(ops, &recording), NP_ERR_MEMORY);
  assert_null(recording);
  assert_said("cudaGraphInstantiate on GPU 0 (emulated GPU): out of memory", LESS);
  ops->release(ops, memory);
  ops->destroy(ops);
}

/* ---- kernels ---- */

/* y = x for 8 values, and waits for it. */
static np_status work(np_ops *ops, void *memory) {
  np_status st = ops->gelu_forward(ops, 8, memory, memory);
  return st == NP_OK ? ops->download(ops, NULL, NULL, 0) : st;
}

static void a_launch_is_refused(void **state) {
  (void)state;
  static const struct {
    cudaError_t code;
    np_status status;
    const char *text, *advice;
  } refusals[] = {
      {cudaErrorInvalidConfiguration, NP_ERR_LIBRARY, "invalid configuration argument", "please report it"},
      {cudaErrorNoKernelImageForDevice, NP_ERR_LIBRARY, "no kernel image", "build again, or set backend: cpu"},
      {cudaErrorMemoryAllocation, NP_ERR_MEMORY, "out of memory", LESS},
      {cudaErrorIllegalAddress, NP_ERR_LIBRARY, "an illegal memory access", "CUDA_LAUNCH_BLOCKING=1 shows which"},
  };
  np_ops *ops = opened(NP_ATTENTION_AUTO);
  void *memory;
  assert_int_equal(ops->alloc(ops, 4096, &memory), NP_OK);
  np_simt_now.refused = "gelu_forward";
  for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
    np_simt_now.refusal = refusals[i].code;
    assert_int_equal(work(ops, memory), refusals[i].status);
    assert_said("kernel gelu_forward on GPU 0 (emulated GPU, compute capability 9.0): ", refusals[i].text);
    assert_said(refusals[i].text, refusals[i].advice);
  }
  np_simt_now.refused = NULL; /* the backend goes on */
  assert_int_equal(work(ops, memory), NP_OK);
  ops->release(ops, memory);
  ops->destroy(ops);
}

static void a_build_without_code_for_the_device(void **state) {
  (void)state;
  np_ops *ops;
  np_simt_now.refused = "to_act"; /* what opening tries */
  np_simt_now.refusal = cudaErrorNoKernelImageForDevice;
  assert_int_equal(open_with(NP_ATTENTION_AUTO, &ops), NP_ERR_LIBRARY);
  assert_null(ops);
  assert_said("GPU 0 cannot run this build's kernels (made for emulation): kernel to_act", "or set backend: cpu");
}

/* A kernel that breaks while it runs is found by the next call that waits, and by every one behind it. */
static void a_kernel_breaks(void **state) {
  (void)state;
  np_ops *ops = opened(NP_ATTENTION_AUTO), *another;
  void *memory;
  assert_int_equal(ops->alloc(ops, 4096, &memory), NP_OK);
  np_simt_now.broken = "gelu_forward";
  np_simt_now.breakage = cudaErrorIllegalAddress;
  assert_int_equal(work(ops, memory), NP_ERR_LIBRARY);
  assert_said("cudaStreamSynchronize on GPU 0 (emulated GPU): an illegal memory access was encountered",
              "an operation queued earlier failed, CUDA_LAUNCH_BLOCKING=1 shows which");
  assert_int_equal(work(ops, memory), NP_ERR_LIBRARY); /* the launch says it now */
  assert_said("kernel gelu_forward on GPU 0", "an operation queued earlier failed");
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1); /* then it was this one */
  assert_int_equal(work(ops, memory), NP_ERR_LIBRARY);
  unsetenv("CUDA_LAUNCH_BLOCKING");
  assert_said("kernel gelu_forward on GPU 0", "compute-sanitizer shows where");
  assert_int_equal(open_with(NP_ATTENTION_AUTO, &another), NP_ERR_LIBRARY); /* nor is there a new beginning */
  assert_null(another);
  ops->release(ops, memory);
  ops->destroy(ops);
}

/* ---- libraries ---- */

static void a_library_fails(void **state) {
  (void)state;
  np_ops *ops = opened(NP_ATTENTION_AUTO);
  const np_gpu *gpu = &np_cuda_of(ops)->core->gpu;
  const char *call = "cublasLtMatmul(state->handle, p->how)";
  assert_int_equal(np_cuda_failed(gpu, call, NP_FAILURE_MEMORY, "no room"), NP_ERR_MEMORY);
  assert_said("cublasLtMatmul on GPU 0 (emulated GPU): no room; ", LESS);
  assert_int_equal(np_cuda_failed(gpu, call, NP_FAILURE_LIBRARY, "not supported"), NP_ERR_LIBRARY);
  assert_said("cublasLtMatmul on GPU 0 (emulated GPU): not supported; ", "nextpatch doctor says which");
  ops->destroy(ops);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, sound)
  const struct CMUnitTest tests[] = {
      TEST(no_device),
      TEST(an_old_device_is_refused),
      TEST(attention_suits_the_device),
      TEST(device_memory_ends),
      TEST(a_full_device_is_not_opened),
      TEST(pinned_memory_ends),
      TEST(a_recording_finds_no_memory),
      TEST(a_launch_is_refused),
      TEST(a_build_without_code_for_the_device),
      TEST(a_kernel_breaks),
      TEST(a_library_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
