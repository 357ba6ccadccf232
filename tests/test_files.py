"""A file is written as a whole or not at all."""

import os
from pathlib import Path

import pytest

from rnn_export.platform.files import save_atomically


def test_a_file_appears_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with save_atomically(path) as place:
        place.write_text("new")
        assert path.read_text() == "old"
        assert place.name == "a.txt"
    assert path.read_text() == "new"
    monkeypatch.chdir(tmp_path)
    with save_atomically(Path("b.txt")) as place:
        place.write_text("beside")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_after_an_error_all_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), save_atomically(path) as place:
        place.write_text("half \ud800")
    with pytest.raises(FileNotFoundError), save_atomically(path):
        pass
    with pytest.raises(OSError, match="No such file or directory"), save_atomically(tmp_path / "none/a.txt"):
        pass
    assert (os.listdir(tmp_path), path.read_text()) == (["a.txt"], "old")
