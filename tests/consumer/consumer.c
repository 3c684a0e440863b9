/* Embeds the engine through its public header alone. Exit status 0 when every call did what the header says. */
#include <nextpatch/nextpatch.h>

#include <stdio.h>
#include <string.h>

static int failures;

static void expect(int truth, const char *what) {
  if (truth) return;
  fprintf(stderr, "consumer: %s; last message: %s\n", what, nextpatch_error());
  failures++;
}

int main(void) {
  expect(!strncmp(nextpatch_version(), "0.", 2), "version");
  expect(!strcmp(nextpatch_error(), ""), "no message before the first failure");
  return failures != 0;
}
