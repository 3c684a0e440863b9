#include "probe/probe.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "data/dataset.h"
#include "util/file.h"
#include "util/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const np_cli_word keys[] = {
    {"data", "folder with train/ and val/ (or test/), each a folder of class folders or of tars, or one tar, "
             "train.tar; default: "
             "the recipe's probe.data"},
    {"out", "file to write, beside it *.json; default probe.safetensors (probe-random.safetensors) in the run folder, "
            "else here"},
    {"init", "pretrained | random: random keeps the recipe and draws fresh weights, the baseline; default pretrained"},
    {"layers",
     "blocks to average: 2,3,4 or 14-19 or last (the last six); default: the recipe's probe.layers, else last"},
    {"trunk", "true | false: whether the file holds the trunk, too, so that eval needs nothing else; default true"},
    {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "probe",
    .arguments = "MODEL data=FOLDER [KEY=VALUE ...]",
    .text = "Train attentive heads on a frozen trunk, one for each probe.lr and probe.weight_decay, in one pass over "
            "the data, and report\n"
            "their top-1 and top-5 on the validation images. The best head is written with the published names.\n"
            "A probe that was stopped (exit status 75) or killed goes on from OUT.progress when the same command is "
            "given again.\n"
            "MODEL is a run folder (its newest checkpoint), a checkpoint folder or a .safetensors file, published ones "
            "too.\n",
    .examples = "  nextpatch probe runs/600m data=/data/imagenet\n"
                "  nextpatch probe runs/600m data=/data/imagenet init=random\n"
                "  nextpatch probe runs/600m data=/data/imagenet layers=14-19 probe.epochs=5 'probe.lr=[3e-4, 1e-3]'\n"
                "  nextpatch probe aim_600m.safetensors data=/data/imagenet trunk=false out=head.safetensors\n"
                "  torchrun --no-python --nproc-per-node 8 nextpatch probe runs/600m data=/data/imagenet\n",
    .least = 1,
    .most = 1,
    .keys = keys,
    .recipe = true,
};

/* The two folders or tars, malloc'ed. probe.train and probe.val win over what lies in data. */
static np_status find_data(const np_recipe *recipe, const char *data, char **train, char **val) {
  const np_recipe_probe *probe = &recipe->probe;
  if (!data && probe->data && *probe->data) data = probe->data;
  const bool own_train = probe->train && *probe->train, own_val = probe->val && *probe->val;
  if (!data && !(own_train && own_val))
    return np_error(NP_ERR_ARGUMENT, "probe: needs data=FOLDER with train/ and val/, or probe.train and probe.val");
  *train = own_train ? np_format("%s", probe->train) : np_dataset_part(data, "train");
  *val = own_val ? np_format("%s", probe->val) : np_dataset_part(data, "val");
  if (!*val) *val = np_dataset_part(data, "test");
  if (!*val) return np_error(NP_ERR_ARGUMENT, "probe: '%s' has neither val/ nor test/, nor a tar of those names", data);
  if (!*train) return np_error(NP_ERR_ARGUMENT, "probe: '%s' has neither train/ nor train.tar", data);
  return NP_OK;
}

/* Where the result goes. */
static char *find_out(const char *model, const char *out, bool random) {
  const char *name = random ? "probe-random.safetensors" : "probe.safetensors";
  return out ? np_format("%s", out) : np_folder_is(model) ? np_path_join(model, name) : np_format("%s", name);
}

/* All that can be found out before hours of training; the first rank writes. */
static np_status find_places(const np_cli_options *options, const np_opened *opened, bool random, char **train,
                             char **val, char **out) {
  np_status st = find_data(opened->recipe, np_cli_value(options, "data", NULL), train, val);
  if (st != NP_OK) return st;
  *out = find_out(options->positional[0], np_cli_value(options, "out", NULL), random);
  return np_comm_rank(opened->comm) == 0 ? np_cli_check_output("out", *out) : NP_OK;
}

static void print_result(const np_probe_result *r, const np_probe_options *how) {
  printf("%10s %12s %11s %8s %8s\n", "lr", "weight_decay", "train_loss", "top-1 %", "top-5 %");
  for (int g = 0; g < r->count; g++) {
    const np_probe_point *p = &r->points[g];
    const double images = (double)p->score.images;
    printf("%10g %12g %11.4f %8.2f %8.2f%s%s\n", p->lr, p->weight_decay, p->train_loss,
           100 * (double)p->score.top1 / images, 100 * (double)p->score.top5 / images, g == r->best ? "  best" : "",
           p->skipped ? "  (steps with non-finite gradients skipped)" : "");
  }
  const np_score *best = &r->points[r->best].score;
  printf("%s trunk: top-1 %.2f %%, top-5 %.2f %% of %lld images in %d classes", how->init,
         100 * (double)best->top1 / (double)best->images, 100 * (double)best->top5 / (double)best->images,
         (long long)best->images, r->classes);
  if (best->bad) printf(", %lld damaged ones left out", (long long)best->bad);
  printf("; %.0f s\nwritten: %s\n", r->seconds, how->out);
}

static np_status choose(const np_cli_options *options, const char *key, const char *yes, const char *no, bool *out) {
  const char *value = np_cli_value(options, key, *out ? yes : no);
  *out = !strcmp(value, yes);
  if (*out || !strcmp(value, no)) return NP_OK;
  return np_error(NP_ERR_ARGUMENT, "%s: %s=%s: expected %s or %s", options->usage->name, key, value, yes, no);
}

static np_status run(const np_cli_options *options) {
  np_status st;
  const char *model = options->positional[0];
  char *train = NULL, *val = NULL, *out = NULL;
  bool random = false, trunk = true;
  np_launch launch;
  np_opened opened = {0};
  np_probe_result result = {0};
  NP_TRY(np_launch_detect(&launch));
  NP_TRY(choose(options, "init", "random", "pretrained", &random));
  NP_TRY(choose(options, "trunk", "true", "false", &trunk));
  const np_open_options how = {
      .overrides = options->overrides, .override_count = options->override_count, .fresh = random, .launch = &launch};
  NP_TRY(np_open_model(model, &how, &opened));
  NP_TRY(np_comm_settle(opened.comm, find_places(options, &opened, random, &train, &val, &out)));
  const np_probe_options probe = {.train = train,
                                  .val = val,
                                  .layers = np_cli_value(options, "layers", NULL),
                                  .out = out,
                                  .trunk = trunk,
                                  .init = random ? "random" : "pretrained"};
  np_info("probe: %s (%s weights, %s) on %s", opened.path, probe.init,
          np_model_ops(opened.model)->act == NP_BF16 ? "bf16" : "fp32", train);
  NP_TRY(np_probe_run(&opened, &probe, &result));
  if (launch.rank == 0) print_result(&result, &probe);
out:
  np_probe_result_free(&result);
  np_open_close(&opened);
  free(train);
  free(val);
  free(out);
  return st;
}

int np_cli_probe(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
