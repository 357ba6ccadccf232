"""The command that an error advises fits the way in which this copy of the package was installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rnn_export.platform import installing
from rnn_export.platform.installing import pip_install

ROOT = Path(__file__).parent.parent
WHEEL = "rnn_export-0.2.0-py3-none-any.whl"


@pytest.fixture
def source(monkeypatch):
    """A function that sets pip's record of the package and if it is a checkout."""

    def came(direct, checkout=False):
        monkeypatch.setattr(installing, "_direct_url", lambda: direct)
        if not checkout:
            monkeypatch.setattr(installing, "__file__", "/nowhere/site-packages/rnn_export/installing.py")
        installing._source.cache_clear()

    yield came
    installing._source.cache_clear()


def test_of_a_checkout_it_names_the_checkout(source):
    source({}, checkout=True)
    assert pip_install("cpu") == f"pip install -e '{ROOT}[cpu]'"
    assert pip_install("export,cpu", again=True) == f"pip install --force-reinstall -e '{ROOT}[export,cpu]'"


def test_of_an_index_it_is_the_name_alone(source):
    source({})
    assert pip_install("export,cpu") == "pip install 'rnn-export[export,cpu]'"


def test_of_a_wheel_it_names_the_file_as_long_as_it_is_there(source, tmp_path):
    wheel = tmp_path / "it's here {1}" / WHEEL
    source({"url": wheel.as_uri(), "archive_info": {}})
    assert pip_install("cpu") == f"pip install '{WHEEL}[cpu]'"
    wheel.parent.mkdir()
    wheel.touch()
    source({"url": wheel.as_uri(), "archive_info": {}})
    command = ["sh", "-c", pip_install("cpu").replace("pip install", "printf %s")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{wheel}[cpu]"


def test_of_a_repository_it_names_the_commit(source):
    source({"url": "https://example.org/rnn-export.git", "vcs_info": {"vcs": "git", "commit_id": "0f3a"}})
    assert pip_install("cpu") == "pip install 'rnn-export[cpu] @ git+https://example.org/rnn-export.git@0f3a'"


def test_of_an_address_it_names_the_address(source):
    source({"url": f"https://example.org/{WHEEL}", "archive_info": {}})
    assert pip_install("cpu") == f"pip install 'rnn-export[cpu] @ https://example.org/{WHEEL}'"


def test_what_pip_wrote_is_read_from_the_installed_copy(tmp_path):
    """A copy as pip lays it out, without its project beside it."""
    package = tmp_path / "site" / "rnn_export"
    (package / "platform").mkdir(parents=True)
    for name in ("__init__.py", "lazy.py", "moved.py", "platform/__init__.py", "platform/installing.py"):
        (package / name).write_text((ROOT / "rnn_export" / name).read_text())
    info = tmp_path / "site" / "rnn_export-0.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rnn-export\nVersion: 0.2.0\n")
    (info / "direct_url.json").write_text(json.dumps({"url": f"file:///mnt/usb/{WHEEL}", "archive_info": {}}))
    code = "from rnn_export.platform.installing import pip_install; print(pip_install('cpu'))"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "site", check=True)
    assert done.stdout == f"pip install '{WHEEL}[cpu]'\n"
