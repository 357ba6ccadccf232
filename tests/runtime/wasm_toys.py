"""The models of `graphs` as WebAssembly, in bundles that were never written."""

import pytest

from rnn_export.bundle.draft import Draft
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.build.c_names import identifier
from rnn_export.runtime.build.wasm.wasm_modules import compile_wasm, find_zig

from .graphs import MODELS
from .native_toys import model_sources


def need_zig() -> None:
    pytest.importorskip("wasmtime")
    try:
        find_zig()
    except BackendUnavailable as error:
        pytest.skip(str(error))


def wasm_draft(name: str) -> Draft:
    """A model with its two modules."""
    modules = compile_wasm(model_sources(name), identifier(name), MODELS[name].spec)
    return MODELS[name].draft("wasm", {f"targets/wasm-fp32/{file}": data for file, data in modules.items()})
