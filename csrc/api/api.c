/* The public C API (include/nextpatch/nextpatch.h) as thin calls into the rooms. */
#include "nextpatch/nextpatch.h"

#include "util/build.h"
#include "util/status.h"

_Static_assert((int)NEXTPATCH_OK == (int)NP_OK && (int)NEXTPATCH_ERROR_ARGUMENT == (int)NP_ERR_ARGUMENT &&
                   (int)NEXTPATCH_ERROR_IO == (int)NP_ERR_IO && (int)NEXTPATCH_ERROR_FORMAT == (int)NP_ERR_FORMAT &&
                   (int)NEXTPATCH_ERROR_MEMORY == (int)NP_ERR_MEMORY &&
                   (int)NEXTPATCH_ERROR_LIBRARY == (int)NP_ERR_LIBRARY &&
                   (int)NEXTPATCH_ERROR_NUMERIC == (int)NP_ERR_NUMERIC &&
                   (int)NEXTPATCH_ERROR_INTERRUPTED == (int)NP_ERR_INTERRUPTED,
               "the public status is the internal one by value");

const char *nextpatch_version(void) { return np_build_version(); }
const char *nextpatch_error(void) { return np_error_message(); }
