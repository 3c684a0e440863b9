#!/bin/sh
# Install what nextpatch is built from: Debian 12 packages, nothing else. Safe to run again: when all are there it does nothing
# and needs neither root nor a network.
#
#   scripts/setup.sh             what a build and the tests need (packages.build)
#   scripts/setup.sh --cuda      also a CUDA toolkit, into build/cuda, which CMake then takes before an installed one (cuda-toolkit.sh)
#   scripts/setup.sh --develop   also clang, for the fuzz preset and the formatter (packages.develop)
set -eu
here=$(cd "$(dirname "$0")" && pwd)

lists=$here/packages.build
then=:
for argument; do
  case "$argument" in
    --cuda) lists="$lists $here/packages.cuda" then=$here/cuda-toolkit.sh ;;
    --develop) lists="$lists $here/packages.develop" ;;
    *) echo "error: setup.sh: unknown argument '$argument'; usage: scripts/setup.sh [--cuda] [--develop]" >&2; exit 2 ;;
  esac
done
if ! command -v apt-get >/dev/null; then
  echo "error: setup.sh needs Debian's apt-get; elsewhere install the counterparts of the packages in $lists" >&2
  exit 1
fi

missing=
for package in $(cat $lists); do
  dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $package"
done
if [ -z "$missing" ]; then
  echo "setup: all packages are installed"
  "$then"
  exit 0
fi

as_root=
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "error: setup.sh: these packages are missing, and installing them takes root (no sudo here):$missing" >&2
    exit 1
  fi
  as_root=sudo
fi
echo "setup: installing$missing"
$as_root apt-get update -q
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
"$then"
