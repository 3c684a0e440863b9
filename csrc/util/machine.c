#include "util/machine.h"

#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 16384 }; /* the flags of a processor are about 2 kB */

/* The text behind "key" and ':' of the first such line of /proc/NAME; false when there is none. */
static bool proc_value(const char *path, const char *key, char *value, size_t size) {
  char line[LINE];
  size_t length = strlen(key);
  FILE *f = fopen(path, "re");
  bool found = false;
  if (!f) return false;
  while (!found && fgets(line, sizeof line, f)) {
    if (strncmp(line, key, length)) continue;
    const char *p = line + length + strspn(line + length, " \t");
    if (*p != ':') continue;
    p += 1 + strspn(p + 1, " \t");
    snprintf(value, size, "%.*s", (int)strcspn(p, "\n"), p);
    found = true;
  }
  fclose(f);
  return found;
}

/* A whole number that stands first in a file; false when absent or "max". */
static bool file_number(const char *path, int64_t *out) {
  FILE *f = fopen(path, "re");
  if (!f) return false;
  bool found = fscanf(f, "%" SCNd64, out) == 1;
  fclose(f);
  return found;
}

/* The path of a line "4:cpu,cpuacct:/path" that names the controller; NULL where it does not. */
static const char *named_by(const char *line, const char *controller) {
  const char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
  size_t length = strlen(controller);
  while (path && list < path) {
    list++;
    size_t word = strcspn(list, ",:");
    if (word == length && !strncmp(list, controller, length)) return path + 1;
    list += word;
  }
  return NULL;
}

/* The control group's folder of this process. Version 2 has one hierarchy ("0::/path"); version 1 one for each
 * controller. */
static bool cgroup_folder(const char *controller, char folder[PATH_MAX]) {
  char line[LINE];
  bool found = false;
  FILE *f = fopen("/proc/self/cgroup", "re");
  if (!f) return false;
  while (!found && fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    const char *path = !strncmp(line, "0::", 3) ? line + 3 : NULL;
    const char *root = "/sys/fs/cgroup";
    char mount[96];
    const char *v1 = named_by(line, controller);
    if (v1) {
      snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controller);
      root = mount, path = v1;
    }
    if (!path) continue;
    found = snprintf(folder, PATH_MAX, "%s%s", root, path) < PATH_MAX;
  }
  fclose(f);
  return found;
}

/* Walk from the process's group up to the root and keep the least of what `measure` finds. Inside a container the path
 * that the kernel names may not be there: its own root then holds the numbers, and the walk ends there anyway. */
static bool cgroup_least(const char *controller, bool (*measure)(const char *folder, int64_t *out), int64_t *out) {
  char folder[PATH_MAX];
  bool found = false;
  if (!cgroup_folder(controller, folder)) return false;
  for (;;) {
    int64_t value;
    if (measure(folder, &value) && (!found || value < *out)) {
      *out = value;
      found = true;
    }
    char *slash = strrchr(folder, '/');
    if (!slash || strlen(folder) <= strlen("/sys/fs/cgroup")) return found;
    *slash = 0;
  }
}

static bool memory_limit(const char *folder, int64_t *out) {
  char path[PATH_MAX + 64];
  snprintf(path, sizeof path, "%s/memory.max", folder);
  if (file_number(path, out)) return true;
  snprintf(path, sizeof path, "%s/memory.limit_in_bytes", folder);
  return file_number(path, out) && *out < INT64_MAX / 2; /* version 1 writes a huge number for none */
}

/* What is left under one group's limit. The file cache counts as use there, but can be dropped: it is added back. */
static bool memory_left(const char *folder, int64_t *out) {
  char path[PATH_MAX + 64], key[64];
  int64_t limit, used, value, cache = 0;
  if (!memory_limit(folder, &limit)) return false;
  snprintf(path, sizeof path, "%s/memory.current", folder);
  if (!file_number(path, &used)) {
    snprintf(path, sizeof path, "%s/memory.usage_in_bytes", folder);
    if (!file_number(path, &used)) used = 0;
  }
  snprintf(path, sizeof path, "%s/memory.stat", folder);
  FILE *f = fopen(path, "re");
  while (f && fscanf(f, "%63s %" SCNd64, key, &value) == 2)
    if (!strcmp(key, "inactive_file") || !strcmp(key, "active_file")) cache += value;
  if (f) fclose(f);
  int64_t left = limit - used + cache;
  *out = left < 0 ? 0 : left;
  return true;
}

static bool cpu_quota(const char *folder, int64_t *out) {
  char path[PATH_MAX + 64];
  int64_t quota = 0, period = 0;
  snprintf(path, sizeof path, "%s/cpu.max", folder);
  FILE *f = fopen(path, "re");
  if (f) {
    bool both = fscanf(f, "%" SCNd64 " %" SCNd64, &quota, &period) == 2;
    fclose(f);
    if (!both) return false;
  } else {
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!file_number(path, &quota)) return false;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!file_number(path, &period)) return false;
  }
  if (quota <= 0 || period <= 0) return false;
  *out = (quota + period - 1) / period;
  return true;
}

int np_machine_cores(void) {
  cpu_set_t set;
  int64_t quota;
  int cores = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
  if (cgroup_least("cpu", cpu_quota, &quota) && quota < cores) cores = (int)quota;
  return cores < 1 ? 1 : cores;
}

bool np_machine_bound(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) < sysconf(_SC_NPROCESSORS_ONLN);
}

int64_t np_machine_memory_limit(void) {
  int64_t limit;
  return cgroup_least("memory", memory_limit, &limit) ? limit : 0;
}

static int64_t meminfo(const char *key) {
  char text[64];
  return proc_value("/proc/meminfo", key, text, sizeof text) ? (int64_t)strtoll(text, NULL, 10) * 1024 : 0;
}

int64_t np_machine_memory_available(void) {
  int64_t left, available = meminfo("MemAvailable");
  return cgroup_least("memory", memory_left, &left) && (!available || left < available) ? left : available;
}

int64_t np_machine_memory_total(void) { return meminfo("MemTotal"); }

void np_machine_cpu_name(char *name, size_t size) {
  if (!proc_value("/proc/cpuinfo", "model name", name, size)) snprintf(name, size, "unknown");
}

bool np_machine_cpu_has(const char *flag) {
  char line[LINE];
  size_t length = strlen(flag);
  if (!proc_value("/proc/cpuinfo", "flags", line, sizeof line) &&
      !proc_value("/proc/cpuinfo", "Features", line, sizeof line))
    return false;
  for (const char *p = strstr(line, flag); p; p = strstr(p + 1, flag))
    if ((p == line || p[-1] == ' ') && (p[length] == ' ' || !p[length])) return true;
  return false;
}
