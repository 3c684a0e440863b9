/* Late reads and time. Every operation has run when its call returns, so a fetch copies at once into its slot and a
 * mark is the clock's time. */
#include "ops/cpu/cpu.h"

#include "util/clock.h"
#include "util/machine.h"

#include <stdlib.h>
#include <string.h>

np_status np_cpu_available(np_ops *ops, size_t *bytes) {
  (void)ops;
  int64_t available = np_machine_memory_available();
  *bytes = available > 0 ? (size_t)available : SIZE_MAX;
  return NP_OK;
}

np_status np_cpu_fetch(np_ops *ops, int slot, const void *device, size_t bytes) {
  np_cpu *cpu = np_cpu_of(ops);
  if (slot < 0 || slot >= NP_FETCH_SLOTS || bytes < 1 || bytes > NP_FETCH_BYTES)
    return np_error(NP_ERR_ARGUMENT, "fetch of %zu bytes into slot %d", bytes, slot);
  if (cpu->fetched[slot]) return np_error(NP_ERR_ARGUMENT, "fetch into slot %d, which has not arrived", slot);
  memcpy(cpu->slots[slot], device, bytes);
  cpu->fetched[slot] = bytes;
  return NP_OK;
}

np_status np_cpu_arrive(np_ops *ops, int slot, void *host, size_t bytes) {
  np_cpu *cpu = np_cpu_of(ops);
  if (slot < 0 || slot >= NP_FETCH_SLOTS || bytes < 1 || cpu->fetched[slot] != bytes)
    return np_error(NP_ERR_ARGUMENT, "nothing of %zu bytes was fetched into slot %d", bytes, slot);
  memcpy(host, cpu->slots[slot], bytes);
  cpu->fetched[slot] = 0;
  return NP_OK;
}

np_status np_cpu_mark(np_ops *ops, int index) {
  np_cpu *cpu = np_cpu_of(ops);
  if (index < 0) return np_error(NP_ERR_ARGUMENT, "mark %d", index);
  if (index >= cpu->mark_count) {
    int count = index + 64;
    double *marks = realloc(cpu->marks, (size_t)count * sizeof *marks);
    if (!marks) return np_error(NP_ERR_MEMORY, "not enough memory for mark %d", index);
    for (int i = cpu->mark_count; i < count; i++) marks[i] = -1.0;
    cpu->marks = marks, cpu->mark_count = count;
  }
  cpu->marks[index] = np_seconds();
  return NP_OK;
}

np_status np_cpu_elapsed(np_ops *ops, int from, int to, double *seconds) {
  const np_cpu *cpu = np_cpu_of(ops);
  const int marks[2] = {from, to};
  for (int i = 0; i < 2; i++)
    if (marks[i] < 0 || marks[i] >= cpu->mark_count || cpu->marks[marks[i]] < 0)
      return np_error(NP_ERR_ARGUMENT, "mark %d was never made", marks[i]);
  *seconds = cpu->marks[to] - cpu->marks[from];
  return NP_OK;
}
