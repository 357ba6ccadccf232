import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..runtime.graphs import MODELS  # noqa: TID252


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
    """Fails where a test took longer than so many seconds of this process."""
    import time

    begin = time.process_time()
    return lambda seconds: None if time.process_time() - begin < seconds else pytest.fail(f"over {seconds} s")
