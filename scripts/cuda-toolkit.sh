#!/bin/sh
# The CUDA toolkit that a build needs (nvcc, runtime, cuBLASLt, cuDNN, NCCL) in build/cuda/toolkit, from the Python packages that NVIDIA
# publishes: nothing is installed outside, and no root is needed. `scripts/setup.sh --cuda` calls it; CMake finds it there. Safe to run
# again. 1.4 GB are downloaded, 2.4 GB lie there then.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/build/cuda
toolkit=$folder/toolkit
wanted=$(cat scripts/python.cuda)

if [ -f "$folder/done" ] && [ "$(cat "$folder/done")" = "$wanted" ]; then
  echo "setup: CUDA toolkit in $toolkit"
  exit 0
fi
rm -rf "$folder"
python3 -m venv "$folder/python"
"$folder/python/bin/pip" install -q --disable-pip-version-check --no-cache-dir -r scripts/python.cuda

# The packages lie in folders of their own, and libraries have no names for a linker: make it one toolkit of the usual shape.
packages=$(echo "$folder"/python/lib/python3*/site-packages/nvidia)
mv "$packages/cu13" "$toolkit"
ln -s lib "$toolkit/lib64"
for part in cudnn nccl; do
  mv "$packages/$part"/include/*.h "$toolkit/include/"
  mv "$packages/$part"/lib/lib* "$toolkit/lib/"
done
rm -rf "$folder/python"
for file in "$toolkit"/lib/lib*.so.*; do
  name=${file%%.so.*}.so
  [ -e "$name" ] || ln -s "$(basename "$file")" "$name"
done
"$toolkit/bin/nvcc" --version >/dev/null
printf '%s\n' "$wanted" >"$folder/done"
echo "setup: CUDA toolkit in $toolkit"
