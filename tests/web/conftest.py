import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime.build.wasm.wasm_build import build_wasm

from ..zoo import store  # noqa: TID252
from ..zoo.nets import NETS  # noqa: TID252
from .node import need


class Packed(NamedTuple):
    """A bundle with C and with the package, and the folder of that."""

    bundle: Path
    folder: Path


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Packed]:
    """A model of the C tests, or another net of the zoo that has C, by name, built for the target wasm."""
    need("zig", "wasmtime", "node")
    place = tmp_path_factory.mktemp("packed")

    @cache
    def build(name: str) -> Packed:
        path = place / f"{name}.rnnx"
        shutil.copytree(store.bundle(f"{name}-in-c" if f"{name}-in-c" in NETS else name), path)
        build_wasm(open_bundle(path))
        return Packed(path, path / "targets" / "wasm-fp32")

    return build
