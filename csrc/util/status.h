/* Status codes and the one error message of a thread.
 *
 * A function that can fail returns np_status. Where the failure is known it calls
 * np_error(code, "what, where, what was expected"), which stores the message and hands the
 * code back; callers relay the code unchanged through one `goto out` ladder (NP_TRY) and only
 * main prints. The message belongs to the calling thread until its next np_error. */
#ifndef NP_UTIL_STATUS_H
#define NP_UTIL_STATUS_H

#ifdef __cplusplus /* the kernels' launchers */
extern "C" {
#endif

typedef enum np_status {
  NP_OK = 0,
  NP_ERR_ARGUMENT,    /* the user asked for something that cannot be: recipe, command line, shape */
  NP_ERR_IO,          /* the operating system refused: open, read, write, rename, no space */
  NP_ERR_FORMAT,      /* bytes that are not what they should be: damaged image, truncated file */
  NP_ERR_MEMORY,      /* not enough memory */
  NP_ERR_LIBRARY,     /* a library call failed for a reason of its own */
  NP_ERR_NUMERIC,     /* non-finite loss or gradient, too often in a row */
  NP_ERR_INTERRUPTED, /* stopped by a signal after saving its work */
} np_status;

/* Store a message for this thread and return `code`. At most 1023 bytes are kept. */
np_status np_error(np_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Put "context: " in front of the stored message and return `code`. */
np_status np_error_context(np_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The calling thread's last message; "" when there was none. Never NULL. */
const char *np_error_message(void);

#ifdef __cplusplus
}
#endif

/* Relay: on failure keep the code in `st` and leave through `out`. Needs both in scope. */
#define NP_TRY(expr)                                                                                                   \
  do {                                                                                                                 \
    if ((st = (expr)) != NP_OK) goto out;                                                                              \
  } while (0)

#endif
