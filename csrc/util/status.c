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
  char context[MESSAGE_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(context, sizeof context, format, args);
  va_end(args);
  return np_error(code, "%s: %s", context, message);
}

const char *np_error_message(void) { return message; }
