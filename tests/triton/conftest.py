import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest

from rnn_export.export.triton.repository import write_repository

from ..native.needs import need  # noqa: TID252
from ..runtime.graphs import MODELS  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .server import Server

BUNDLE = Callable[[str], Path]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> BUNDLE:
    """The bundle of a model by name, written once: one of tests/runtime/graphs.py, or `lstm`, of two
    layers, and `lstm_in_c`, compiled for this machine too."""
    place = tmp_path_factory.mktemp("served")

    @cache
    def write(name: str) -> Path:
        path = place / f"{name}.rnnx"
        if name in MODELS:
            return MODELS[name].write(path)
        if name == "lstm_in_c":
            need("gcc|clang")
        net = {"lstm": "two-layers-on-onnx", "lstm_in_c": "two-layers"}[name]
        # A model has the name of its bundle.
        return Path(shutil.copytree(store.bundle(net), path))

    return write


@contextmanager
def serving(bundle: BUNDLE, place: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server of a model by name, with options of `write_repository`; all are stopped at the end."""
    with ExitStack() as stack:

        def start(name: str, exit_timeout_s: int = 5, **options: object) -> Server:
            repository = place / f"{len(list(place.iterdir()))}-{name}"
            write_repository(bundle(name), repository, **options)
            return stack.enter_context(Server(repository, exit_timeout_s=exit_timeout_s))

        yield start


@pytest.fixture
def serve(bundle: BUNDLE, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`serving`, until the test is over."""
    with serving(bundle, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def serve_long(bundle: BUNDLE, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`serving`, until the module is over."""
    with serving(bundle, tmp_path_factory.mktemp("repositories")) as start:
        yield start
