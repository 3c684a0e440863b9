/* Several processes of the program under test, started as a launcher starts them. */
#ifndef NP_TESTS_RANKS_START_H
#define NP_TESTS_RANKS_START_H

#include "system/run.h"

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>

#ifdef NP_RANKS_GPU
#include "dist/comm.h"
#include "ops/cuda.h"
#endif

enum { NP_RANKS_MOST = 8 };

typedef struct np_ranks {
  int world;
  int count; /* of processes that this one waits for: ranks, or mpirun alone */
  pid_t pid[NP_RANKS_MOST];
  int exit_code[NP_RANKS_MOST]; /* or -SIGNAL */
  FILE *file;                   /* standard error of all */
  char err[65536];
} np_ranks;

static inline void np_ranks_fork(np_ranks *r, int i, const char *const *argv, void (*before)(int rank, int world)) {
  r->pid[i] = fork();
  if (r->pid[i] < 0) perror("fork"), abort();
  if (r->pid[i] > 0) return;
  dup2(fileno(r->file), 2);
  if (before) before(i, r->world);
  execvp(argv[0], (char *const *)argv);
  _exit(127);
}

static inline void np_ranks_set(const char *name, int value) {
  char text[16];
  snprintf(text, sizeof text, "%d", value);
  setenv(name, text, 1);
}

#ifdef NP_RANKS_GPU
/* The program beside this one, in a pack, or two folders further up, in a build. */
extern char np_ranks_program[4096]; /* np_ranks_lack finds it */
#define NP_PROGRAM np_ranks_program
extern int np_ranks_gpus;

/* Why this machine cannot run `most` ranks: GPUs are too few, and NCCL does not let them be shared; or NULL. */
static inline const char *np_ranks_lack(int most) {
  static const char *const places[] = {"nextpatch", "../../nextpatch"};
  char here[3000];
  ssize_t length = readlink("/proc/self/exe", here, sizeof here - 1);
  here[length > 0 ? length : 0] = 0;
  *(strrchr(here, '/') ? strrchr(here, '/') : here) = 0;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    snprintf(np_ranks_program, sizeof np_ranks_program, "%s/%s", here, places[i]);
    if (access(np_ranks_program, X_OK) == 0) break;
  }
  np_ranks_gpus = np_cuda_device_count();
  if (np_ranks_gpus == 0) return "no GPU";
  if (np_comm_nccl_version() == 0) return "no NCCL";
  return np_ranks_gpus < most && np_comm_nccl_version() < 23000 ? "few GPUs, which NCCL shares from 2.30 on" : NULL;
}

static inline void np_ranks_show_gpu(int rank, int world) {
  if (world <= np_ranks_gpus) return;
  setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 1);
  if (!getenv("CUDA_VISIBLE_DEVICES")) np_ranks_set("CUDA_VISIBLE_DEVICES", rank % np_ranks_gpus);
}
#else
static inline void np_ranks_show_gpu(int rank, int world) {
  (void)world;
  np_ranks_set("CUDA_VISIBLE_DEVICES", rank); /* as if each were shown its own: the emulated GPU is one */
}
#endif

/* As torchrun does, on one machine. */
static inline void np_ranks_environment(int rank, int world) {
  np_ranks_set("RANK", rank);
  np_ranks_set("WORLD_SIZE", world);
  np_ranks_set("LOCAL_RANK", rank);
  np_ranks_set("LOCAL_WORLD_SIZE", world);
  setenv("MASTER_ADDR", "localhost", 1);
  np_ranks_show_gpu(rank, world);
}

/* words: the program's arguments, NULL at the end. A world of 1 is started by hand. */
static inline void np_ranks_start(np_ranks *r, int world, const char *const *words) {
  const char *argv[64] = {0};
  char number[16];
  int n = 0;
  *r = (np_ranks){.world = world, .file = tmpfile()};
  if (!r->file) perror("tmpfile"), abort();
  fflush(NULL);
  snprintf(number, sizeof number, "%d", world);
  np_ranks_set("MASTER_PORT", 20000 + (int)(getpid() % 20000)); /* one run at a time in a test, one test a process */
#ifdef NP_RANKS_MPI
  const char *const mpirun[] = {NP_MPIRUN, "-np", number, "--oversubscribe", "--bind-to", "none"};
  for (size_t i = 0; world > 1 && i < sizeof mpirun / sizeof *mpirun; i++) argv[n++] = mpirun[i];
#endif
  argv[n++] = NP_PROGRAM;
  while (*words && n < 63) argv[n++] = *words++;
#ifdef NP_RANKS_MPI
  setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1); /* other tests have a use for the cores */
  r->count = 1;
  np_ranks_fork(r, 0, argv, NULL);
#else
  r->count = world;
  for (int i = 0; i < world; i++) np_ranks_fork(r, i, argv, world > 1 ? np_ranks_environment : NULL);
#endif
}

static inline void np_ranks_reap(np_ranks *r, int i) {
  int status;
  if (waitpid(r->pid[i], &status, 0) != r->pid[i]) perror("waitpid"), abort();
  r->exit_code[i] = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Whether one has ended already: for who waits for something else of it. */
static inline bool np_ranks_ended(const np_ranks *r) {
  siginfo_t about = {0};
  for (int i = 0; i < r->count; i++)
    if (waitid(P_PID, (id_t)r->pid[i], &about, WEXITED | WNOHANG | WNOWAIT) == 0 && about.si_pid != 0) return true;
  return false;
}

static inline void np_ranks_wait(np_ranks *r) {
  for (int i = 0; i < r->count; i++) np_ranks_reap(r, i);
  np_run_slurp(r->file, r->err, sizeof r->err);
}

/* The first one ends by itself; then the others are ended, as a launcher does. */
static inline void np_ranks_wait_first(np_ranks *r) {
  np_ranks_reap(r, 0);
  for (int i = 1; i < r->count; i++) kill(r->pid[i], SIGKILL);
  for (int i = 1; i < r->count; i++) np_ranks_reap(r, i);
  np_run_slurp(r->file, r->err, sizeof r->err);
}

/* The process of a rank: mpirun's child that has it in its environment. */
static inline pid_t np_ranks_pid(const np_ranks *r, int rank) {
#ifdef NP_RANKS_MPI
  char wanted[64], path[320], text[32768];
  DIR *processes = opendir("/proc");
  pid_t found = 0;
  snprintf(wanted, sizeof wanted, "OMPI_COMM_WORLD_RANK=%d", rank);
  for (struct dirent *entry; processes && !found && (entry = readdir(processes));) {
    int parent = 0;
    pid_t pid = atoi(entry->d_name);
    if (pid < 2) continue;
    snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%*d (%*[^)]) %*c %d", &parent) != 1) parent = 0;
    if (file) fclose(file);
    if (parent != r->pid[0]) continue;
    snprintf(path, sizeof path, "/proc/%s/environ", entry->d_name);
    file = fopen(path, "r");
    size_t bytes = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) fclose(file);
    text[bytes] = 0;
    for (size_t at = 0; at < bytes; at += strlen(text + at) + 1)
      if (!strcmp(text + at, wanted)) found = pid;
  }
  if (processes) closedir(processes);
  if (!found) fprintf(stderr, "no process of rank %d\n", rank), abort();
  return found;
#else
  return r->pid[rank];
#endif
}

#endif
