/* The one table of keys. Name, type and length of an entry are taken from the member of np_recipe it stands for, so
 * that a key cannot disagree with its place in the struct; libcyaml's schema is built from it (recipe_cyaml.c). */
#include "recipe/recipe_schema.h"

#include <math.h>
#include <string.h>

#define MEMBER(field) (((np_recipe *)0)->field)
#define LENGTH(field) (sizeof MEMBER(field) / sizeof MEMBER(field)[0])
// clang-format off
#define TYPE_OF(field)                                                                                                 \
  _Generic(MEMBER(field), int: NP_KEY_INT, int *: NP_KEY_INT, int64_t: NP_KEY_INT64, uint64_t: NP_KEY_UINT64,          \
           double: NP_KEY_DOUBLE, double *: NP_KEY_DOUBLE, char *: NP_KEY_STRING, default: NP_KEY_CHOICE)

#define ANY {-INFINITY, INFINITY, false, false}
#define FROM(low, high) {(low), (high), false, false}
#define FROM_BELOW(low, high) {(low), (high), false, true}
#define ABOVE(low, high) {(low), (high), true, false}

#define KEY(field, default_text, text)                                                                                 \
  .name = #field, .type = TYPE_OF(field), .offset = offsetof(np_recipe, field), .fallback = (default_text),            \
  .meaning = (text)
#define ONE(field, limits, default_text, text)                                                                         \
  {KEY(field, default_text, text), .form = NP_KEY_SCALAR, .length = 1, .range = limits}
#define FIXED(field, limits, default_text, text)                                                                       \
  {KEY(field, default_text, text), .form = NP_KEY_FIXED, .length = LENGTH(field), .range = limits}
#define LIST(field, counter, limits, default_text, text)                                                               \
  {KEY(field, default_text, text), .form = NP_KEY_LIST, .length = LENGTH(field), .range = limits,                      \
   .count_offset = offsetof(np_recipe, counter)}
#define CHOICE(field, names, default_text, text)                                                                       \
  {KEY(field, default_text, text), .form = NP_KEY_SCALAR, .length = 1, .range = ANY, .choices = (names),               \
   .choice_count = sizeof(names) / sizeof(names)[0]}
// clang-format on

static const cyaml_strval_t backends[] = {
    {"auto", NP_BACKEND_AUTO}, {"cpu", NP_BACKEND_CPU}, {"cuda", NP_BACKEND_CUDA}};
static const cyaml_strval_t attentions[] = {{"auto", NP_ATTENTION_AUTO},
                                            {"portable", NP_ATTENTION_PORTABLE},
                                            {"hopper", NP_ATTENTION_HOPPER},
                                            {"cudnn", NP_ATTENTION_CUDNN}};
static const cyaml_strval_t precisions[] = {
    {"auto", NP_PRECISION_AUTO}, {"fp32", NP_PRECISION_FP32}, {"bf16", NP_PRECISION_BF16}};
static const cyaml_strval_t head_blocks[] = {{"mlp", NP_HEAD_MLP}, {"l3m", NP_HEAD_L3M}};
static const cyaml_strval_t pixel_targets[] = {{"standardised", NP_TARGET_STANDARDISED}, {"raw", NP_TARGET_RAW}};
static const cyaml_strval_t interpolations[] = {{"bilinear", NP_RECIPE_BILINEAR}, {"bicubic", NP_RECIPE_BICUBIC}};
static const cyaml_strval_t recomputes[] = {
    {"none", NP_RECOMPUTE_NONE}, {"gelu_norm", NP_RECOMPUTE_GELU_NORM}, {"block", NP_RECOMPUTE_BLOCK}};
static const cyaml_strval_t shardings[] = {{"none", NP_SHARDING_NONE}, {"optim", NP_SHARDING_OPTIM}};
static const cyaml_strval_t resumes[] = {
    {"auto", NP_RESUME_AUTO}, {"never", NP_RESUME_NEVER}, {"must", NP_RESUME_MUST}};
static const cyaml_strval_t yes_no[] = {{"false", NP_NO}, {"true", NP_YES}};

/* Defaults: the released AIMv1-600M configuration where it has the key. Keys of one section stand together. The upper
 * limits of sizes are where products of them would leave 32 bits, far above anything sensible. */
const np_key np_keys[] = {
    ONE(seed, ANY, "0", "what every random draw of the run is keyed by"),
    CHOICE(backend, backends, "auto", "where the operators run; auto: cuda where there is one"),
    CHOICE(precision, precisions, "auto", "of matrix products; auto: bf16 where the hardware has it"),
    ONE(threads, FROM(0, 4096), "0", "threads of the CPU backend; 0: all cores"),
    ONE(device, FROM(-1, 1023), "-1",
        "GPU of the CUDA backend, as CUDA numbers them; -1: the first visible one, or one for each rank"),
    CHOICE(attention, attentions, "auto",
           "kernels of the CUDA backend in bf16; auto: hopper where it runs, else portable; cudnn has no prefix mask"),

    FIXED(model.image_size, FROM(1, 16384), "[224, 224]", "height and width in pixels, multiples of patch_size"),
    ONE(model.channels, FROM(1, 3), "3", "1: grey, 3: RGB"),
    ONE(model.patch_size, FROM(1, 1024), "14", "side of a patch in pixels"),
    ONE(model.width, FROM(4, 65536), "1536", "values of a token in the trunk; multiple of heads and of 4"),
    ONE(model.blocks, FROM(1, NP_MAX_LAYERS), "24", "transformer blocks of the trunk"),
    ONE(model.heads, FROM(1, 4096), "12", "attention heads; width / heads is a multiple of 8 from 8 to 256"),
    ONE(model.mlp_ratio, FROM(1, 64), "4", "hidden width of a block over its width"),
    ONE(model.norm_eps, ABOVE(0, 1), "1e-5", "eps of every LayerNorm"),
    ONE(model.head_width, FROM(4, 65536), "2048", "width of the pixel head; multiple of 4"),
    ONE(model.head_blocks, FROM(1, NP_MAX_LAYERS), "12", "blocks of the pixel head"),
    CHOICE(model.head_block, head_blocks, "l3m", "mlp: as in the paper; l3m: as in the released training code"),
    CHOICE(model.pixel_target, pixel_targets, "standardised",
           "standardised: each patch by its own mean and deviation; raw: as normalised"),
    FIXED(model.pixel_mean, FROM(0, 1), "[0.485, 0.456, 0.406]", "of pixels in [0, 1]; the first `channels` count"),
    FIXED(model.pixel_std, ABOVE(0, 1), "[0.229, 0.224, 0.225]", "of pixels in [0, 1]; the first `channels` count"),

    ONE(data.train, ANY, "''", "folder of images, of one folder a class, or of tar files of images; or one tar"),
    ONE(data.workers, FROM(0, 1024), "0", "threads that read and decode; 0: one a core, at most 8"),
    ONE(data.prefetch, FROM(1, 64), "2", "batches made ahead of the step"),
    FIXED(data.crop_scale, ABOVE(0, 1), "[0.4, 1]", "smallest and largest share of the image's area a crop takes"),
    FIXED(data.crop_ratio, FROM(0.01, 100), "[0.75, 1.3333333333333333]",
          "smallest and largest width / height of a crop"),
    CHOICE(data.interpolation, interpolations, "bicubic", "how a crop is resized"),
    ONE(data.flip, FROM(0, 1), "0.5", "probability of a horizontal flip"),
    ONE(data.jitter_probability, FROM(0, 1), "0.8", "probability of colour jitter; 0 turns it off"),
    FIXED(data.jitter, FROM(0, 1), "[0.4, 0.4, 0.2, 0.1]", "brightness, contrast, saturation, hue (at most 0.5)"),
    FIXED(data.prefix, FROM(-1, 268435456), "[1, -1]",
          "smallest and largest prefix length, 0..N-1 of N patches; largest -1: N-1; [0, 0]: causal"),
    ONE(data.max_pixels, FROM(1, 1e12), "178956970", "an image with more counts as damaged"),
    ONE(data.max_bad_share, FROM(0, 1), "0.01",
        "damaged images over all seen that stop the run, from the eleventh on; 0: the first does"),

    ONE(optim.lr, FROM(0, 1e6), "1e-3", "peak learning rate"),
    ONE(optim.lr_start, FROM(0, 1e6), "1e-6", "learning rate of the first step"),
    ONE(optim.lr_end, FROM(0, 1e6), "0", "learning rate after the last step"),
    ONE(optim.warmup, FROM(0, 1), "0.025", "share of all steps in which the rate rises"),
    FIXED(optim.betas, FROM_BELOW(0, 1), "[0.9, 0.95]", "decay of AdamW's two moments"),
    ONE(optim.eps, ABOVE(0, 1), "1e-8", "AdamW's eps"),
    ONE(optim.weight_decay, FROM(0, 1e6), "0.05", "not on biases, norms and tables"),
    ONE(optim.grad_clip, FROM(0, 1e6), "1", "largest global L2 norm of the gradient; 0: no limit"),

    ONE(train.steps, FROM(1, 1e12), "125000", "optimiser steps of the whole run"),
    ONE(train.batch, FROM(1, 16777216), "4096", "images a step, over all ranks"),
    ONE(train.micro_batch, FROM(0, 16777216), "0",
        "images in one pass on one rank, a divisor of batch; 0: as many as the rank has"),
    CHOICE(train.recompute, recomputes, "none",
           "what the backward pass makes again, not keeps: less memory, same bits (`nextpatch plan`)"),
    CHOICE(train.shard, shardings, "none",
           "optim: ranks share out moments and float32 weights, each keeps a part: less memory (`nextpatch plan`)"),
    ONE(train.slice_mb, FROM(0, 1048576), "32",
        "MiB of gradients, or more, that ranks sum at a time while the backward pass goes on"),
    ONE(train.log_every, FROM(1, 1e9), "10", "steps between metric lines"),
    ONE(train.max_bad_steps, FROM(1, 1e9), "10", "non-finite steps in a row that stop the run"),

    ONE(checkpoint.every, FROM(1, 1e12), "1000", "steps between checkpoints; the last step always writes one"),
    ONE(checkpoint.keep_last, FROM(1, 1e9), "2", "newest checkpoints kept"),
    ONE(checkpoint.keep_every, FROM(0, 1e12), "0", "also keep each whose step is a multiple of this; 0: none"),
    CHOICE(checkpoint.fallback, yes_no, "false",
           "true: where the newest checkpoint is damaged, go on from the one before"),

    ONE(run.dir, ANY, "''", "folder that everything of the run is written to"),
    ONE(run.init, ANY, "''",
        "what a new run begins with: weights of a run, a checkpoint or a .safetensors file; '': random"),
    CHOICE(run.resume, resumes, "auto", "from the newest good checkpoint; auto: where there is one"),
    ONE(run.patience, FROM(0, 1e6), "1800",
        "seconds that a rank waits for others, who may be writing a checkpoint, until it leaves; 0: for ever"),

    ONE(probe.data, ANY, "''", "folder with train/ and val/, each as probe.train; or with train.tar and val.tar"),
    ONE(probe.train, ANY, "''",
        "folder of class folders, or of tars with folders in them, to train on; wins over data"),
    ONE(probe.val, ANY, "''", "the same to report on; wins over data"),
    LIST(probe.layers, probe.layers_count, FROM(0, NP_MAX_LAYERS - 1), "[]",
         "blocks whose outputs are averaged, 0 is the first; []: the last six"),
    ONE(probe.epochs, FROM(1, 1e6), "10", "passes over the training images"),
    ONE(probe.batch, FROM(1, 1048576), "256", "images a step"),
    LIST(probe.lr, probe.lr_count, ABOVE(0, 1e6), "[1e-4, 3e-4, 1e-3, 3e-3]",
         "learning rates tried, each with each decay"),
    LIST(probe.weight_decay, probe.weight_decay_count, FROM(0, 1e6), "[0.05, 0.1]", "weight decays tried"),
    ONE(probe.warmup, FROM(0, 1), "0.05", "share of all steps in which the rate rises"),
    FIXED(probe.crop_scale, ABOVE(0, 1), "[0.35, 1]", "as data.crop_scale, for training the probe"),
    ONE(probe.flip, FROM(0, 1), "0.5", "as data.flip, for training the probe"),
    ONE(probe.log_every, FROM(1, 1e9), "10", "steps between metric lines"),
    ONE(probe.save_every, FROM(0, 1e12), "500",
        "steps between saves, from which the same command goes on; 0: only when stopped"),
};
const unsigned np_key_count = sizeof np_keys / sizeof np_keys[0];
_Static_assert(sizeof np_keys / sizeof np_keys[0] <= NP_KEY_ROOM, "NP_KEY_ROOM is too small for the table");
_Static_assert(sizeof(np_backend) == sizeof(int) && sizeof(np_attention) == sizeof(int), "a choice is read as an int");

size_t np_key_section_length(const np_key *key) {
  const char *dot = strchr(key->name, '.');
  return dot ? (size_t)(dot - key->name) : 0;
}

const np_key *np_key_find(const char *section, const char *name) {
  size_t length = strlen(section);
  for (unsigned i = 0; i < np_key_count; i++) {
    const char *candidate = np_keys[i].name;
    if (length > 0) {
      if (np_key_section_length(&np_keys[i]) != length || strncmp(candidate, section, length) != 0) continue;
      candidate += length + 1;
    }
    if (strcmp(candidate, name) == 0) return &np_keys[i];
  }
  return NULL;
}

bool np_key_is_section(const char *name) {
  for (unsigned i = 0; i < np_key_count; i++) {
    size_t length = np_key_section_length(&np_keys[i]);
    if (length > 0 && strlen(name) == length && strncmp(np_keys[i].name, name, length) == 0) return true;
  }
  return false;
}

size_t np_key_value_size(np_key_type type) {
  switch (type) {
  case NP_KEY_INT:
  case NP_KEY_CHOICE:
    return sizeof(int);
  case NP_KEY_INT64:
  case NP_KEY_UINT64:
    return sizeof(int64_t);
  case NP_KEY_DOUBLE:
    return sizeof(double);
  case NP_KEY_STRING:
    return sizeof(char *);
  }
  return 0;
}

unsigned np_key_values(const np_key *key, const np_recipe *recipe) {
  unsigned count = key->length;
  if (key->form == NP_KEY_LIST) memcpy(&count, (const char *)recipe + key->count_offset, sizeof count);
  return count;
}

/* Written so that NaN is in no range. */
bool np_range_holds(np_range range, double x) {
  bool above = range.low_open ? x > range.low : x >= range.low;
  bool below = range.high_open ? x < range.high : x <= range.high;
  return above && below;
}
