#include "cli/cli.h"
#include "cli/options.h"
#include "dist/comm.h"
#include "np_build_config.h"
#include "ops/cuda.h"
#include "util/build.h"
#include "util/machine.h"

#include <archive.h>
#include <cjson/cJSON.h>
#include <cyaml/cyaml.h>
#include <errno.h>
#include <isa-l.h>
#include <png.h>
#include <protobuf-c/protobuf-c.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>

/* jpeglib.h wants size_t and FILE first. */
#include <jpeglib.h>

#define TEXT(x)    TEXT_OF(x)
#define TEXT_OF(x) #x

static const np_cli_word flags[] = {{"json", "print the same as JSON"}, {NULL, NULL}};
static const np_cli_usage usage = {
    .name = "doctor",
    .arguments = "[--json]",
    .text = "Say what was built in, what this machine has and what of it the backends use.\n"
            "The first thing to attach to a report that something does not work.\n",
    .examples = "  nextpatch doctor\n"
                "  nextpatch doctor --json > machine.json\n",
    .flags = flags,
};

/* One line of the report: section[key] = text. */
__attribute__((format(printf, 3, 4))) static void say(cJSON *section, const char *key, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  cJSON_AddStringToObject(section, key, text);
}

static void say_bytes(cJSON *section, const char *key, int64_t bytes, const char *none) {
  if (bytes > 0) say(section, key, "%.1f GiB", (double)bytes / (1 << 30));
  else say(section, key, "%s", none);
}

static void report_nccl(cJSON *to) {
  const int v = np_comm_nccl_version();
  if (!*NP_BUILD_NCCL_VERSION) say(to, "NCCL", "not built in");
  else if (v == 0) say(to, "NCCL", "built in, header %s; libnccl.so.2 not found", NP_BUILD_NCCL_VERSION);
  else
    say(to, "NCCL", "built in, header %s, library %d.%d.%d", NP_BUILD_NCCL_VERSION, v / 10000, v / 100 % 100, v % 100);
}

static void report_build(cJSON *to) {
  say(to, "version", "%s", np_build_version());
  say(to, "commit", "%s", np_build_commit());
  say(to, "compiler", "%s", NP_BUILD_COMPILER);
  say(to, "build type", "%s%s%s", *NP_BUILD_TYPE ? NP_BUILD_TYPE : "none", *NP_BUILD_SANITIZERS ? ", sanitizers: " : "",
      NP_BUILD_SANITIZERS);
  say(to, "CPU operators", "built in");
  if (NP_BUILD_CUDA_OPERATORS)
    say(to, "CUDA operators", "built in, CUDA %s, for %s", NP_BUILD_CUDA_VERSION, NP_BUILD_CUDA_TARGETS);
  else say(to, "CUDA operators", "not built in");
  say(to, "cuDNN attention", "%s%s", *NP_BUILD_CUDNN_VERSION ? "built in, " : "not built in", NP_BUILD_CUDNN_VERSION);
  report_nccl(to);
  say(to, "MPI", "%s%s", NP_BUILD_MPI ? "built in, version " : "not built in", NP_BUILD_MPI_VERSION);
}

static void report_processor(cJSON *to) {
  static const char *const wanted[] = {"avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"};
  char name[256], found[256] = "", products[NP_CPU_TEXT];
  np_cpu_products_name(products);
  np_machine_cpu_name(name, sizeof name);
  say(to, "model", "%s", name);
  say(to, "cores", "%d usable, %ld online", np_machine_cores(), sysconf(_SC_NPROCESSORS_ONLN));
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    if (!np_machine_cpu_has(wanted[i])) continue;
    snprintf(found + strlen(found), sizeof found - strlen(found), "%s%s", *found ? " " : "", wanted[i]);
  }
  say(to, "instruction sets", "%s", *found ? found : "none of note");
  say(to, "matrix products", "%s", products);
  say(to, "other loops", "%s", np_cpu_isa_name());
  say(to, "bf16", "%s", np_cpu_has_bf16() ? "yes: precision auto takes it" : "no: precision auto takes fp32");
#ifdef _OPENMP
  say(to, "OpenMP threads", "%d", np_machine_cores());
#else
  say(to, "OpenMP threads", "built without OpenMP");
#endif
}

#if NP_BUILD_CUDA_OPERATORS
/* 13000 is CUDA 13.0; 130101 is cuBLASLt 13.1.1; 91900 is cuDNN 9.19.0. */
static void say_versions(cJSON *to, const np_cuda_versions *versions) {
  const np_cuda_versions v = *versions;
  if (v.driver) say(to, "driver", "CUDA %d.%d", v.driver / 1000, v.driver % 1000 / 10);
  else say(to, "driver", "none");
  say(to, "runtime", "CUDA %d.%d", v.runtime / 1000, v.runtime % 1000 / 10);
  say(to, "cuBLASLt", "%zu.%zu.%zu", v.cublaslt / 10000, v.cublaslt / 100 % 100, v.cublaslt % 100);
  if (v.cudnn) say(to, "cuDNN", "%zu.%zu.%zu", v.cudnn / 10000, v.cudnn / 100 % 100, v.cudnn % 100);
  else say(to, "cuDNN", *NP_BUILD_CUDNN_VERSION ? "not found" : "not found when this was built");
}

static void report_gpus(cJSON *to) {
  np_cuda_about about;
  char key[40], text[NP_CUDA_TEXT];
  np_cuda_versions versions;
  int count = np_cuda_device_count();
  np_cuda_library_versions(&versions);
  say_versions(to, &versions);
  if (count == 0) {
    (void)np_cuda_look(-1, &about);
    say(to, "GPUs", "none: %s", np_error_message());
  }
  for (int i = 0; i < count; i++) {
    bool usable = np_cuda_look(i, &about) == NP_OK;
    snprintf(key, sizeof key, "GPU %d", i);
    if (*about.name)
      say(to, key, "%s, compute capability %d.%d, %d SMs, %.1f GiB", about.name, about.major, about.minor,
          about.processors, (double)about.memory / (1 << 30));
    snprintf(key, sizeof key, "GPU %d operators", i);
    say(to, key, "%s", usable ? "can be used, in fp32 (without TF32) and bf16" : np_error_message());
    if (!usable) continue;
    np_cuda_attention_versions(&about, text);
    snprintf(key, sizeof key, "GPU %d attention", i);
    say(to, key, "%s", text);
    snprintf(key, sizeof key, "GPU %d matrix products", i);
    say(to, key, "cuBLASLt, fp32 (without TF32) and bf16");
    snprintf(key, sizeof key, "GPU %d attention: cudnn", i);
    say(to, key, "%s", versions.cudnn ? "can be used, in bf16, without prefixes" : "cuDNN is not found");
  }
}
#else
static void report_gpus(cJSON *to) {
  bool driver = !access("/proc/driver/nvidia/version", R_OK);
  say(to, "GPUs", "not looked for: no CUDA operators in this build%s",
      driver ? " (this machine has an NVIDIA driver)" : "");
}
#endif

/* How several processes of a run would find each other, were this one of them. */
static void report_ranks(cJSON *to) {
  np_launch launch;
  char address[NP_LAUNCH_ADDRESS];
  if (np_launch_detect(&launch) != NP_OK) {
    say(to, "started by", "%s", np_error_message());
    return;
  }
  if (!launch.launcher) {
    say(to, "started by", "hand");
    return;
  }
  say(to, "started by", "%s, rank %d of %d, process %d of %d on this machine", launch.launcher, launch.rank,
      launch.world, launch.local_rank, launch.local_world);
  if (launch.mpi && NP_BUILD_MPI) say(to, "ranks meet", "through MPI");
  else if (np_launch_address(&launch, address) != NP_OK) say(to, "GPU ranks meet", "%s", np_error_message());
  else say(to, "GPU ranks meet", "at %s", address);
}

static void report_libraries(cJSON *to) {
  uint32_t png = png_access_version_number();
  unsigned xxhash = XXH_versionNumber();
  say(to, "libpng", "%u.%u.%u", png / 10000, png / 100 % 100, png % 100);
  say(to, "libjpeg-turbo", "%s", TEXT(LIBJPEG_TURBO_VERSION));
  say(to, "zlib", "%s", zlibVersion());
  say(to, "libyaml", "%s", yaml_get_version_string());
  say(to, "libcyaml", "%s", cyaml_version_str);
  say(to, "cJSON", "%s", cJSON_Version());
  say(to, "xxHash", "%u.%u.%u", xxhash / 10000, xxhash / 100 % 100, xxhash % 100);
  say(to, "protobuf-c", "%s", protobuf_c_version());
  say(to, "libarchive", "%s", archive_version_string() + strcspn(archive_version_string(), "0123456789"));
  say(to, "ISA-L", "%d.%d.%d", ISAL_MAJOR_VERSION, ISAL_MINOR_VERSION, ISAL_PATCH_VERSION);
}

static void report_limits(cJSON *to) {
  struct statvfs disk;
  struct rlimit files;
  say_bytes(to, "memory", np_machine_memory_total(), "unknown");
  say_bytes(to, "memory available", np_machine_memory_available(), "unknown");
  say_bytes(to, "memory limit (control group)", np_machine_memory_limit(), "none");
  if (!statvfs(".", &disk)) {
    char folder[400];
    if (!getcwd(folder, sizeof folder)) snprintf(folder, sizeof folder, "this folder");
    say(to, "disk free", "%.1f GiB in %s", (double)disk.f_bavail * (double)disk.f_frsize / (1 << 30), folder);
  }
  if (!getrlimit(RLIMIT_NOFILE, &files)) say(to, "open files", "%llu", (unsigned long long)files.rlim_cur);
}

static void print_text(const cJSON *report) {
  const cJSON *section, *line;
  cJSON_ArrayForEach(section, report) {
    printf("%s\n", section->string);
    cJSON_ArrayForEach(line, section) printf("  %-28s %s\n", line->string, line->valuestring);
  }
}

static np_status run(const np_cli_options *options) {
  np_status st = NP_OK;
  cJSON *report = cJSON_CreateObject();
  report_build(cJSON_AddObjectToObject(report, "build"));
  report_processor(cJSON_AddObjectToObject(report, "processor"));
  report_gpus(cJSON_AddObjectToObject(report, "GPU"));
  report_ranks(cJSON_AddObjectToObject(report, "ranks"));
  report_limits(cJSON_AddObjectToObject(report, "limits"));
  report_libraries(cJSON_AddObjectToObject(report, "libraries"));
  if (np_cli_flag(options, "json")) {
    char *text = cJSON_Print(report);
    if (!text) st = np_error(NP_ERR_MEMORY, "doctor: out of memory");
    if (text) puts(text);
    cJSON_free(text);
  } else {
    print_text(report);
  }
  cJSON_Delete(report);
  return st;
}

int np_cli_doctor(int argc, char **argv) { return np_cli_run(&usage, argc, argv, run); }
