/* What is queued on the emulated GPU: kernels and, from the runtime's stand-in, copies. Usually run at once; while a
 * recording is made, kept in it instead. */
#ifndef NP_SIMT_QUEUE_H
#define NP_SIMT_QUEUE_H

#include <cstddef>
#include <functional>
#include <vector>

extern "C" {
#include "util/status.h"
}

namespace simt {

typedef std::function<np_status()> work;

/* The recording that this host thread makes; NULL: none. */
extern thread_local std::vector<work> *recording;

np_status submit(work what);

} // namespace simt

#endif
