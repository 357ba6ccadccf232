from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from rnn_export.runtime import Engine, load

from .graphs import MODELS


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a model by name, written once."""
    folder = tmp_path_factory.mktemp("bundles")
    return cache(lambda name: MODELS[name].write(folder / f"{name}.rnnx"))


@pytest.fixture(scope="session")
def engine(bundle: Callable[[str], Path]) -> Callable[[str], Engine]:
    """The engine of a model by name, loaded once."""
    return cache(lambda name: load(bundle(name)))
