#!/bin/sh
# Set up, build and run every test; then the unit and golden tests again under the sanitizers. Safe to run again.
# NP_JOBS: compile jobs and tests at a time (all cores).
set -eu
cd "$(dirname "$0")/.."
jobs=${NP_JOBS:-$(nproc)}

scripts/setup.sh

check() { # preset, then arguments for ctest
  preset=$1
  shift
  echo "== $preset"
  cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 || { cat "build/$preset.configure.log"; exit 1; }
  cmake --build --preset "$preset" -- -j"$jobs"
  ctest --preset "$preset" -j"$jobs" "$@"
}

mkdir -p build
check asan-ubsan -L 'unit|golden'
check tsan -L 'unit|golden'
check release
