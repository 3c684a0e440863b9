/* Patience: a thread that ends this process when it has waited too long for others, which a library's call cannot. */
#ifndef NP_DIST_WATCH_H
#define NP_DIST_WATCH_H

#include "util/status.h"

typedef struct np_watch np_watch;

/* seconds 0: never ends it, but still looks. */
np_status np_watch_start(int seconds, np_watch **out);
void np_watch_stop(np_watch *watch); /* NULL is fine, here and below */

/* The wait between begin and end counts; `what` is waited for, and must outlast it. */
void np_watch_begin(np_watch *watch, const char *what);
void np_watch_end(np_watch *watch);

/* During a wait `look` is called now and then, on the watch's thread; its error ends the process, too. */
void np_watch_look(np_watch *watch, np_status (*look)(void *context), void *context);

#endif
