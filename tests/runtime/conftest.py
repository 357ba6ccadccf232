import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from rnn_export.bundle import open_bundle
from rnn_export.errors import BackendUnavailable, ExportError
from rnn_export.runtime import Engine, load
from rnn_export.runtime.build.c_names import identifier
from rnn_export.runtime.build.native.compilers import find_compiler

from .graphs import MODELS
from .host_engine import host_engine
from .native_toys import by_hand, model_sources, with_native
from .stand_ins import CudaRuntime, Machine
from .team_toys import by_team
from .wasm_toys import need_zig, wasm_draft

# Backends that go through every test here; the others through the contract, each test with that mark once.
WHOLE = ("onnxruntime", "native")
# By backend and model.
Engines = Callable[[str], Callable[[str], Engine]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here, seen = Path(__file__).parent, set[tuple[str, str]]()
    items[:] = [item for item in items if item.path.parent != here or _is_held(item, seen)]


def _is_held(item: pytest.Item, seen: set[tuple[str, str]]) -> bool:
    """`seen` are the tests of the contract that a backend has already."""
    spec = getattr(item, "callspec", None)
    backend = spec.params.get("engine") if spec else None
    if backend is None or backend in WHOLE:
        return True
    key = (item.nodeid.partition("[")[0], backend)
    is_first = key not in seen
    seen.add(key)
    return is_first and item.get_closest_marker("contract") is not None


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a model by name, written once."""
    folder = tmp_path_factory.mktemp("bundles")
    return cache(lambda name: MODELS[name].write(folder / f"{name}.rnnx"))


@pytest.fixture(scope="session")
def native_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a model by name with its step compiled for this machine, written once."""
    try:
        find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("native")

    @cache
    def write(name: str) -> Path:
        path = MODELS[name].write(folder / f"{name}.rnnx")
        with_native(path, model_sources(name), identifier(name))
        return path

    return write


@pytest.fixture(scope="session")
def team_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same of a model written by hand, that a team of threads can step."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a team of two needs two cores")
    folder = tmp_path_factory.mktemp("team")

    @cache
    def write(name: str) -> Path:
        path = MODELS[name].write(folder / f"{name}.rnnx")
        with_native(path, by_team(by_hand(name, MODELS[name]), identifier(name)), identifier(name))
        return path

    return write


def on_openvino(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    pytest.importorskip("openvino", reason="openvino: pip install 'rnn-export[openvino]'")
    from .openvino_toys import with_openvino

    folder = request.getfixturevalue("tmp_path_factory").mktemp("openvino")

    def get(name: str) -> Engine:
        try:
            return load(with_openvino(folder / f"{name}.rnnx", MODELS[name]), backend="openvino")
        except ExportError as error:
            pytest.skip(str(error))

    return get


def on_litert(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    pytest.importorskip("ai_edge_litert", reason="litert: pip install 'rnn-export[litert]'")
    from .litert_toys import PATH, file_of

    return lambda name: Engine.of(MODELS[name].draft("litert", {PATH: file_of(MODELS[name])}), "litert")


def on_executorch(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    pytest.importorskip("executorch", reason="executorch: pip install 'rnn-export[executorch]'")
    pytest.importorskip("torch", reason="ExecuTorch's runtime for Python needs torch")
    from .executorch_toys import PATH, files

    def get(name: str) -> Engine:
        if name not in files():
            pytest.skip("each model takes a second to convert: a few of them are")
        return Engine.of(MODELS[name].draft("executorch", {PATH: files()[name]}), "executorch")

    return get


def on_torchscript(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    pytest.importorskip("torch")
    from .torch_toys import torchscript_draft

    return lambda name: Engine.of(torchscript_draft(name), "torchscript")


def on_wasm(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    need_zig()
    return lambda name: Engine.of(wasm_draft(name), "wasm")


def on_native(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    compiled = request.getfixturevalue("native_bundle")
    return lambda name: load(compiled(name), backend="native")


def on_onnxruntime(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    written = request.getfixturevalue("bundle")
    return lambda name: load(written(name), backend="onnxruntime")


def on_tensorrt(request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    """Without a GPU."""
    written = request.getfixturevalue("bundle")
    return lambda name: host_engine(open_bundle(written(name)))


BACKENDS = {
    "onnxruntime": on_onnxruntime, "tensorrt": on_tensorrt, "native": on_native, "openvino": on_openvino,
    "litert": on_litert, "executorch": on_executorch, "torchscript": on_torchscript, "wasm": on_wasm,
}  # fmt: skip


@pytest.fixture(scope="session")
def engines(request: pytest.FixtureRequest) -> Engines:
    """By backend, the engine of a model by name, loaded once."""
    return cache(lambda backend: cache(BACKENDS[backend](request)))


@pytest.fixture(scope="session", params=BACKENDS)
def engine(request: pytest.FixtureRequest, engines: Engines) -> Callable[[str], Engine]:
    """The engine of a model by name: the suite holds every backend to the same."""
    return engines(request.param)


def engine_on(backend: str) -> Callable[[Engines], Callable[[str], Engine]]:
    return pytest.fixture(scope="session")(lambda engines: engines(backend))


openvino_engine, litert_engine, executorch_engine = map(engine_on, ("openvino", "litert", "executorch"))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaRuntime:
    """The CUDA runtime and driver in host memory, in the place of cuda-python's."""
    runtime = CudaRuntime()
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, name, runtime)
    return runtime


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, cuda: CudaRuntime) -> Machine:
    """A machine that can run the engines which its `write` writes."""
    machine = Machine(cuda)
    monkeypatch.setattr("rnn_export.runtime.backends.tensorrt.nvidia.driver", machine.driver)
    monkeypatch.setattr("rnn_export.runtime.backends.tensorrt.library.find_library", machine.find_library)
    return machine


@pytest.fixture
def compiler() -> None:
    """Skip the test if there is no compiler."""
    try:
        find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))
