import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..runtime.conftest import compiler  # noqa: F401, TID252
from ..runtime.graphs import MODELS  # noqa: TID252


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that hostile code creates."""
    return tmp_path / "it-ran"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has built nothing yet: the record of its user."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "rnn-export" / "trust"


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a running sum of three values, on ONNX alone."""
    return MODELS["sum"].write(tmp_path_factory.mktemp("pristine") / "sum.rnnx")


@pytest.fixture
def path(pristine: Path, tmp_path: Path) -> Path:
    """A copy of it, to be forged."""
    return Path(shutil.copytree(pristine, tmp_path / "sum.rnnx"))


@pytest.fixture
def quick() -> Callable[[float], None]:
    """Fails a test that takes the CPU time of `times` loops of a million steps: the machine's speed cancels out."""
    begin = time.process_time()

    def check(times: float) -> None:
        taken, begin_loop = time.process_time() - begin, time.process_time()
        for i in range(1_000_000):
            abs(i)
        loop = time.process_time() - begin_loop
        assert taken < times * loop, f"{taken:.2f} s, over {times} loops of {loop:.3f} s"

    return check
