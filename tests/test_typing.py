"""Type checkers on an installed package, in a folder that is not this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = ROOT / "tests" / "typing"
NOT_SOURCE = shutil.ignore_patterns(".*", "*.egg-info", "dist", "out", "__pycache__", "*.rnnx")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the package installed, and with the libraries of this one."""
    place = tmp_path_factory.mktemp(request.param)
    source = shutil.copytree(ROOT, place / "source", symlinks=True, ignore=NOT_SOURCE)
    shutil.rmtree(source / "build", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site]
    how = ["--editable"] if request.param == "editable" else []
    # An editable install has no --target: it goes by way of a prefix.
    if how:
        pip = [sys.executable, "-m", "pip", "--python", place / "venv/bin/python", *pip[3:-2]]
    # Libraries come after the package itself: the one that is installed here must not be seen.
    libraries = [name for name in Path(sysconfig.get_path("purelib")).iterdir() if "rnn_export" not in name.name]
    for library in libraries:
        link = site / library.name
        if not link.exists() and library.suffix != ".pth":
            link.symlink_to(library)
    subprocess.run([*pip, *how, source], check=True)
    return place / "venv" / "bin" / "python"


def check_mypy(python: Path, file: str, folder: Path) -> set[int]:
    """Lines with an error, of a copy of `file` in a folder of a user's own."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--python-executable", python, file]
    cache = {**os.environ, "MYPY_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=cache, check=False)
    assert not done.stderr, done.stderr
    return lines(done.stdout, rf"^{file}:(\d+): error")


def check_pyright(python: Path, file: str, folder: Path) -> set[int]:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python, file]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {item["range"]["start"]["line"] + 1 for item in found if item["severity"] == "error"}


def lines(text: str, pattern: str) -> set[int]:
    return {int(number) for number in re.findall(pattern, text, re.MULTILINE)}


@pytest.mark.parametrize("check", [check_mypy, check_pyright])
def test_a_user_s_file_passes_and_each_wrong_line_is_refused(python, check, tmp_path):
    for path in FILES.glob("*.py"):
        shutil.copy(path, tmp_path)
    # No settings of a folder above this one.
    (tmp_path / "pyrightconfig.json").write_text("{}")
    (tmp_path / "mypy.ini").write_text("[mypy]\n")
    assert check(python, "user.py", tmp_path) == set()
    marked = (FILES / "refused.py").read_text().splitlines()
    assert check(python, "refused.py", tmp_path) == {
        n for n, line in enumerate(marked, 1) if line.endswith("# refused")
    }
