# Sourced by the scripts here: makes .venv where it is not there and installs the package with the extras named in $1.
# A run finds everything in place where each of its extras was installed for the same pyproject.toml and list of files.
extras=$1
fail() { printf '%s\n' "$*" >&2; exit 1; }

if [ ! -x .venv/bin/python ]; then
  command -v python3 >/dev/null || fail "python3 is missing: apt install python3 python3-venv"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python 3.10 or newer is needed, this is $(python3 -V)."
  python3 -m venv .venv || { rm -rf .venv; fail "the venv module is missing: apt install python3-venv"; }
fi

# The installed package is a tree of links, one for each file.
state=$(cat pyproject.toml setup.cfg; find models export runtime rnn_export -type f -not -path '*/__pycache__/*' | LC_ALL=C sort)
have=,
for stamp in .venv/installed-*; do
  if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then have=$have${stamp#.venv/installed-},; else rm -f "$stamp"; fi
done
lacking=
for extra in ${extras//,/ }; do [[ $have == *,$extra,* ]] || lacking=$extra; done
if [ -n "$lacking" ]; then
  echo "Installing rnn-export[$extras] into .venv (some minutes the first time) ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
  printf '%s\n' "$state" >".venv/installed-$extras"
fi
