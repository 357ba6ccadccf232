#!/usr/bin/env bash
# Makes .venv-triton: NVIDIA's Triton server as the package nvidia-pytriton has it (python backend alone, some 500 MB), and
# this package in its Python. The tests of tests/triton start it; a user runs NVIDIA's container instead.
# A second run finds everything in place; two at once wait for each other.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { printf '%s\n' "$*" >&2; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || fail "nvidia-pytriton has Triton for Linux on x86-64 alone, this is $(uname -sm)."
# That of the tests, so that numbers come from one numpy and one onnxruntime where they can.
python=.venv/bin/python
[ -x "$python" ] || python=python3
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
  3.10 | 3.11 | 3.12 | 3.13) ;;
  *) fail "nvidia-pytriton has a stub for Python 3.10 to 3.13, this is $version." ;;
esac

exec 9>.triton-venv.lock
flock 9
venv=.venv-triton
packages=(nvidia-pytriton==0.7.0 "onnxruntime>=1.20")
wanted=$(printf '%s\n' "$version" "${packages[@]}"; cat scripts/triton_venv.sh)
[ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ] || exit 0

if [ "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != "$version" ]; then
  rm -rf "$venv"
  "$python" -m venv "$venv" || { rm -rf "$venv"; fail "the venv module is missing: apt install python3-venv"; }
fi
echo "Installing Triton into $venv (a minute the first time) ..." >&2
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" "${packages[@]}"
"${pip[@]}" --no-deps --editable .

# The server looks for the stub beside the backend, and takes it for the Python it was built with.
site=$(cd "$venv"/lib/python*/site-packages && pwd)
server=$site/pytriton/tritonserver
rm -rf "$venv/backends"
mkdir -p "$venv/backends/python"
cp "$server"/backends/python/*.py "$venv/backends/python/"
ln -s "$server/backends/python/libtriton_python.so" "$venv/backends/python/"
ln -s "$server/python_backend_stubs/$version/triton_python_backend_stub" "$venv/backends/python/"
cat >"$venv/bin/tritonserver" <<SCRIPT
#!/bin/sh
venv=\$(cd "\$(dirname "\$0")/.." && pwd)
libdir=\$("\$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
export LD_LIBRARY_PATH="$site/nvidia_pytriton.libs:\$libdir" PATH="\$venv/bin:\$PATH"
exec "$server/bin/tritonserver" --backend-directory="\$venv/backends" "\$@"
SCRIPT
chmod +x "$venv/bin/tritonserver"
printf '%s\n' "$wanted" >"$venv/installed"
