/* Files that a subcommand writes at its end. */
#ifndef NP_CLI_OUTPUT_H
#define NP_CLI_OUTPUT_H

#include "util/status.h"

/* Whether `path`, the value of `key`, can be written, asked before the work: minutes of it are not lost to a slip of
 * the keyboard. Makes the folder it is in. NP_ERR_ARGUMENT where it is a folder itself, NP_ERR_IO where nothing can be
 * written. */
np_status np_cli_check_output(const char *key, const char *path);

#endif
