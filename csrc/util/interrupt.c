#include "util/interrupt.h"

#include <signal.h>
#include <stddef.h>

static const int watched[] = {SIGTERM, SIGUSR1, SIGINT};
enum { WATCHED = sizeof watched / sizeof *watched };

static volatile sig_atomic_t noted;
static struct sigaction before[WATCHED];

static void note(int signal) {
  if (!noted) noted = signal;
}

void np_interrupt_watch(void) {
  noted = 0;
  for (int i = 0; i < WATCHED; i++) {
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    if (watched[i] == SIGINT) action.sa_flags |= (int)SA_RESETHAND; /* a person who presses ^C twice means it */
    sigemptyset(&action.sa_mask);
    sigaction(watched[i], &action, &before[i]);
  }
}

int np_interrupt_signal(void) { return noted; }

void np_interrupt_release(void) {
  for (int i = 0; i < WATCHED; i++) sigaction(watched[i], &before[i], NULL);
}
