# Sourced by the scripts here: makes .venv where it is not there and installs the package with the extras named in $1.
# A second run with the same pyproject.toml, extras and list of files finds everything in place.
extras=$1
fail() { printf '%s\n' "$*" >&2; exit 1; }

if [ ! -x .venv/bin/python ]; then
  command -v python3 >/dev/null || fail "python3 is missing: apt install python3 python3-venv"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python 3.10 or newer is needed, this is $(python3 -V)."
  python3 -m venv .venv || { rm -rf .venv; fail "the venv module is missing: apt install python3-venv"; }
fi

stamp=.venv/installed-$extras
# The installed package is a tree of links, one for each file.
state=$(cat pyproject.toml setup.cfg; find models export runtime rnn_export -type f -not -path '*/__pycache__/*' | LC_ALL=C sort)
if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
  echo "Installing rnn-export[$extras] into .venv (some minutes the first time) ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
  # Whatever else was installed here has the links too.
  rm -f .venv/installed-*
  printf '%s\n' "$state" >"$stamp"
fi
