"""Engines built into bundles, by the real TensorRT-RTX and on stand-ins for devices, drivers and libraries.

A device is libcuda, cuda-python's runtime, the files of a Jetson and the module `tensorrt`; its engines are run by ONNX
Runtime. Not run on hardware.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rnn_export.bundle import Bundle, atomic, extend_bundle, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import DeviceError, RnnExportError
from rnn_export.export import export
from rnn_export.export.add_target import add_target
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import load
from rnn_export.runtime.backends.tensorrt.library import BuilderSettings, find_library
from rnn_export.runtime.backends.tensorrt.nvidia import driver, jetson
from rnn_export.runtime.build.origin import find_row
from rnn_export.runtime.build.tensorrt.engine_build import BuildOptions, BuiltEngine, build_engine, plan_engine

from ..messages import raises  # noqa: TID252
from ..models.nets import Tagger  # noqa: TID252
from ..runtime import conftest  # noqa: TID252
from ..runtime.graphs import SUM, frames  # noqa: TID252
from ..runtime.host_engine import HostEngine  # noqa: TID252
from ..runtime.stand_ins import NAMES, CudaEngine  # noqa: TID252
from .fake_trt import Behaviour, Tensor, fake, products
from .test_machine import ORIN, RTX, Cuda, machine, tegra

NANO, AGX = "NVIDIA Jetson Orin Nano Developer Kit", "NVIDIA Jetson AGX Orin Developer Kit"
X, STEPS = frames(2, 20, 4) / 9, 24
cuda = conftest.cuda
BY_HAND = ("jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier")


# --- bundles


def exports(path: Path, **options) -> None:
    torch.manual_seed(0)
    export(Tagger(nn.LSTM).eval(), (torch.zeros(2, 7, 4),), path, steps=STEPS, **options)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The bundle of an LSTM with a head and the graphs of targets such as "tensorrt fp16", written once."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def write(*targets: str) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.rnnx"
        if not targets:
            exports(path, targets=["onnx", "tensorrt-rtx"])
            return path
        shutil.copytree(write(), path)
        for target, precision in (named.split() for named in targets):
            draft = add_target(open_bundle(path), target, TargetOptions(precision))
            extend_bundle(open_bundle(path), draft.targets[0], draft.files)
        return path

    write()
    return write


@pytest.fixture
def bundle(exported: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of it, alone in its folder. The targets "onnx fp32" and "tensorrt-rtx fp32" are always there."""

    def copy(*targets: str) -> Path:
        return Path(shutil.copytree(exported(*targets), tmp_path / "bundles" / "tagger.rnnx"))

    return copy


def adding(target: str, precision: str = "fp32") -> Callable[[Bundle], Draft]:
    return lambda opened: add_target(opened, target, TargetOptions(precision))


def built(
    path: Path,
    target: str,
    precision: str | None = None,
    *,
    add: Callable[[Bundle], Draft] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    **options: object,
) -> BuiltEngine:
    """As the command does it: a graph that the bundle lacks is a draft until its engine is there."""
    bundle = open_bundle(path)
    given = add(bundle) if add and find_row(bundle, target, precision) is None else bundle
    return build_engine(given, target, precision, BuildOptions(**options), progress)


def contents(path: Path) -> dict[Path, bytes | None]:
    """All that is in the bundle's folder and beside it."""
    return {place: place.read_bytes() if place.is_file() else None for place in path.parent.rglob("*")}


@contextmanager
def refused(path: Path, *message: object, kind: type[RnnExportError] | None = None) -> Iterator[None]:
    """One line, an id with values, and nothing of the bundle has changed."""
    before = contents(path)
    with raises(*message, kind=kind) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert contents(path) == before


def file(bundle: Bundle, target: str, name: str) -> bytes:
    return bundle.read(f"targets/{target}/{name}")


def names(done: BuiltEngine) -> set[str]:
    place = f"targets/{done.row.target}-{done.row.precision}/"
    assert all(name.startswith(place) for name in done.row.files)
    return {name.removeprefix(place) for name in done.row.files}


def streamed(path: Path, backend: str, precision: str | None = None) -> np.ndarray:
    return load(path, backend=backend, precision=precision).stream(batch=2).run(X)


# --- machines


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No GPU, no Jetson and no TensorRT, whatever this machine has; the files of a Jetson may come below `root`."""

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver, "__defaults__", (missing,))
    monkeypatch.setattr(jetson, "__defaults__", (tmp_path / "root",))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return tmp_path / "root"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple], None]:
    """Puts a GPU with its driver into the machine."""
    return lambda found: monkeypatch.setattr(driver, "__defaults__", (lambda name: Cuda([found]),))


@pytest.fixture
def device(monkeypatch, root, gpu, cuda) -> Callable[..., Behaviour]:
    """Makes a desktop, or with `board` a Jetson, with TensorRT; an engine computes what the graph says."""

    def become(board: str = "", version: str = "10.3", **changes) -> Behaviour:
        did = (trt := fake(version, **changes)).did
        did.reads = lambda graph: read(did, graph)
        did.engine = lambda plan: CudaEngine(HostEngine(plan, batch_of(did)), cuda)
        gpu(ORIN if board else RTX)
        if board:
            machine(root, board, tegra(36, "4.3"))
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        return did

    return become


def read(did: Behaviour, graph: bytes) -> None:
    """Record the inputs and layers of the graph; the plan is the graph itself."""
    host = HostEngine(graph)
    did.inputs = [Tensor(name, NAMES[host.dtype(name)], host.shape(name)) for name in host.inputs]
    kinds = {weight.data_type for weight in onnx.load_from_string(graph).graph.initializer}
    did.layers = products("HALF" if onnx.TensorProto.FLOAT16 in kinds else "FLOAT")
    did.plan = did.plan and graph


def batch_of(did: Behaviour) -> tuple[int, int, int]:
    shapes = [call[1] for call in did.calls if call[0] == "profile"][-1]
    return tuple(shape[0] for shape in shapes["x"])


def done(did: Behaviour, kind: str) -> list[tuple]:
    return [call[1:] for call in did.calls if call[0] == kind]


def said(library: str, version: str, compute: object, graph: bytes, batch: object = (1, 1, 8)) -> dict[str, object]:
    """The manifest's record of an engine."""
    digest = hashlib.sha256(graph).hexdigest()
    of_device = {"version": version, "compute_capability": compute}
    return {"library": library, **of_device, "onnx_sha256": digest, "batch": [*batch]}


# --- TensorRT-RTX, for real

RTX_FILES = {"step.onnx", "recipe.json", "step.engine", "build.log"}


@pytest.fixture(scope="module")
def rtx() -> str:
    pytest.importorskip("tensorrt_rtx", reason="rtx: pip install 'rnn-export[rtx]'")
    return find_library("tensorrt-rtx").version


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rtx_builds_an_engine_into_the_bundle(rtx, bundle, precision):
    path = bundle(*[f"tensorrt-rtx {precision}"] * (precision == "fp16"))
    before, stages = streamed(path, "onnxruntime"), []
    found = built(path, "tensorrt-rtx", precision, progress=stages.append)
    opened = open_bundle(path)
    graph, plan = (file(opened, f"tensorrt-rtx-{precision}", name) for name in ("step.onnx", "step.engine"))
    assert (found.bundle, found.row) == (opened, opened.target("tensorrt-rtx", precision))
    assert names(found) == RTX_FILES
    assert found.row.requires == said("tensorrt-rtx", rtx, ["8.6", "8.9", "12.0"], graph)
    assert (found.bytes, found.report, found.elsewhere) == (len(plan), None, "")
    assert (found.bytes > 1000, found.seconds > 0, stages) == (True, True, ["build", "write"])
    assert b"[INFO] Engine generation completed" in file(opened, f"tensorrt-rtx-{precision}", "build.log")
    np.testing.assert_array_equal(streamed(path, "onnxruntime"), before)
    with raises("nvidia-driver-missing"):
        load(path, backend="tensorrt")


def test_rtx_builds_from_a_on_disk_fp16_alone(rtx, tmp_path):
    path = tmp_path / "tagger.rnnx"
    exports(path, targets=["tensorrt-rtx"], precision="fp16", batch=(1, 2, 4))
    found = built(path, "tensorrt-rtx")
    assert (found.row.precision, found.row.requires["batch"]) == ("fp16", [1, 2, 4])
    assert [row for row in open_bundle(path).targets if row.target == "tensorrt-rtx"] == [found.row]


def test_another_batch_than_exported_and_a_second_build(rtx, bundle):
    path = bundle()
    first = built(path, "tensorrt-rtx")
    with refused(path, "engine-already-built", "tagger.rnnx", "tensorrt-rtx (fp32"):
        built(path, "tensorrt-rtx", batch=(2, 2, 4))
    again = built(path, "tensorrt-rtx", batch=(2, 2, 4), rebuild=True)
    recipe = json.loads(file(again.bundle, "tensorrt-rtx-fp32", "recipe.json"))
    assert (recipe["batch"], again.row.requires["batch"]) == ([2, 2, 4], [2, 2, 4])
    assert "--maxShapes=x:4x1x4," in recipe["trtexec"]
    assert names(again) == names(first)
    assert again.bundle == open_bundle(path)
    assert again.bundle != first.bundle


def test_a_graph_and_its_engine_are_written_at_once(rtx, bundle, monkeypatch):
    path, writes, write = bundle(), [], atomic.replace_directory
    monkeypatch.setattr(atomic, "replace_directory", lambda *given: (writes.append(given[0]), write(*given)))
    with refused(path, "engine-graph-missing", "'tensorrt-rtx' in fp16", "onnx (fp32), tensorrt-rtx (fp32)"):
        built(path, "tensorrt-rtx", "fp16")
    found = built(path, "tensorrt-rtx", "fp16", add=adding("tensorrt-rtx", "fp16"))
    assert names(found) == RTX_FILES
    rows = [f"{row.target} {row.precision}" for row in open_bundle(path).targets]
    assert (rows, writes) == (["onnx fp32", "tensorrt-rtx fp32", "tensorrt-rtx fp16"], [path])


@pytest.mark.parametrize("compute", [("8.9",), ()], ids=["one", "portable"])
def test_rtx_builds_for_the_gpus_that_are_asked_for(rtx, bundle, compute):
    path = bundle()
    plan = file(built(path, "tensorrt-rtx").bundle, "tensorrt-rtx-fp32", "step.engine")
    found = built(path, "tensorrt-rtx", compute=compute, rebuild=True)
    assert found.row.requires["compute_capability"] == list(compute)
    assert file(found.bundle, "tensorrt-rtx-fp32", "step.engine") != plan


# (its compute capability, what is asked for, whether the engine runs on it)
EXTRA = {
    "RTX 40": ((8, 9), None, True),
    "RTX 40, not asked for": ((8, 9), ("8.6", "12.0"), False),
    "RTX 40, portable": ((8, 9), (), True),
    "H100, portable": ((9, 0), (), False),
    "RTX 20, portable": ((7, 5), (), False),
}


@pytest.mark.parametrize(("capability", "compute", "runs"), EXTRA.values(), ids=EXTRA)
def test_rtx_asks_for_cuda_python_only_where_the_engine_runs(rtx, bundle, gpu, monkeypatch, capability, compute, runs):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    gpu(("a GPU", *capability, 2**30))
    path = bundle()
    if runs:
        with refused(path, "cuda-python-missing"):
            built(path, "tensorrt-rtx", compute=compute)
    else:
        assert built(path, "tensorrt-rtx", compute=compute).report is None


# --- the whole path on a device

DEVICES = {
    "desktop": ("tensorrt", "", "10.3", "12.0"),
    "desktop 11": ("tensorrt", "", "11.1", "12.0"),
    "orin nano": ("jetson-orin-nano", NANO, "10.3", "8.7"),
    "orin nano, JetPack 6.0": ("jetson-orin-nano", NANO, "8.6", "8.7"),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("target", "board", "version", "compute"), DEVICES.values(), ids=DEVICES)
def test_an_engine_is_built_proved_and_runs(bundle, device, target, board, version, compute, precision):
    path, stages = bundle(f"{target} {precision}"), []
    did = device(board, version)
    found = built(path, target, progress=stages.append)
    place, opened = f"{target}-{precision}", open_bundle(path)
    graph = file(opened, place, "step.onnx")
    assert done(did, "parse") == [(graph,)]
    assert (found.bundle, found.row) == (opened, opened.target(target, precision))
    assert names(found) == RTX_FILES | {"timing.cache", "parity.json"}
    assert found.row.requires == said("tensorrt", f"{version}.0", compute, graph)
    assert json.loads(file(opened, place, "parity.json")) == found.report.to_json()
    report = found.report
    assert (report.ok, report.backend, report.device, report.rows) == (True, "tensorrt", "cuda:0", 2)
    assert stages == ["build", "step", "sequence", "chunked", "reset", "snapshot", "batch-invariance", "pool", "write"]
    engine = load(path)
    assert (engine.backend, engine.precision, engine.batches) == ("tensorrt", precision, (1, 8))
    off = np.abs(streamed(path, "tensorrt") - streamed(path, "onnxruntime")).max()
    assert off < {"fp32": 1e-6, "fp16": 3e-3}[precision]


def test_a_plan_says_what_will_be_built(bundle, device):
    path, did = bundle("tensorrt fp16"), device()
    options = BuildOptions(batch=(1, 2, 3), memory=2**20)
    with refused(path, "engine-graph-missing", "'tensorrt' in fp32"):
        plan_engine(open_bundle(path), "tensorrt", "fp32", options)
    plan = plan_engine(open_bundle(path), "tensorrt", None, options)
    assert (plan.folder, plan.elsewhere, plan.origin.new) == ("targets/tensorrt-fp16", "", False)
    shapes = {"x": (1, 1, 4), "rnn.l0.h": (1, 6), "rnn.l0.c": (1, 6)}
    ranges = {name: tuple((batch, *shape[1:]) for batch in (1, 2, 3)) for name, shape in shapes.items()}
    assert plan.settings() == BuilderSettings("fp16", ranges, 2**20, (), None)
    graph = file(open_bundle(path), "tensorrt-fp16", "step.onnx")
    assert plan.requires() == said("tensorrt", "10.3.0", "12.0", graph, (1, 2, 3))
    assert did.calls == []
    draft = add_target(open_bundle(path), "jetson-orin-nano", TargetOptions())
    there = plan_engine(draft, "jetson-orin-nano", None, BuildOptions())
    assert there.elsewhere.startswith("an engine for jetson-orin-nano is built on that module, and this is no Jetson.")
    assert (there.builder.library, there.origin.new, there.memory) == (None, True, 2**30)


def test_the_profile_is_shared_where_tensorrt_has_to_be_told(bundle, device):
    path, did = bundle("jetson-orin-nano fp32"), device(NANO, "8.6")
    built(path, "jetson-orin-nano")
    assert done(did, "preview") == [("PROFILE_SHARING_0806", True)]
    did.calls = [call for call in did.calls if call[0] != "preview"]
    with raises("device-call-failed", "TensorRT made no execution context"):
        load(path, backend="tensorrt").stream()


@pytest.mark.parametrize(("batch", "rows"), [((1, 1, 1), 1), ((1, 2, 16), 2), ((4, 4, 8), 4)], ids=str)
def test_the_golden_vectors_fit_any_batch(bundle, device, batch, rows):
    path, did = bundle("tensorrt fp32"), device()
    found = built(path, "tensorrt", batch=batch)
    assert (found.report.rows, batch_of(did), found.row.requires["batch"]) == (rows, batch, [*batch])
    engine = load(path, backend="tensorrt")
    assert engine.batches == (batch[0], batch[2])
    with refused(path, "batch-outside-engine", "17", f"{batch[0]} to {batch[2]}"):
        engine.stream(batch=17)
    assert engine.stream(batch=batch[2]).batch == batch[2]


def test_a_timing_cache_of_a_stranger_is_left_aside(bundle, device, tmp_path, monkeypatch):
    path, did = bundle("tensorrt fp32"), device(known_cache=b"+timed")
    built(path, "tensorrt")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    again = built(path, "tensorrt", rebuild=True)
    assert done(did, "cache") == [(b"", False), (b"", False)]
    (note,) = again.notes
    assert note.startswith("targets/tensorrt-fp32/timing.cache is left aside, for it is not recorded as built here in ")
    third = built(path, "tensorrt", rebuild=True)
    assert (done(did, "cache")[-1], list(third.notes)) == ((b"+timed", False), [])


def test_the_timing_cache_goes_from_build_to_build(bundle, device):
    path, did = bundle("tensorrt fp32"), device(known_cache=b"+timed")
    first, again = (built(path, "tensorrt", rebuild=rebuild) for rebuild in (False, True))
    assert file(again.bundle, "tensorrt-fp32", "timing.cache") == b"+timed+timed"
    assert done(did, "cache") == [(b"", False), (b"+timed", False)]
    assert names(again) == names(first)


@pytest.mark.parametrize(
    ("target", "board", "asked", "given"),
    [
        ("jetson-orin-nano", NANO, None, [("WORKSPACE", 2**30)]),
        ("jetson-orin-nano", NANO, 2**26, [("WORKSPACE", 2**26)]),
        ("tensorrt", "", None, []),
    ],
)
def test_the_builder_gets_its_limit_of_memory(bundle, device, target, board, asked, given):
    did = device(board)
    built(bundle(f"{target} fp32"), target, memory=asked)
    assert done(did, "limit") == given


def test_a_graph_is_added_built_and_proved_at_once(bundle, device):
    path, _ = bundle(), device(NANO)
    add = adding("jetson-orin-nano", "fp16")
    found = built(path, "jetson-orin-nano", "fp16", add=lambda opened: replace(add(opened), notes=["of Conv"]))
    assert (found.report.ok, found.notes) == (True, ["of Conv"])
    built(path, "jetson-orin-nano", "fp32", add=adding("jetson-orin-nano"))
    assert [load(path, backend="tensorrt", precision=p).precision for p in ("fp32", "fp16")] == ["fp32", "fp16"]


def _with_other_weights(graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.01, weight.name))
    return model.SerializeToString()


@pytest.mark.parametrize("rebuild", [False, True])
def test_an_engine_that_computes_something_else(bundle, device, rebuild, cuda):
    path, did = bundle("tensorrt fp32"), device()
    if rebuild:
        built(path, "tensorrt")
    did.engine = lambda plan: CudaEngine(HostEngine(_with_other_weights(plan), batch_of(did)), cuda)
    with refused(path, "parity-diverges", "'step'", "step 1 of 24", "The bundle is as it was"):
        built(path, "tensorrt", rebuild=rebuild)


# --- what is refused, and leaves the bundle as it was


@dataclass(frozen=True)
class Case:
    """A build of `target` on a machine with `board`, or on a bare one (None), which lacks `without` and `fails`."""

    message: tuple[object, ...]
    target: str = "tensorrt"
    board: str | None = ""
    has: tuple[str, ...] | None = None
    precision: str | None = None
    options: dict[str, object] = field(default_factory=dict)
    changes: dict[str, object] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    fails: dict[str, str] = field(default_factory=dict)
    calls: bool = False
    adds: bool = False


NO_DRIVER = ("nvidia-driver-missing", "libcuda.so.1: cannot open", "install NVIDIA's driver")
NO_GRAPH = ("engine-graph-missing", "'jetson-thor'", "onnx (fp32), tensorrt-rtx (fp32)", "jetson-thor")
ELSEWHERE = "rnn-export build tagger.rnnx --target jetson-orin-nano --precision fp32"
OUT = {"plan": None, "says": [("ERROR", "CUDA error 2: out of memory")]}
MORE = "CUDA error 2: out of memory. Memory ran out: hold the builder to less than 1024 MiB"
ODD = {"refuses": ("LSTM", "rnn.l0", "coupled gates")}
CUDA = "cuda.bindings.runtime"
REFUSED = {
    "unknown": Case(("target-unknown", "'tensorrt-rtz': did you mean tensorrt-rtx or tensorrt"), "tensorrt-rtz", None),
    "no bf16": Case(("target-precision-unwritten", "'bf16'"), "jetson-agx-xavier", None, precision="bf16"),
    "no engine": Case(("engine-target-complete", "'onnx'"), "onnx", None),
    "no graph": Case(NO_GRAPH, "jetson-thor", None, ()),
    "no graph, on a Jetson": Case(NO_GRAPH, "jetson-thor", NANO, ()),
    "compute": Case(("engine-computes-fixed", "'tensorrt'"), board=None, options={"compute": ("8.9",)}),
    "unknown compute": Case(
        ("engine-computes-unknown", "8.6, 8.9, 12.0", "8.7"), "tensorrt-rtx", None, options={"compute": ("8.6", "8.7")}
    ),
    "no TensorRT": Case(
        ("tensorrt-library-missing", "TensorRT", f"{pip_install('tensorrt')}."), without=("tensorrt",)
    ),
    "no TensorRT on a Jetson": Case(
        ("tensorrt-library-missing", "TensorRT", "sudo apt install nvidia-jetpack, and make"),
        "jetson-orin-nano", NANO, without=("tensorrt",),
    ),
    "no TensorRT-RTX": Case(
        ("tensorrt-library-missing", "TensorRT-RTX", f"{pip_install('rtx')}."),
        "tensorrt-rtx", without=("tensorrt_rtx",),
    ),
    "no driver, no cuda-python": Case(NO_DRIVER, without=("driver", CUDA)),
    "no driver, and cuda-python says so": Case(
        NO_DRIVER, "jetson-orin-nano", NANO, without=("driver",), fails={"cudaSetDevice": "cudaErrorInsufficientDriver"}
    ),
    "no cuda-python": Case(("cuda-python-missing",), without=(CUDA,)),
    "no strong typing": Case(
        ("tensorrt-too-old", "'tensorrt'", "tensorrt 10.0", "8.6.0"), changes={"version": "8.6"}
    ),
    "a desktop for a Jetson": Case(
        ("engine-built-elsewhere", "this is no Jetson", ELSEWHERE), "jetson-orin-nano", ""
    ),
    "another Jetson": Case(("engine-built-elsewhere", f"this is a {AGX}", ELSEWHERE), "jetson-orin-nano", AGX),
    "an unreadable graph": Case(
        ("tensorrt-graph-unreadable", "node 'rnn.l0' (LSTM): coupled gates"), changes=ODD, calls=True
    ),
    "a new graph, unreadable": Case(
        ("tensorrt-graph-unreadable",), "jetson-orin-nano", NANO, (), changes=ODD, calls=True, adds=True
    ),
    "no memory": Case(("tensorrt-build-failed", MORE), "jetson-orin-nano", NANO, changes=OUT, calls=True),
    "no plan and no word": Case(
        ("tensorrt-build-failed", "its log gives no reason"), changes={"plan": None}, calls=True
    ),
    "batch": Case(("recipe-batch-malformed", "8:1:1"), options={"batch": (8, 1, 1)}),
    "memory of 0": Case(("tensorrt-memory-too-small", "0"), options={"memory": 0}),
    "an engine that does not load": Case(
        ("tensorrt-engine-unloadable", "TensorRT 10.3.0 cannot load", "magic tag"),
        changes={"loads": False, "says": [("ERROR", "plan header: magic tag does not match")]}, calls=True,
    ),
    "no memory for a stream": Case(
        ("device-call-failed", "no memory left"), fails={"cudaMalloc": "cudaErrorMemoryAllocation"}, calls=True
    ),
    "no capture": Case(
        ("device-call-failed", "cannot capture the step as a CUDA graph"),
        fails={"cudaGraphInstantiate": "cudaErrorMemoryAllocation"}, calls=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_built_is_refused(bundle, device, monkeypatch, cuda, name):
    case = REFUSED[name]
    graphs = [f"{case.target} fp32"] if TARGETS.get(case.target, SimpleNamespace(library=None)).library else []
    path = bundle(*(case.has if case.has is not None else [] if case.target == "tensorrt-rtx" else graphs))
    missing, did = driver.__defaults__, None
    if case.board is not None:
        changes = dict(case.changes)
        loads = changes.pop("loads", True)
        did = device(case.board, **changes)
        if not loads:
            did.engine = None
    for module in case.without:
        if module == "driver":
            monkeypatch.setattr(driver, "__defaults__", missing)
        else:
            monkeypatch.setitem(sys.modules, module, None)
    cuda.fails |= case.fails
    kind = RnnExportError if case.message[0] == "device-call-failed" else None
    with refused(path, *case.message, kind=kind):
        built(path, case.target, case.precision, add=adding(case.target) if case.adds else None, **case.options)
    assert case.calls or did is None or did.calls == []


def test_a_bundle_that_is_not_there(tmp_path):
    with raises("bundle-missing"):
        built(tmp_path / "no.rnnx", "tensorrt")


def test_an_operator_that_the_target_lacks(tmp_path, device):
    device(NANO)
    (tmp_path / "bundles").mkdir()
    odd = replace(SUM, step=[("Hardmax", ["x"], ["odd"], {}), ("Add", ["odd", "h"], ["y"], {}), *SUM.step[1:]])
    path = odd.write(tmp_path / "bundles" / "odd.rnnx")
    before = contents(path)
    with raises("tensorrt-rules-broken", "'jetson-orin-nano' does not take this graph:\n- node", "Hardmax"):
        built(path, "jetson-orin-nano", add=adding("jetson-orin-nano"))
    assert contents(path) == before


def test_a_gpu_that_cuda_python_cannot_use(bundle, device, cuda):
    path, did = bundle("tensorrt fp32"), device()
    cuda.fails["cudaStreamCreateWithFlags"] = "cudaErrorMemoryAllocation"
    before = contents(path)
    with pytest.raises(DeviceError, match=r"cudaErrorMemoryAllocation .*the GPU has no memory left"):
        built(path, "tensorrt")
    assert (contents(path), did.calls) == (before, [])


# --- Jetson modules, elsewhere


@pytest.mark.parametrize("target", BY_HAND)
def test_an_old_jetson_is_built_for_by_hand(bundle, target, root):
    path, old = bundle(f"{target} fp16"), TARGETS[target].jetpacks[0]
    by_hand = f"an engine for {target} is built by hand: it has JetPack {old.name} (TensorRT {old.tensorrt}), whose"
    copy = f"Copy tagger.rnnx/targets/{target}-fp16/step.onnx there and run, in its folder: trtexec --onnx=step.onnx"
    with refused(path, "engine-built-elsewhere", by_hand, copy):
        built(path, target)
    # On the module too: its TensorRT is for an older Python than the one that runs here.
    machine(root, "NVIDIA Jetson Xavier NX Developer Kit", tegra(35, "2.1"))
    with refused(path, "engine-built-elsewhere", f"an engine for {target} is built by hand", "trtexec --onnx"):
        built(path, target)


@pytest.mark.parametrize("target", ["jetson-orin-nano", "jetson-nano"])
def test_the_graph_for_a_jetson_is_written_elsewhere(bundle, target):
    path = bundle()
    found = built(path, target, "fp16", add=adding(target, "fp16"), batch=(1, 2, 4))
    assert names(found) == {"step.onnx", "recipe.json"}
    assert (found.bundle, found.row) == (open_bundle(path), open_bundle(path).target(target, "fp16"))
    assert (found.bytes, found.seconds, found.report) == (0, 0.0, None)
    recipe = json.loads(file(found.bundle, f"{target}-fp16", "recipe.json"))
    assert (recipe["batch"], found.row.requires["batch"]) == ([1, 2, 4], [1, 2, 4])
    assert found.elsewhere.startswith(f"an engine for {target} is built ")
    with refused(path, "engine-built-elsewhere", f"an engine for {target} is built"):
        built(path, target, add=adding(target))


def test_on_a_jetson_of_unknown_model_the_target_is_taken_at_its_word(bundle, device):
    """The advice of `target_of` is to name the module with --target."""
    path, _ = bundle("jetson-orin-nano fp32"), device("Forecr Orin board")
    assert built(path, "jetson-orin-nano").report.ok


# --- bundles that are not what they should be


def spoil(path: Path, **changes: bytes | None) -> Path:
    """Write files of the target "tensorrt fp32" anew, or leave them out; the manifest fits."""
    bundle = open_bundle(path)
    row = bundle.target("tensorrt", "fp32")
    files = {f"targets/tensorrt-fp32/{name.replace('_', '.')}": data for name, data in changes.items()}
    files = {name: data for name, data in {**{n: bundle.read(n) for n in row.files}, **files}.items() if data}
    extend_bundle(bundle, replace(row, files=tuple(files)), files)
    return path


def recipe_of(**changes) -> Callable[[dict], bytes]:
    return lambda recipe: json.dumps({**recipe, **changes}).encode()


SPOILT = {
    "no recipe": ("recipe_json", lambda recipe: None, ("engine-recipe-missing", "'tensorrt' (fp32")),
    "no JSON": ("recipe_json", lambda recipe: b"{", ("recipe-not-json",)),
    "half a recipe": ("recipe_json", lambda recipe: b"{}", ("recipe-fields-differ",)),
    "target": (
        "recipe_json",
        recipe_of(target="jetson-thor"),
        ("engine-recipe-differs", "jetson-thor (fp32", "tensor"),
    ),
    "hash": ("recipe_json", recipe_of(sha256="0" * 64), ("engine-recipe-differs", "000000000000")),
    "elsewhere": ("recipe_json", recipe_of(onnx="../secret"), ("engine-recipe-differs", "e3b0c44298fc")),
    "graph": ("step_onnx", lambda recipe: b"another", ("engine-recipe-differs", "ae448ac86c4e")),
    "no graph": ("step_onnx", lambda recipe: None, ("engine-recipe-differs", "e3b0c44298fc")),
}


@pytest.mark.parametrize(("name", "change", "message"), SPOILT.values(), ids=SPOILT)
def test_a_recipe_that_does_not_fit(bundle, device, name, change, message):
    path, did = bundle("tensorrt fp32"), device()
    recipe = json.loads(file(open_bundle(path), "tensorrt-fp32", "recipe.json"))
    spoil(path, **{name: change(recipe)})
    with refused(path, *message):
        built(path, "tensorrt")
    assert did.calls == []


def test_an_engine_cut_short(bundle, device):
    path, _ = bundle("tensorrt fp32"), device()
    size, name = built(path, "tensorrt").bytes, "targets/tensorrt-fp32/step.engine"
    with (path / name).open("r+b") as engine:
        engine.truncate(size // 2)
    for call in (lambda: built(path, "tensorrt", rebuild=True), lambda: load(path, backend="tensorrt")):
        with refused(path, "bundle-file-size-differs", f"'{name}'", size // 2, size):
            call()
