/* TensorBoard event files: scalars only.
 *
 * A file is a sequence of records: u64 length, u32 masked CRC of the length, bytes, u32 masked CRC of the bytes, all
 * little-endian; CRC is CRC-32C, masked as TensorFlow's lib/io/record_writer does. Bytes are an Event (tfevents.proto).
 */
#ifndef NP_TRAIN_TFEVENTS_H
#define NP_TRAIN_TFEVENTS_H

#include "util/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct np_tfevents np_tfevents;

typedef struct np_scalar {
  const char *tag;
  double value;
} np_scalar;

/* Begin a new file FOLDER/events.out.tfevents.TIME.HOST.PID. What earlier files hold behind `step` is told to be void,
 * as a restart at that step does. */
np_status np_tfevents_open(const char *folder, int64_t step, np_tfevents **out);
/* Append one event with all scalars and flush it. */
np_status np_tfevents_put(np_tfevents *events, int64_t step, const np_scalar *scalars, int count);
void np_tfevents_close(np_tfevents *events); /* NULL is fine */

/* The masked CRC of a record. */
uint32_t np_tfevents_crc(const void *bytes, size_t size);

#endif
