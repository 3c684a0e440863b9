/* Lines for the person who runs the program, on standard error. Results go to standard output. */
#ifndef NP_UTIL_LOG_H
#define NP_UTIL_LOG_H

typedef enum np_log_level { NP_LOG_QUIET, NP_LOG_WARNING, NP_LOG_INFO, NP_LOG_DEBUG } np_log_level;

/* Lines above this level are dropped. Default NP_LOG_INFO. */
void np_log_set_level(np_log_level level);

/* Which of several processes this is, "rank 3", in its warnings and its last line; NULL: the only one. Copied. */
void np_log_set_name(const char *name);

/* One whole line, written with one system call so that threads do not interleave. When a progress bar stands on
 * the terminal it is cleared first (see np_log_set_status). No newline needed at the end of `format`. */
void np_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void np_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void np_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* How a process ends: "error: rank 3: TEXT", for whatever level; the same text again is not told twice. */
void np_log_end(const char *word, const char *text);

/* The last line of a terminal (a progress bar), redrawn after every log line; NULL removes it. The text is copied. A
 * no-op when standard error is not a terminal. */
void np_log_set_status(const char *text);

#endif
