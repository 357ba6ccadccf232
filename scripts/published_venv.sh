#!/usr/bin/env bash
# Makes .venv-published: the packages of tests/published, whose pins no other venv could keep, beside what .venv has.
# A second run finds everything in place; two at once wait for each other.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || { echo "there is no .venv: run ./scripts/test or ./scripts/demo first" >&2; exit 1; }
exec 9>.published-venv.lock
flock 9
venv=.venv-published
wanted=$(cat tests/published/packages.txt tests/published/older.txt scripts/published_venv.sh; .venv/bin/python -V)
[ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ] || exit 0
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
echo "Installing published models into $venv (a minute the first time) ..." >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r tests/published/packages.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$venv/older" -r tests/published/older.txt
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/beside.pth"
printf '%s\n' "$wanted" >"$venv/installed"
