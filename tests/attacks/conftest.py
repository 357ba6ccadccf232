from pathlib import Path

import pytest

from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.build.native.compiler import find_compiler


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What hostile code makes where it is run."""
    return tmp_path / "it-ran"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has built nothing yet: the record of its user."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "rnn-export" / "trust"


@pytest.fixture
def compiler() -> None:
    try:
        find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))
