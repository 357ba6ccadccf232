#!/usr/bin/env bash
# Makes .venv-qnn or .venv-rknn, in which the emulator of an NPU is, and runs the program of its page there:
#   scripts/npu_venv.sh qnn     Qualcomm's HTP: onnxruntime-qnn, 0.5 GB
#   scripts/npu_venv.sh rknn    Rockchip's: rknn-toolkit2, which pins torch 2.4 with all of CUDA, 5.5 GB
# A second run finds everything in place; two at once wait for each other. x86-64 Linux alone has these emulators.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  qnn) packages=(onnxruntime-qnn==2.7.0 onnxruntime==1.32.0 numpy) ;;
  rknn) packages=(rknn-toolkit2==2.5.0) ;;
  *) echo "usage: scripts/npu_venv.sh qnn|rknn" >&2; exit 2 ;;
esac
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "the emulator of $1 is for x86-64 Linux, this is $(uname -sm)" >&2; exit 1; }
[ -x .venv/bin/python ] || { echo "there is no .venv: run ./scripts/test or ./scripts/demo first" >&2; exit 1; }
venv=.venv-$1
exec 9>".$1-venv.lock"
flock 9
wanted="${packages[*]} $(.venv/bin/python -V)"
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$venv"
  .venv/bin/python -m venv "$venv"
  echo "Installing ${packages[*]} into $venv (minutes the first time) ..." >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
  printf '%s\n' "$wanted" >"$venv/installed"
fi
exec .venv/bin/python -m pytest -q tests/test_npu_pages.py -k "$1"
