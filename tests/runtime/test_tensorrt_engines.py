"""Engines in bundles: one that fits this machine is opened, others are refused with the reason before they are loaded.

The machine has a GPU, TensorRT and cuda-python, all of them stand-ins.
"""

import hashlib
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from rnn_export.bundle import TargetRow, write_bundle
from rnn_export.errors import BackendUnavailable, DeviceError
from rnn_export.runtime import load
from rnn_export.runtime.backends.tensorrt.backend import LoadedEngine
from rnn_export.runtime.replay.checks import replay_golden

from ..messages import raises  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from .graphs import CHUNKED, DELAYED, SUM, TIMED, frames
from .host_engine import HostEngine
from .stand_ins import CudaContext, CudaEngine, CudaRuntime, Machine, silent
from .test_golden import CHECKS, golden_of

NAME = "targets/tensorrt-fp32/"
MEND = "Build it again here: `rnn-export build NAME.rnnx --target tensorrt --precision fp32 --rebuild`"


def test_auto_takes_an_engine_that_fits(machine, tmp_path):
    engine = load(machine.write(tmp_path / "m.rnnx"))
    assert (engine.backend, engine.device, engine.precision) == ("tensorrt", "cuda:0", "fp32")
    assert engine.batches == (1, 2**16)
    assert machine.asked == ["driver", "tensorrt", "load"]
    stream, xs = engine.stream(batch=3), frames(3, 5, 3)
    np.testing.assert_array_equal(stream.run(xs), xs.cumsum(1))


@pytest.mark.parametrize("capability", [["8.6", "8.7"], []], ids=["several", "portable"])
def test_engines_of_tensorrt_rtx(machine, tmp_path, capability):
    path = machine.write(tmp_path / "m.rnnx", library="tensorrt-rtx", compute_capability=capability)
    assert load(path).backend == "tensorrt"
    assert machine.asked == ["driver", "tensorrt-rtx", "load"]


UNBUILT = {"target": "jetson-orin-nano", "files": {"step.onnx": b"", "recipe.json": b""}}
# What the manifest says, and the message.
REFUSED = {
    "version": ({"version": "8.6.2"}, ("tensorrt-version-differs", "tensorrt 8.6.2", "this machine has 10.3.0", MEND)),
    "gpu": (
        {"compute_capability": "7.2"},
        ("tensorrt-engine-elsewhere", "'tensorrt' (fp32)", "compute capability 7.2", "GPU 0 (Orin) has 8.7", MEND),
    ),
    "gpus": ({"compute_capability": ["8.6", "8.9"]}, ("tensorrt-engine-elsewhere", "8.6, 8.9", "GPU 0", MEND)),
    "graph": ({"onnx_sha256": "0" * 64}, ("tensorrt-other-graph", "step.onnx", "sha256 000000000000, not", MEND)),
    "nothing": (
        {"version": None, "onnx_sha256": None}, ("tensorrt-engine-silent", "'tensorrt' (fp32", "version, onnx", MEND),
    ),
    "unbuilt": (UNBUILT, ("tensorrt-engine-unbuilt", "build NAME.rnnx --target jetson-orin-nano --precision fp32")),
}  # fmt: skip


@pytest.mark.parametrize(("requires", "message"), REFUSED.values(), ids=REFUSED)
def test_an_engine_that_does_not_fit_is_never_loaded(machine, tmp_path, requires, message):
    path = machine.write(tmp_path / "m.rnnx", **requires)
    with raises(*message):
        load(path, backend="tensorrt")
    assert "load" not in machine.asked
    assert load(path).backend == "onnxruntime"


def test_an_engine_of_a_stranger_is_never_loaded(machine, tmp_path, monkeypatch):
    path = machine.write(tmp_path / "m.rnnx")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    mend = "rnn-export build NAME.rnnx --target tensorrt --precision fp32 --rebuild"
    with raises("code-not-trusted", "tensorrt (fp32)", "not recorded as built here", mend, "rnn-export trust KEY.pub"):
        load(path, backend="tensorrt")
    assert "load" not in machine.asked
    assert load(path).backend == "onnxruntime"
    assert load(path, trust=True).backend == "tensorrt"


def test_an_engine_truncated_before_or_after_it_was_recorded(machine, tmp_path):
    path = machine.write(tmp_path / "m.rnnx")
    machine.broken = True
    with raises("tensorrt-engine-unloadable", "'tensorrt' (fp32", "--rebuild"):
        load(path, backend="tensorrt")
    (path / NAME / "step.engine").write_bytes(b"half")
    with raises("bundle-file-size-differs", "'targets/tensorrt-fp32/step.engine'", "4"):
        load(path, backend="tensorrt")


@pytest.mark.parametrize(
    ("place", "name"),
    [("nvidia.driver", "nvidia-driver-missing"), ("library.find_library", "tensorrt-library-missing")],
)
def test_no_driver_and_no_library_is_the_first_thing_said(machine, tmp_path, monkeypatch, place, name):
    def none(*_: object) -> None:
        raise BackendUnavailable("it is not here: install it.", id=name)

    monkeypatch.setattr(f"rnn_export.runtime.backends.tensorrt.{place}", none)
    with raises(name, "it is not here: install it", kind=BackendUnavailable):
        load(machine.write(tmp_path / "m.rnnx"), backend="tensorrt")
    assert machine.asked == ["driver"] * (name != "nvidia-driver-missing")
    assert load(tmp_path / "m.rnnx").backend == "onnxruntime"


def test_no_cuda_python(machine, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with raises("tensorrt-engine-unloadable", "cuda-python is not here", "pip install 'cuda-python>=12"):
        load(machine.write(tmp_path / "m.rnnx"), backend="tensorrt")
    assert "load" not in machine.asked


BAD_OPTIONS = [
    ({"device": "cpu"}, ("tensorrt-device-unknown", "'cpu'")),
    ({"device": "cuda:x"}, ("tensorrt-device-unknown", "'cuda:x'")),
    ({"device": "cuda:3"}, ("tensorrt-gpu-missing", "3", "3", "Orin")),
    ({"precision": "bf16"}, ("tensorrt-precision-missing", "tensorrt in fp32", "bf16", "tensorrt")),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options(machine, tmp_path, options, message):
    with raises(*message):
        load(machine.write(tmp_path / "m.rnnx"), backend="tensorrt", **options)


@pytest.mark.parametrize("batch", [3, 9])
def test_a_batch_outside_the_profile(machine, tmp_path, batch):
    machine.batch = (4, 4, 8)
    engine = load(machine.write(tmp_path / "m.rnnx"), backend="tensorrt")
    with raises("batch-outside-engine", batch, "4 to 8"):
        engine.stream(batch=batch)
    assert engine.stream(batch=4).batch == 4


def test_the_engine_for_this_machine_among_others(machine, tmp_path):
    """Each machine has built its own; the reasons of all are given where none fits."""
    graph = SUM.files()["step.onnx"]
    files, rows = {}, []
    for target, compute in (("jetson-xavier-nx", "7.2"), ("jetson-orin-nano", "8.7")):
        mine = [f"targets/{target}-fp32/{name}" for name in ("step.onnx", "recipe.json", "step.engine")]
        files |= dict.fromkeys(mine, graph)
        said = {"library": "tensorrt", "version": "10.3.0", "compute_capability": compute}
        rows.append(
            TargetRow(target, "fp32", 18, tuple(mine), {**said, "onnx_sha256": hashlib.sha256(graph).hexdigest()})
        )
    path = tmp_path / "m.rnnx"
    trusted(write_bundle(path, spec=SUM.spec, producer={}, files=files, targets=rows))
    assert load(path).backend == "tensorrt"
    machine.compute = "8.9"
    with raises("tensorrt-engines-refused", "'jetson-xavier-nx'", "7.2", "'jetson-orin-nano'", "8.7"):
        load(path, backend="tensorrt")


def test_a_bundle_without_the_target_costs_nothing(bundle):
    with raises("tensorrt-target-missing", "onnx"):
        load(bundle("sum"), backend="tensorrt")
    code = (
        "import sys; from rnn_export.runtime import load\n"
        "print(load(sys.argv[1]).backend)\n"
        "print(sorted(m for m in sys.modules if m.startswith(('tensorrt', 'cuda.', 'rnn_export.runtime.build'))))\n"
    )
    given = subprocess.run([sys.executable, "-c", code, bundle("sum")], capture_output=True, text=True, check=True)
    assert (given.stdout, given.stderr) == ("onnxruntime\n[]\n", "")


def test_an_engine_on_a_machine_without_a_driver(tmp_path):
    """The real driver and library: what this machine has of them."""
    path = Machine.write(tmp_path / "m.rnnx", library="tensorrt-rtx", compute_capability=[])
    code = (
        "import sys; from rnn_export.runtime import load\n"
        "from rnn_export.errors import BackendUnavailable\n"
        "try: load(sys.argv[1], backend='tensorrt')\n"
        "except BackendUnavailable as error: print(error)\n"
        "print(load(sys.argv[1]).backend)\n"
    )
    given = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    reason, backend = given.stdout.splitlines()
    assert re.search("driver|TensorRT-RTX|built by", reason)
    assert (backend, given.stderr) == ("onnxruntime", "")


@pytest.mark.parametrize("model", [SUM, TIMED, CHUNKED, DELAYED], ids=lambda m: m.spec.digest[:6])
def test_the_golden_vectors_replay(tmp_path, model, machine):
    report = replay_golden(load(machine.write(tmp_path / "m.rnnx", model), backend="tensorrt"), golden_of(model))
    assert report.ok
    assert {d.check for d in report.drifts} == {*CHECKS}


# --- TensorRT's own objects


def test_a_static_engine_has_a_profile_of_its_shape():
    raw = SimpleNamespace(num_io_tensors=0, get_tensor_shape=lambda name: [4, 3])
    assert LoadedEngine(raw, silent()).profile("x") == ((4, 3),) * 3


def test_an_engine_without_memory_for_a_context(machine, tmp_path, monkeypatch):
    engine = load(machine.write(tmp_path / "m.rnnx"), backend="tensorrt")
    monkeypatch.setattr(CudaEngine, "create_execution_context", lambda self, config=None: None)
    with raises("device-call-failed", "tensorrt cannot open a stream of 1 rows: TensorRT made no execution context"):
        engine.stream()


def test_tensorrt_rtx_compiles_before_the_capture():
    """A kernel that is compiled in the background would come too late for a graph."""

    class Strategy:
        LAZY, EAGER = "lazy", "eager"

    raw = CudaEngine(HostEngine(SUM.files()["step.onnx"]), CudaRuntime())
    raw.create_runtime_config = lambda: SimpleNamespace(dynamic_shapes_kernel_specialization_strategy=Strategy())
    LoadedEngine(raw, silent()).context()
    assert raw.configs[0].dynamic_shapes_kernel_specialization_strategy == "eager"
    raw.create_runtime_config = SimpleNamespace
    LoadedEngine(raw, silent()).context()
    assert raw.configs[1] is None


def test_what_a_context_refuses():
    raw = CudaEngine(HostEngine(SUM.files()["step.onnx"]), CudaRuntime())
    context = LoadedEngine(raw, silent()).context()
    with pytest.raises(DeviceError, match="TensorRT refused the address of 'x'"):
        context.bind("x", 256)
    with pytest.raises(DeviceError, match=re.escape("TensorRT refused the shape (1, 3) of 'y'")):
        context.set_batch("y", (1, 3))
    context.log.add("ERROR", "Error Code 9: Skipping tactic")
    raw.host.refuses = True
    with pytest.raises(DeviceError, match=re.escape("TensorRT refused the step: Error Code 9: Skipping tactic. Build")):
        context.enqueue(7)


def test_the_real_tensorrt_rtx_has_what_is_called():
    trt = pytest.importorskip("tensorrt_rtx")
    for stand_in, real in ((CudaEngine, trt.ICudaEngine), (CudaContext, trt.IExecutionContext)):
        called = {name for name in vars(stand_in) if name.startswith(("get", "set", "create", "execute"))}
        assert called
        assert {name for name in called if not hasattr(real, name)} == set()
    config = trt.IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy
    assert isinstance(config, property)
    assert trt.DynamicShapesKernelSpecializationStrategy.EAGER.name == "EAGER"
