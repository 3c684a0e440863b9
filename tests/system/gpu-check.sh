#!/bin/bash
# scripts/gpu-check as far as it goes without a GPU: pack a build, refuse in one line where there is no GPU, run the
# whole flow dry on the CPU, and say no when a check fails.
#
#   tests/system/gpu-check.sh BUILD
set -eu
build=$(realpath "$1") root=$(realpath "$(dirname "$0")/../..")
folder=$(mktemp -d "${TMPDIR:-/tmp}/nextpatch-gpu-check-XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
fail() { echo "error: gpu-check test: $*" >&2; exit 1; }

GPU_CHECK_BACKEND=cpu "$root/scripts/gpu-check" pack "$folder/pack" "$build" || fail "pack"

if ! "$build/nextpatch" doctor | grep -q '^  GPU 0 '; then
  status=0
  pack/gpu-check run >out 2>err || status=$?
  [ "$status" = 1 ] && [ ! -s out ] && [ "$(wc -l <err)" = 1 ] &&
    grep -q '^error: gpu-check: no GPU on this machine' err || fail "without a GPU: exit status $status, $(cat out err)"
fi

export GPU_CHECK_BACKEND=cpu
stages='tests golden train repeat ranks use sanitizer bench recompute pretrain'
pack/gpu-check run $stages --out results || fail "the dry run failed"
python3 - results/*.json <<'PY' || fail "the record lacks something"
import json, sys
record = json.load(open(sys.argv[1], encoding="utf-8"))
results = {row["result"] for row in record["rows"]}
assert record["dry_run"] and record["commit"] and results <= {"passed", "skipped", "measured"}, results
assert {"bench attention", "bench ops", "bench step", "doctor", "pretrain", "recompute"} <= set(record["results"]), record["results"].keys()
PY

# A program that fails, one that never ends, and a curve that goes elsewhere.
printf '#!/bin/sh\necho broken >&2\nexit 1\n' >pack/unpacked/bin/test_unit_ops_gelu
if pack/gpu-check run tests --out failed >out 2>&1; then fail "a failed test went unnoticed"; fi
grep -q '^failed    unit.ops_gelu (broken)' out || fail "a failed test is not told: $(cat out)"
printf '#!/bin/sh\nexec sleep 100\n' >pack/unpacked/bin/test_unit_ops_gelu
if pack/gpu-check run tests --minutes 0.05 --out late >out 2>&1; then fail "a test that hangs went unnoticed"; fi
grep -q '^timeout   unit.ops_gelu' out || fail "a test that hangs is not told: $(cat out)"
sed -i 's/^def curve_distance(a, b, window):$/&\n    a = [x * 1.02 for x in a]/' pack/gpu_check_stages.py
if pack/gpu-check run train --out astray >out 2>&1; then fail "a curve that goes astray went unnoticed"; fi
grep -q '^failed    20 steps .*fp32: 2 % off' out || fail "a curve that goes astray is not told: $(cat out)"

# A stage that breaks is told, and those behind it run.
sed -i 's/^def stage_golden(check):$/&\n    raise KeyError("planted")/' pack/gpu_check_stages.py
if pack/gpu-check run golden sanitizer --out broken >out 2>&1; then fail "a broken stage went unnoticed"; fi
grep -q "^failed    stage golden (KeyError: 'planted')" out && grep -q '"what": "compute-sanitizer"' broken/*.json ||
  fail "a broken stage is not told, or ends the run: $(cat out)"

# On a machine with a GPU (here doctor says so) a program that skips itself, or a pack with nothing in it, checks nothing.
cat >pack/unpacked/bin/nextpatch <<'SH'
#!/bin/sh
echo '{"GPU": {"GPU 0": "planted"}, "processor": {"model": "planted"}}'
SH
printf '#!/bin/sh\necho "SKIPPED: no GPU"\nexit 77\n' >pack/unpacked/bin/golden
mkdir -p pack/unpacked/golden/pretrain-planted && touch pack/unpacked/golden/pretrain-planted/case.json
cp "$root"/scripts/gpu_check_*.py pack/
export GPU_CHECK_BACKEND=cuda
if pack/gpu-check run golden --out skipping >out 2>&1; then fail "a golden program without a GPU passes"; fi
grep -q '^failed    golden pretrain-planted.*(skipped itself: SKIPPED: no GPU)' out || fail "it is not told: $(cat out)"
rm -r pack/unpacked/golden
for stage in tests golden sanitizer; do
  if pack/gpu-check run $stage --out empty >out 2>&1; then fail "$stage: a pack without any passes"; fi
  grep -q '^1 failed, 1 passed' out || fail "$stage: a pack without any is not told: $(cat out)"
done

# Not finite is not near, wherever in a curve or a vector it stands.
python3 - "$root/scripts" <<'PY' || fail "what is not finite passes"
import math, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from gpu_check_stages import curve_distance, features_distance
nan, inf = math.nan, math.inf
assert curve_distance([1, 1, 2, 2], [1, 1, 1, 1], 2) == 1
for curve in ([nan, 1, 1, 1], [1, 1, 1, nan], [1, 1, nan, 1, 1, 1], [1, 1, inf, 1], []):
    assert not curve_distance(curve, [1.0] * len(curve), 2) <= 0.01, curve
    assert not curve_distance([1.0] * len(curve), curve, 2) <= 0.01, curve
assert features_distance([1, 2.5], [1, 2]) == 0.25
for ours, theirs in (([1, nan], [1, 2]), ([1, 2], [1, nan]), ([1, inf], [1, inf]), ([1], [1, 2]), ([], []), ([0], [0])):
    assert not features_distance(ours, theirs) <= 1e-3, (ours, theirs)
PY
