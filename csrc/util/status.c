#include "util/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };
static _Thread_local char message[MESSAGE_BYTES];

np_status np_error(np_status code, const char *format, ...) {
  char text[MESSAGE_BYTES]; /* apart from `message`: an argument may be the old message */
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  memcpy(message, text, sizeof message);
  return code;
}

np_status np_error_context(np_status code, const char *format, ...) {
  char text[MESSAGE_BYTES];
  va_list args;
  va_start(args, format);
  int used = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (used < 0) used = 0;
  if (used < MESSAGE_BYTES) snprintf(text + used, sizeof text - (size_t)used, ": %s", message);
  memcpy(message, text, sizeof message);
  return code;
}

const char *np_error_message(void) { return message; }
