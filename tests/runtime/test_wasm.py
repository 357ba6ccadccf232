"""The backend wasm: loading, and refusals with the reason."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rnn_export.platform.installing import pip_install
from rnn_export.runtime import Engine

from ..messages import raises  # noqa: TID252
from .wasm_toys import need_zig, wasm_draft

MODULE = "targets/wasm-fp32/model.wasm"


@pytest.fixture(scope="module")
def draft():
    need_zig()
    return wasm_draft("sum")


def with_module(draft, data):
    return replace(draft, files={**draft.files, MODULE: data})


def test_an_engine_says_what_it_is(draft):
    engine = Engine.of(draft, "wasm")
    assert (engine.backend, engine.device, engine.precision, engine.batches) == ("wasm", "cpu", "fp32", (1, None))
    stream = engine.stream(batch=2)
    stream.step(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(stream.step(np.ones((2, 3), np.float32)), np.full((2, 3), 2))


def test_it_is_never_taken_by_auto(draft):
    with raises("no-backend-runs") as refused:
        Engine.of(draft)
    assert "wasm" not in str(refused.value).replace("only wasm", "")


def test_what_it_cannot_do_is_refused(draft):
    for options, message in (
        ({"device": "cuda"}, ("wasm-device-unknown", "'cuda'")),
        ({"threads": 2}, ("wasm-one-thread", "2")),
        ({"precision": "int8"}, ("target-precision-missing", "'wasm' in fp32", "int8")),
    ):
        with raises(*message):
            Engine.of(draft, "wasm", **options)


def test_what_is_no_module_of_the_bundle_is_refused(draft):
    row = replace(draft.targets[0], files=("targets/wasm-fp32/model-scalar.wasm",))
    for other, message in (
        (with_module(draft, b"\0asm"), ("wasmtime-cannot-load", "wasm-fp32/model.wasm")),
        (with_module(draft, wasm_draft("pair").files[MODULE]), ("wasm-module-differs",)),
        (replace(draft, targets=(row,)), ("wasm-module-missing", "fp32", "model.wasm")),
        (replace(draft, targets=()), ("target-not-in-bundle", "'wasm'", "none")),
    ):
        with raises(*message):
            Engine.of(other, "wasm")


def test_without_wasmtime_it_says_what_to_install():
    code = (
        "import sys\nsys.modules['wasmtime'] = None\n"
        "from rnn_export.errors import BackendUnavailable\n"
        "try: import rnn_export.runtime.backends.wasm.backend\n"
        "except BackendUnavailable as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("wasmtime is not here (")
    assert done.stdout.endswith(f"{pip_install('wasm')}.\n")


def test_streams_on_several_threads_share_nothing(draft):
    from concurrent.futures import ThreadPoolExecutor

    engine = Engine.of(draft, "wasm")

    def count(steps):
        stream = engine.stream()
        return [stream.step(np.ones(3, np.float32))[0] for _ in range(steps)][-1]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, [50, 51, 52, 53])) == [50, 51, 52, 53]


def test_a_module_imports_nothing(draft):
    import wasmtime

    engine = wasmtime.Engine()
    for name in ("sum", "tokens"):
        for data in (draft if name == "sum" else wasm_draft(name)).files.values():
            assert wasmtime.Module(engine, data).imports == []
