"""Fingerprints of the bundle cache."""

import shutil
from pathlib import Path

import pytest

from .store import MAKERS, ROOT, fingerprint, sources


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that make bundles, elsewhere."""
    for path in sources(ROOT):
        to = tmp_path / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    return tmp_path


def test_a_copy_has_the_same_fingerprint(copy):
    assert fingerprint(copy, ["a"]) == fingerprint(ROOT, ["a"])


@pytest.mark.parametrize("folder", [*MAKERS, "tests/data"])
def test_a_changed_byte_changes_it(copy, folder):
    before = fingerprint(copy, [])
    file = next(path for path in sources(copy) if path.is_relative_to(copy / folder) and path.stat().st_size)
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert fingerprint(copy, []) != before
    file.write_bytes(data)
    assert fingerprint(copy, []) == before


def test_a_file_more_or_under_another_name_changes_it(copy):
    before = fingerprint(copy, [])
    new = copy / "export" / "more.py"
    new.write_text("")
    more = fingerprint(copy, [])
    new.rename(copy / "export" / "other.py")
    assert len({before, more, fingerprint(copy, [])}) == 3


def test_another_library_changes_it():
    assert fingerprint(ROOT, ["torch 2.9"]) != fingerprint(ROOT, ["torch 2.10"])


def test_templates_and_kernels_count():
    suffixes = {path.suffix for path in sources(ROOT)}
    assert {".py", ".h", ".c", ".S", ".npz"} <= suffixes


def test_what_only_shows_serves_or_times_a_bundle_does_not_count():
    names = [path.relative_to(ROOT).as_posix() for path in sources(ROOT)]
    assert not [name for name in names if name.startswith(("rnn_export/cli/", "runtime/serve/", "runtime/bench/"))]
    assert not [name for name in names if Path(name).name.startswith("test_")]
