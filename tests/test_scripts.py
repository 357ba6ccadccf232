"""The shell scripts around the package: those that install, and reuse of an installation."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "export", "runtime", "rnn_export")
# A Python whose pip only writes down what it is asked for.
PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >>installed.log
[ ! -e broken ]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in (*FOLDERS, "scripts", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/venv.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("one")
    (tmp_path / "setup.cfg").write_text("")
    (tmp_path / ".venv/bin/python").write_text(PYTHON)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    return tmp_path


def install(checkout: Path, extras: str) -> int:
    """Source scripts/venv.sh with `extras` as the scripts do; how often pip ran."""
    log = checkout / "installed.log"
    log.write_text("")
    subprocess.run(["bash", "-euo", "pipefail", "-c", f". scripts/venv.sh {extras}"], cwd=checkout, check=True)
    ran = log.read_text().splitlines()
    assert all(line.endswith(f"--editable .[{extras}]") for line in ran), ran
    return len(ran)


def test_scripts_that_take_turns_install_once(checkout):
    demo, everything, docs = "export,cpu,plot", "export,cpu,openvino,plot,docs,dev", "export,cpu,docs"
    assert [install(checkout, e) for e in (demo, demo, everything, demo, docs, everything)] == [1, 0, 1, 0, 0, 0]


def test_extras_that_were_installed_one_after_the_other_are_all_in_place(checkout):
    assert [install(checkout, e) for e in ("export,cpu,plot", "export,cpu,docs", "plot,docs")] == [1, 1, 0]


def test_an_extra_is_not_found_within_another_s_name(checkout):
    assert [install(checkout, e) for e in ("litert-export,cpu", "export,cpu", "litert,cpu")] == [1, 1, 1]


def test_whatever_changes_what_is_linked_installs_anew(checkout):
    assert install(checkout, "export,cpu") == 1
    (checkout / "runtime/new.py").write_text("")
    assert [install(checkout, e) for e in ("cpu", "cpu", "export,cpu")] == [1, 0, 1]
    (checkout / "runtime/new.py").unlink()
    # The links are those of the other list of files, however old the stamp.
    assert [install(checkout, e) for e in ("export,cpu", "cpu")] == [1, 0]
    (checkout / "pyproject.toml").write_text("two")
    assert install(checkout, "cpu") == 1


def test_an_installation_that_fails_is_no_installation(checkout):
    (checkout / "broken").touch()
    with pytest.raises(subprocess.CalledProcessError):
        install(checkout, "cpu")
    (checkout / "broken").unlink()
    assert [install(checkout, "cpu"), install(checkout, "cpu")] == [1, 0]
