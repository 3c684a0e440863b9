/* Attention in device memory, against the CPU operator in float32: at the size of a GPU, where a block takes several
 * items in turn, each of several tiles; and cuDNN's.
 *
 * A large batch repeats a few images over and over. So the reference is small, and every copy must have the bits of the
 * first, wherever and behind whatever it was computed. */
#include "attention_bed.h"

#include "ops/cuda.h"

/* ---- device memory ---- */

typedef struct call {
  shape s;    /* of the images that differ */
  int batch;  /* images in device memory: those of s over and over */
  bool cudnn; /* of no prefixes, or all 0: its entry of the table takes the former alone */
  void *prefix, *qkv, *out, *lse, *dout, *dqkv;
} call;

static size_t image_of_out(const harness *h, const shape *s) {
  return (size_t)s->tokens * (size_t)s->heads * (size_t)s->width * h_size(h);
}
static size_t image_of_lse(const shape *s) { return (size_t)s->heads * (size_t)s->tokens * sizeof(float); }

/* c->batch images of `bytes` each between guard zones; from (NULL: NaN) holds those that differ. */
static void *to_device(harness *h, const call *c, size_t bytes, const void *from) {
  const size_t all = (size_t)c->batch * bytes;
  unsigned char *host = malloc(all + 2 * H_ZONE);
  void *device;
  assert_non_null(host);
  memset(host, H_GUARD, all + 2 * H_ZONE);
  memset(host + H_ZONE, 0xff, all);
  for (int b = 0; b < c->batch && from; b++)
    memcpy(host + H_ZONE + (size_t)b * bytes, (const char *)from + (size_t)(b % c->s.batch) * bytes, bytes);
  H_OK(h->ops->alloc(h->ops, all + 2 * H_ZONE, &device));
  H_OK(h->ops->upload(h->ops, device, host, all + 2 * H_ZONE));
  free(host);
  return (char *)device + H_ZONE;
}

static void give_back(harness *h, void *device) {
  if (device) h->ops->release(h->ops, (char *)device - H_ZONE);
}

/* What became of it, malloc'ed: *block is to be freed. Guard zones are whole, and copies of an image have its bits. */
static const unsigned char *from_device(harness *h, const call *c, const char *what, size_t bytes, const void *device,
                                        unsigned char **block) {
  const size_t all = (size_t)c->batch * bytes;
  const unsigned char *image = (*block = malloc(all + 2 * H_ZONE)) + H_ZONE;
  assert_non_null(*block);
  H_OK(h->ops->download(h->ops, *block, (const char *)device - H_ZONE, all + 2 * H_ZONE));
  for (size_t i = 0; i < H_ZONE; i++)
    if ((*block)[i] != H_GUARD || image[all + i] != H_GUARD) fail_msg("%s: %s was written outside", h->name, what);
  for (int b = c->s.batch; b < c->batch; b++)
    if (memcmp(image + (size_t)b * bytes, image + (size_t)(b % c->s.batch) * bytes, bytes) != 0)
      fail_msg("%s: %s of image %d is not that of its copy, image %d", h->name, what, b, b % c->s.batch);
  return image;
}

/* ---- the operator ---- */

static np_status run_forward_on(harness *h, const call *c, void *out, void *lse) {
  const shape *s = &c->s;
  if (c->cudnn && s->prefixed)
    return np_cuda_cudnn_forward(h->ops, true, c->batch, s->tokens, s->heads, s->width, c->qkv, out, lse);
  return h->ops->attention_forward(h->ops, c->batch, s->tokens, s->heads, s->width, c->prefix, c->qkv, out, lse);
}

static np_status run_backward_on(harness *h, const call *c, void *dqkv) {
  const shape *s = &c->s;
  if (c->cudnn && s->prefixed)
    return np_cuda_cudnn_backward(h->ops, true, c->batch, s->tokens, s->heads, s->width, c->qkv, c->out, c->lse,
                                  c->dout, dqkv);
  return h->ops->attention_backward(h->ops, c->batch, s->tokens, s->heads, s->width, c->prefix, c->qkv, c->out, c->lse,
                                    c->dout, dqkv);
}

/* Once more, for the same bits. */
static void same_again(harness *h, const call *c, bool backward, const unsigned char *first) {
  const size_t bytes = (backward ? 3 : 1) * image_of_out(h, &c->s);
  void *again = to_device(h, c, bytes, NULL);
  unsigned char *block;
  if (backward) H_OK(run_backward_on(h, c, again));
  else H_OK(run_forward_on(h, c, again, NULL));
  const unsigned char *second = from_device(h, c, backward ? "dqkv" : "out", bytes, again, &block);
  if (memcmp(first, second, (size_t)c->batch * bytes) != 0)
    fail_msg("%s: %s has other bits the second time", h->name, backward ? "dqkv" : "out");
  free(block);
  give_back(h, again);
}

/* ---- the CPU operator in float32, on the images that differ ---- */

typedef struct witness {
  np_ops *cpu;
  int64_t outs, rows;
  const int32_t *prefix;
  float *qkv, *out, *lse, *dout, *dqkv;
  double *qkv64, *dout64, *want, *want_lse, *spread; /* spread: see h_close_products */
} witness;

static float *narrow(harness *h, int64_t n, const double *from) {
  float *to = h_take_f32(h, n);
  for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
  return to;
}

static void widen(int64_t n, const float *from, double *to) {
  for (int64_t i = 0; i < n; i++) to[i] = (double)from[i];
}

/* Makes the inputs, in device memory too. */
static witness witness_of(harness *h, call *c) {
  const shape *s = &c->s;
  witness w = {.rows = (int64_t)s->batch * s->tokens * s->heads, .prefix = prefix_of(h, s)};
  w.outs = w.rows * s->width;
  const void *qkv = h_normal_act(h, 3 * w.outs, 1.5, &w.qkv64), *dout = h_normal_act(h, w.outs, 1.0, &w.dout64);
  w.qkv = narrow(h, 3 * w.outs, w.qkv64), w.dout = narrow(h, w.outs, w.dout64);
  w.out = h_take_f32(h, w.outs), w.lse = h_take_f32(h, w.rows), w.dqkv = h_take_f32(h, 3 * w.outs);
  w.want = h_take_f64(h, 3 * w.outs), w.want_lse = h_take_f64(h, w.rows);
  w.spread = tensor_cores(h) ? h_take_f64(h, 3 * w.outs) : NULL;
  if (np_ops_cpu(NP_F32, 0, &w.cpu) != NP_OK) fail_msg("the CPU operator: %s", np_error_message());
  c->prefix = w.prefix ? to_device(h, c, sizeof(int32_t), w.prefix) : NULL;
  c->qkv = to_device(h, c, 3 * image_of_out(h, s), qkv);
  c->dout = to_device(h, c, image_of_out(h, s), dout);
  c->out = to_device(h, c, image_of_out(h, s), NULL);
  c->lse = to_device(h, c, image_of_lse(s), NULL);
  c->dqkv = to_device(h, c, 3 * image_of_out(h, s), NULL);
  return w;
}

static void witness_end(harness *h, const call *c, witness *w) {
  void *const all[] = {c->prefix, c->qkv, c->dout, c->out, c->lse, c->dqkv};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) give_back(h, all[i]);
  w->cpu->destroy(w->cpu);
  h_finish(h);
}

static void witness_forward(const call *c, witness *w) {
  const shape *s = &c->s;
  np_ops *cpu = w->cpu;
  if (w->spread) reference_forward(s, w->qkv64, w->want, NULL, w->spread);
  assert_int_equal(
      cpu->attention_forward(cpu, s->batch, s->tokens, s->heads, s->width, w->prefix, w->qkv, w->out, w->lse), NP_OK);
  widen(w->outs, w->out, w->want);
  widen(w->rows, w->lse, w->want_lse);
}

/* From the out that was stored: its rounding belongs to the inputs. */
static void witness_backward(harness *h, const call *c, witness *w, const void *out) {
  const shape *s = &c->s;
  np_ops *cpu = w->cpu;
  double *out64 = h_take_f64(h, w->outs);
  for (int64_t i = 0; i < w->outs; i++) w->out[i] = (float)(out64[i] = h_get(h, out, i));
  if (w->spread) reference_backward(s, w->qkv64, out64, w->dout64, w->want, w->spread);
  assert_int_equal(cpu->attention_backward(cpu, s->batch, s->tokens, s->heads, s->width, w->prefix, w->qkv, w->out,
                                           w->lse, w->dout, w->dqkv),
                   NP_OK);
  widen(3 * w->outs, w->dqkv, w->want);
}

/* ---- both passes ---- */

/* How far a tensor may be off, of its largest value: unit/ops_attention.c's bounds twice, for the CPU operator may use
 * them up as well. cuDNN's exponentials and logarithms are its own: more, yet far less than one key more or less. */
typedef struct bounds {
  double out, lse, dqkv;
} bounds;
static const bounds OURS = {6e-6, 2e-6, 1e-5}, CUDNN = {2e-5, 1e-5, 2e-5};

static void compare(harness *h, call *c, const bounds *most, bool backward) {
  const size_t bytes = image_of_out(h, &c->s);
  unsigned char *out_block, *lse_block, *dqkv_block;
  h_case(h, "B%d N%d h%d d%d%s", c->batch, c->s.tokens, c->s.heads, c->s.width, c->s.prefixed ? "" : " full");
  witness w = witness_of(h, c);
  witness_forward(c, &w);
  H_OK(run_forward_on(h, c, c->out, c->lse));
  const unsigned char *out = from_device(h, c, "out", bytes, c->out, &out_block);
  const void *lse = from_device(h, c, "lse", image_of_lse(&c->s), c->lse, &lse_block);
  h_close_products(h, "out", w.outs, out, w.want, most->out, w.spread);
  h_close_f32(h, "lse", w.rows, lse, w.want_lse, most->lse);
  if (!c->cudnn) same_again(h, c, false, out);
  if (backward) {
    witness_backward(h, c, &w, out);
    H_OK(run_backward_on(h, c, c->dqkv));
    const unsigned char *dqkv = from_device(h, c, "dqkv", 3 * bytes, c->dqkv, &dqkv_block);
    h_close_products(h, "dqkv", 3 * w.outs, dqkv, w.want, most->dqkv, w.spread);
    if (!c->cudnn) same_again(h, c, true, dqkv); /* cuDNN does not promise it */
    free(dqkv_block);
  }
  free(out_block);
  free(lse_block);
  witness_end(h, c, &w);
}

/* ---- of a GPU's size ---- */

/* At least three items for each multiprocessor, of an odd number of images. */
static void many(harness *h, int n, int heads, int head_width) {
  np_cuda_about about;
  if (np_cuda_look(-1, &about) != NP_OK) fail_msg("%s", np_error_message());
  call c = {.s = {BED_IMAGES, n, heads, head_width, {n * 2 / 5, 0, n - 1, n / 4, 1, n, n * 3 / 4}, true},
            .batch = (3 * about.processors / heads + 1) | 1};
  compare(h, &c, &OURS, true);
}

static void size_of_a_gpu(harness *h) {
  if (emulated()) {
    many(h, 130, 1, 64);
  } else {
    many(h, 256, 3, 128);
    many(h, 300, 3, 64);
  }
}

H_TEST(test_size_of_a_gpu, size_of_a_gpu)

/* Hopper's version by its name, where the device has it: the harness's forms leave it to `auto`. */
static void test_hopper_by_name(void **state) {
  (void)state;
  const np_cuda_options options = {.act = NP_BF16, .device = -1, .attention = NP_ATTENTION_HOPPER};
  harness h = {.act = NP_BF16, .random = H_SEED, .form = NP_TEST_CUDA " hopper"};
  char why[NP_CUDA_TEXT];
  np_cuda_about about;
  assert_int_equal(np_cuda_look(-1, &about), NP_OK);
  assert_int_equal(np_ops_cuda(&options, &h.ops), NP_OK);
  np_cuda_attention_reason(h.ops, 256, 128, why);
  if (about.major == 9) assert_memory_equal(why, "hopper", strlen("hopper"));
  else print_message("skipped: %s\n", why);
  if (about.major == 9) size_of_a_gpu(&h);
  h.ops->destroy(h.ops);
}

/* ---- cuDNN's ---- */

/* With images' own prefixes there is none, with or without the library. */
static void refuses_prefixes(harness *h) {
  int32_t *prefix = h_take(h, sizeof *prefix);
  void *qkv = h_take_act(h, 3 * 64), *out = h_take_act(h, 64);
  *prefix = 0;
  assert_int_equal(h->ops->attention_forward(h->ops, 1, 1, 1, 64, prefix, qkv, out, NULL), NP_ERR_ARGUMENT);
  h_finish(h);
}

/* Up to 9.15 its backward pass is refused where the last tile of keys is not full. */
static bool has_backward(size_t version, int tokens) { return tokens % 128 == 0 || version >= 91600; }

static void cudnn(harness *h) {
  np_cuda_versions versions;
  refuses_prefixes(h);
  np_cuda_library_versions(&versions);
  if (versions.cudnn == 0) {
    print_message("skipped %s: not in this build or not on this machine\n", h->form);
    return;
  }
  for (int n = 256; n <= 300; n += 44)
    for (int width = 64; width <= 128; width += 64)
      for (int causal = 0; causal < 2; causal++) {
        call c = {.s = {3, n, 2, width, {0, 0, 0}, causal}, .batch = 3, .cudnn = true};
        if (!has_backward(versions.cudnn, n)) print_message("%s: N%d without its backward pass\n", h->form, n);
        compare(h, &c, &CUDNN, has_backward(versions.cudnn, n));
      }
}

static void test_cudnn(void **state) {
  (void)state;
  const np_cuda_options options = {.act = NP_BF16, .device = -1, .attention = NP_ATTENTION_CUDNN};
  harness h = {.act = NP_BF16, .random = H_SEED, .form = NP_TEST_CUDA " cudnn"};
  if (np_ops_cuda(&options, &h.ops) != NP_OK) fail_msg("%s", np_error_message());
  h_run(&h, NP_OK, cudnn);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_size_of_a_gpu), cmocka_unit_test(test_hopper_by_name),
                                     cmocka_unit_test(test_cudnn)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
