#!/bin/sh
# Build the fuzz preset and run every target tests/fuzz/fuzz_*.c. Exits non-zero on a crash, a leak or a hang; the input that
# caused it is then in build/fuzz/found/NAME.
#
#   scripts/fuzz.sh [SECONDS [NAME...]]     seconds for each target, default 60; names without fuzz_, default all
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -gt 0 ] && shift

programs=build/fuzz/tests/fuzz
[ $# -gt 0 ] || set -- $(cd tests/fuzz && ls fuzz_*.c | sed 's/^fuzz_//; s/\.c$//')
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target make_seeds $(printf 'fuzz_%s ' "$@")

# Seeds: images from make_seeds, tars of files at hand; others from tests/fuzz/seeds/NAME, recipes/ and tests/data.
seeds() {
  mkdir -p "build/fuzz/corpus/$1" "build/fuzz/found/$1"
  [ -d "tests/fuzz/seeds/$1" ] && cp -r "tests/fuzz/seeds/$1/." "build/fuzz/corpus/$1/"
  case $1 in
  image) $programs/make_seeds "build/fuzz/corpus/$1" ;;
  recipe) for f in recipes/*.yaml; do [ -f "$f" ] && cp "$f" "build/fuzz/corpus/$1/"; done ;;
  shard)
    for format in v7 ustar oldgnu gnu posix; do
      tar -b 1 --format=$format -cf "build/fuzz/corpus/$1/$format" --transform 's,$,.png,' .gitignore scripts/packages.*
    done
    tar -b 1 --format=posix -cf "build/fuzz/corpus/$1/long" --transform 's,.*,folder/&/&/&/&/&/&/&/&/&/&/&/é.jpg,' scripts/packages.cuda ;;
  safetensors) head -c 4096 tests/data/pillow.safetensors >"build/fuzz/corpus/$1/cut" ;;
  esac
  return 0
}

failed=0
for name in "$@"; do
  seeds "$name"
  echo "fuzz: $name for $seconds s"
  log=build/fuzz/found/$name.log
  if "$programs/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=8192 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name/" "build/fuzz/corpus/$name" >"$log" 2>&1; then
    grep -E 'number_of_executed_units|average_exec_per_sec|new_units_added' "$log" | sed 's/^/  /'
  else
    failed=1
    tail -n 40 "$log"
    echo "error: fuzz_$name failed; its input is in build/fuzz/found/$name" >&2
  fi
done
exit $failed
