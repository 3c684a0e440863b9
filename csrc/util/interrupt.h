/* Signals that ask a run to save and leave. */
#ifndef NP_UTIL_INTERRUPT_H
#define NP_UTIL_INTERRUPT_H

/* From here until np_interrupt_release SIGTERM, SIGUSR1 and SIGINT are only noted. A second SIGINT ends the program at
 * once. */
void np_interrupt_watch(void);
/* The first signal noted; 0: none. */
int np_interrupt_signal(void);
/* Give back the handlers that stood before. */
void np_interrupt_release(void);

#endif
