/* The benches, one file each, csrc/cli/bench_NAME.c; argv[0] is NAME. */
#ifndef NP_CLI_BENCH_H
#define NP_CLI_BENCH_H

int np_cli_bench_allreduce(int argc, char **argv);
int np_cli_bench_attention(int argc, char **argv);
int np_cli_bench_ops(int argc, char **argv);
int np_cli_bench_step(int argc, char **argv);

#endif
