#!/bin/sh
# Set up, build and run every test three times: under AddressSanitizer and UndefinedBehaviorSanitizer, under ThreadSanitizer, and as
# users run it. Twenty to twenty-five minutes on two cores; safe to run again.
# NP_JOBS: compile jobs and tests at a time (all cores).
set -eu
cd "$(dirname "$0")/.."
jobs=${NP_JOBS:-$(nproc)}

scripts/setup.sh

check() {
  preset=$1
  echo "== $preset"
  cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 || { cat "build/$preset.configure.log"; exit 1; }
  cmake --build --preset "$preset" -- -j"$jobs"
  ctest --preset "$preset" -j"$jobs"
}

mkdir -p build
check asan-ubsan
check tsan
check release

grep -q 'NP_BUILD_CUDA_OPERATORS *1' build/release/generated/np_build_config.h ||
  echo "note: no CUDA operators in these builds (NP_CUDA=OFF, or no toolkit): no kernel was compiled for a GPU"
