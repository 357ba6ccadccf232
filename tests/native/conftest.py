import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.export import export

from ..zoo import store  # noqa: TID252
from .models import MODELS, Library, Written
from .needs import need
from .quality import FAST, STRICT, lay_out, run


@pytest.fixture(scope="session")
def exported() -> Callable[..., Bundle]:
    """The bundle of a model by name, with C in one precision; in fp32 there is ONNX too."""
    need("gcc|clang")
    return cache(lambda name, precision="fp32": open_bundle(store.bundle(f"{name}-in-c", precision)))


@pytest.fixture(scope="session")
def written(exported: Callable[..., Bundle]) -> Callable[[str, str], Written]:
    return cache(lambda name, precision: Written.of(exported(name, precision), precision))


@pytest.fixture(scope="session")
def compiled(
    written: Callable[[str, str], Written], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Path]:
    """A folder with the sources of a model and NAME.o, as a user compiles it for any x86-64, made once."""
    place = tmp_path_factory.mktemp("compiled")

    @cache
    def make(name: str, precision: str, compiler: str) -> Path:
        need(compiler)
        its = written(name, precision)
        folder = place / f"{name}-{precision}-{compiler}"
        folder.mkdir(exist_ok=True)
        lay_out(its.files, folder)
        # Without what some distributions have their compilers add.
        plain = ("-fPIC", "-fno-stack-protector", "-U_FORTIFY_SOURCE")
        run([compiler, *STRICT, *FAST, *plain, "-c", f"{its.name}.c"], folder)
        return folder

    return make


@pytest.fixture(scope="session")
def library(
    written: Callable[[str, str], Written], compiled: Callable[[str, str, str], Path]
) -> Callable[[str, str, str], Library]:
    """The step of a model as a shared library, made once."""
    return cache(
        lambda name, precision, compiler: Library(
            written(name, precision), compiler, compiled(name, precision, compiler)
        )
    )


@pytest.fixture
def lstm(exported: Callable[..., Bundle], tmp_path: Path) -> Path:
    """Its sources in fp32, compiled for this machine."""
    return Path(shutil.copytree(exported("lstm").path, tmp_path / "lstm.rnnx"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same net without C."""
    model, example, _ = MODELS["lstm"]()
    return export(model, example, tmp_path_factory.mktemp("bare") / "net.rnnx", steps=32).path


@pytest.fixture
def plain(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "net.rnnx"))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A hundred frames that the nets of 8 inputs hear."""
    np.save(tmp_path / "heard.npy", np.random.default_rng(2).standard_normal((100, 8)).astype(np.float32))
    return tmp_path / "heard.npy"
