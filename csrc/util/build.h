/* What this build is, for the record of a run. */
#ifndef NP_UTIL_BUILD_H
#define NP_UTIL_BUILD_H

const char *np_build_version(void); /* "0.1.0" */
const char *np_build_commit(void);  /* git describe at configure time, "unknown" outside a checkout */

#endif
