#!/bin/sh
# The whole thing in small, on this machine, without any download: make images, pretrain on them, probe what was learnt beside a
# trunk of random weights, write a report. Run again it goes on where it was stopped and pretrains no step twice.
#
#   scripts/demo.sh [FOLDER] [KEY=VALUE ...]     FOLDER: demo; keys are those of recipes/demo.yaml, as in
#                                                `scripts/demo.sh short train.steps=300`: a run of other keys has another folder
set -eu
caller=$PWD
cd "$(dirname "$0")/.."
folder=$PWD/demo
case "${1:-}" in
  "" | [a-z]*=*) ;;
  /*) folder=$1; shift ;;
  *) folder=$caller/$1; shift ;;
esac

scripts/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release
nextpatch=build/release/nextpatch

say() { printf '\n== %s\n' "$*"; }

say "images: $folder/images"
"$nextpatch" synth "$folder/images"

say "pretrain: $folder/run"
"$nextpatch" pretrain recipes/demo.yaml data.train="$folder/images/train" run.dir="$folder/run" "$@"

probe() { # pretrained | random
  say "probe: $1 trunk"
  "$nextpatch" probe "$folder/run" data="$folder/images" init="$1" out="$folder/run/probe-$1.safetensors" >"$folder/probe-$1.txt"
  cat "$folder/probe-$1.txt"
}
probe pretrained "$@"
probe random "$@"

say "report"
"$nextpatch" report "$folder/run" images="$folder/images/val" out="$folder/report.html"

say "top-1 on $folder/images/val, which neither trunk nor probe has seen"
grep -h ' trunk: top-1 ' "$folder/probe-pretrained.txt" "$folder/probe-random.txt"
echo "report: $folder/report.html"
