#include "util/build.h"

#include "np_build_config.h"

const char *np_build_version(void) { return NP_BUILD_VERSION; }
const char *np_build_commit(void) { return NP_BUILD_COMMIT; }
