/* What this machine grants this process. */
#ifndef NP_UTIL_MACHINE_H
#define NP_UTIL_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Processors this process may run on: its affinity mask, further limited by the control group's quota (rounded up). At
 * least 1. */
int np_machine_cores(void);

/* Whether the affinity mask leaves out some of the machine's processors: a launcher has given this process its own. */
bool np_machine_bound(void);

/* The control group's memory limit in bytes (version 2 or 1, the tightest of all parents); 0 when there is none. */
int64_t np_machine_memory_limit(void);

/* Bytes this process can still take before it is killed or starts to swap: the kernel's MemAvailable, or what is left
 * under the control group's limit where that is less. 0 when unknown. */
int64_t np_machine_memory_available(void);

/* Physical memory in bytes; 0 when unknown. */
int64_t np_machine_memory_total(void);

/* The processor's name into `name`; "unknown" when the system does not say. */
void np_machine_cpu_name(char *name, size_t size);

/* Whether the kernel lists `flag` for the processor, as /proc/cpuinfo spells it: "avx2", "avx512_bf16", "amx_bf16". */
bool np_machine_cpu_has(const char *flag);

#endif
