"""Engines built from graphs, by the real TensorRT-RTX and by stand-ins for each supported API."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from rnn_export.errors import ToolUnavailable
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.tensorrt import library as module
from rnn_export.runtime.backends.tensorrt.library import BuilderSettings, Library, find_library
from rnn_export.runtime.backends.tensorrt.log import BuilderLog
from rnn_export.runtime.backends.tensorrt.nvidia import Driver, Gpu, Jetson

from ..messages import raises  # noqa: TID252
from .fake_trt import ORIN, RANGE, Layer, Tensor, fake, library, products

FP16 = BuilderSettings("fp16", RANGE)
HERE = Driver("13.0", (Gpu("GeForce RTX 4090", "8.9", 24 * 2**30),))


def no_driver() -> Driver:
    raise ToolUnavailable("the NVIDIA driver is not here (libcuda.so.1)", "install it", id="nvidia-driver-missing")


# --- TensorRT-RTX, for real


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="rtx: pip install 'rnn-export[rtx]'")
    return find_library("tensorrt-rtx")


KINDS = {"fp32": np.float32, "fp16": np.float16, "bf16": TensorProto.BFLOAT16}


def gru(precision: str = "fp32", batch: int | str = 1, H: int = 8) -> bytes:
    """One GRU-like step: h.next = tanh(x W + h R), a counter of int64 beside it."""
    random, kind = np.random.default_rng(0), KINDS[precision]
    number = kind if isinstance(kind, int) else helper.np_dtype_to_tensor_dtype(np.dtype(kind))

    def weight(name: str) -> TensorProto:
        array = random.standard_normal((H, H)).astype(np.float32) / 4
        if precision == "bf16":
            return helper.make_tensor(name, number, (H, H), array.flatten())
        return numpy_helper.from_array(array.astype(kind), name)

    def value(name: str, kind: int, *shape: int | str):
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["xw"]),
            helper.make_node("MatMul", ["h", "R"], ["hr"]),
            helper.make_node("Add", ["xw", "hr"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h.next"]),
            helper.make_node("Add", ["n", "one"], ["n.next"]),
        ],
        "step",
        [value("x", number, batch, H), value("h", number, batch, H), value("n", TensorProto.INT64, batch, 1)],
        [value("h.next", number, batch, H), value("n.next", TensorProto.INT64, batch, 1)],
        [weight("W"), weight("R"), numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def lstm(**attributes: int) -> bytes:
    random = np.random.default_rng(0)
    shapes = {"W": (1, 16, 3), "R": (1, 16, 4)}
    weights = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="rnn.l0", hidden_size=4, **attributes)
    x, y = ((n, TensorProto.FLOAT, s) for n, s in (("x", (1, 1, 3)), ("y", (1, 1, 1, 4))))
    graph = helper.make_graph(
        [node], "sequence", [helper.make_tensor_value_info(*x)], [helper.make_tensor_value_info(*y)], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def spread(low: int, likely: int, high: int, H: int = 8):
    rows = {"x": H, "h": H, "n": 1}
    return {name: ((low, size), (likely, size), (high, size)) for name, size in rows.items()}


@pytest.mark.parametrize("precision", KINDS)
def test_rtx_builds(rtx, precision):
    built = rtx.build(gru(precision), BuilderSettings(precision, {}))
    assert len(built.plan) > 1000
    assert 0 < built.seconds < 60
    assert "[INFO] Engine generation completed" in built.log
    assert "[VERBOSE]" not in built.log
    # TensorRT-RTX times nothing while it builds, so there is no cache to keep.
    assert built.cache is None


def test_rtx_builds_for_a_range_of_batches_in_a_limit_of_memory(rtx):
    assert rtx.build(gru(batch="batch"), BuilderSettings("fp32", spread(1, 1, 8), memory=64 * 2**20)).plan


@pytest.mark.parametrize("compute", [(), ("8.6",), ("8.6", "8.9", "12.0")], ids=str)
def test_rtx_builds_for_compute_capabilities(rtx, compute):
    built = rtx.build(gru("fp16"), BuilderSettings("fp16", {}, compute=compute))
    portable = rtx.build(gru("fp16"), BuilderSettings("fp16", {}))
    assert (built.plan == portable.plan) == (compute == ())


def test_rtx_plans_are_the_same_bytes(rtx):
    order = BuilderSettings("fp16", spread(1, 1, 8))
    graph = gru("fp16", "batch")
    assert len({rtx.build(graph, order).plan for _ in range(3)}) == 1


def test_rtx_does_not_round_fp32_to_tf32(rtx, monkeypatch):
    exact = rtx.build(gru(H=64), BuilderSettings("fp32", {})).plan
    monkeypatch.setattr(Library, "_set_flags", lambda self, config: config.set_flag(self.trt.BuilderFlag.TF32))
    assert rtx.build(gru(H=64), BuilderSettings("fp32", {})).plan != exact


def test_rtx_engines_can_be_captured_into_a_cuda_graph(rtx, monkeypatch):
    """NVIDIA's release notes of TensorRT-RTX 1.2: capture needs kREQUIRE_USER_ALLOCATION."""
    seen, set_flags = [], Library._set_flags

    def record(self, config):
        set_flags(self, config)
        seen.append([config.get_flag(getattr(rtx.trt.BuilderFlag, n)) for n in ("REQUIRE_USER_ALLOCATION", "TF32")])

    monkeypatch.setattr(Library, "_set_flags", record)
    rtx.build(gru(), BuilderSettings("fp32", {}))
    assert seen == [[True, False]]


# A graph, its precision, compute capabilities, and the message.
RTX_REFUSES = {
    "a GPU that it does not know": (gru, "fp32", ("8.6", "8.7"), ("tensorrt-compute-refused", "'8.7'", "7.5, 8.0")),
    "no GPU": (gru, "fp32", ("nonsense",), ("tensorrt-compute-refused", "'nonsense'", "7.5, 8.0, 8.6")),
    "bf16 before Ampere": (lambda: gru("bf16"), "bf16", ("7.5",), ("tensorrt-precision-by-gpu", "7.5", "bf16", "8.0")),
    "what the builder cannot": (gru, "fp32", ("7.5",), ("tensorrt-build-failed", "Turing", "FP32 GEMM is not support")),
    "a node": (
        lambda: lstm(input_forget=1),
        "fp32",
        (),
        ("tensorrt-graph-unreadable", "node 'rnn.l0' (LSTM)", "upled"),
    ),
    "no graph": (lambda: b"junk", "fp32", (), ("tensorrt-graph-unreadable", "Failed to parse the ONNX model")),
    "an axis without a range": (lambda: gru(batch="batch"), "fp32", (), ("tensorrt-range-missing", "'x'", "(-1, 8)")),
    "fp32 for fp16": (gru, "fp16", (), ("tensorrt-products-untyped", "fp16", "FLOAT")),
    "fp16 for fp32": (lambda: gru("fp16"), "fp32", (), ("tensorrt-products-untyped", "fp32", "HALF")),
}


@pytest.mark.parametrize(("graph", "precision", "compute", "message"), RTX_REFUSES.values(), ids=RTX_REFUSES)
def test_rtx_refuses_and_says_why(rtx, graph, precision, compute, message):
    with raises(*message):
        rtx.build(graph(), BuilderSettings(precision, {}, compute=compute))


def test_rtx_says_that_a_timing_cache_is_not_used(rtx):
    built = rtx.build(gru(), BuilderSettings("fp32", {}, cache=b"of another builder"))
    assert "[WARNING] TensorRT-RTX" in built.log
    assert "the timing cache is not used" in built.log


def test_rtx_loads_nothing_without_a_driver(rtx):
    plan = rtx.build(gru(), BuilderSettings("fp32", {})).plan
    with raises("nvidia-driver-missing"):
        Library("tensorrt-rtx", rtx.trt, no_driver).load(plan)


@pytest.mark.parametrize(("cut", "reason"), [(100, "plan.header.size == blobSize failed"), (None, "cudaError 35")])
def test_rtx_says_why_it_does_not_load(rtx, cut, reason):
    """Past the probe, on a machine without a GPU: the library gives None and its log the reason."""
    plan = rtx.build(gru(), BuilderSettings("fp32", {})).plan[:cut]
    with raises("tensorrt-cannot-load", reason):
        Library("tensorrt-rtx", rtx.trt, lambda: HERE).load(plan)


LOST_BUILDER = """
import gc
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.backends.tensorrt.library import Library, find_library
from rnn_export.runtime.backends.tensorrt.log import BuilderLog
from rnn_export.runtime.backends.tensorrt.nvidia import Driver, Gpu

class Collecting(BuilderLog):
    def add(self, level, text):
        gc.set_threshold(1)
        made = [[] for _ in range(1000)]
        super().add(level, text)

trt = find_library("tensorrt-rtx").trt
lost = [trt.Builder(Collecting(trt).logger)]
gc.set_threshold(0)
lost.append(lost)
del lost
BuilderLog.add = Collecting.add
try:
    Library("tensorrt-rtx", trt, lambda: Driver("13.0", (Gpu("GPU", "8.9", 2**30),))).load(b"no plan")
except BackendUnavailable as error:
    print(error.id)
"""


def test_rtx_logs_while_a_builder_waits_to_be_freed(rtx):
    """The library would wait for itself, with Python's lock in its hands, so that no timeout of pytest ends it."""
    command = [sys.executable, "-c", LOST_BUILDER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "tensorrt-cannot-load\n"), done.stderr


# --- TensorRT 8.2 to 11, by stand-ins


def done(adapter: Library, kind: str) -> list[tuple]:
    return [call[1:] for call in adapter.trt.did.calls if call[0] == kind]


OF_PARTS = [
    ("CONSTANT", {"precision": "HALF", "output 0": "HALF"}),
    ("CAST", {"output 0": "HALF"}),
    ("MATRIX_MULTIPLY", {"precision": "HALF", "output 0": "HALF"}),
    ("CAST", {"output 0": "FLOAT"}),
    ("ELEMENTWISE", {"precision": "FLOAT", "output 0": "FLOAT"}),
    ("SHAPE", {}),
    ("GATHER", {}),
]
LIMIT, OLD_LIMIT = ("limit", "WORKSPACE", 2**28), ("max_workspace_size", 2**28)
NAMED, BY_OUTPUT = "node 'rnn' (LSTM)", "node LSTM giving 'rnn_out'"
# By release: the flags of a network, how memory is limited, and what a refused node is called.
RELEASES = {
    "8.2": ({"EXPLICIT_BATCH"}, OLD_LIMIT, BY_OUTPUT),
    "8.5": ({"EXPLICIT_BATCH"}, LIMIT, BY_OUTPUT),
    "8.6": ({"EXPLICIT_BATCH"}, LIMIT, BY_OUTPUT),
    "10.3": ({"STRONGLY_TYPED"}, LIMIT, NAMED),
    "11.1": (set(), LIMIT, NAMED),
}


@pytest.mark.parametrize(("version", "flags", "limit", "node"), [(v, *r) for v, r in RELEASES.items()], ids=RELEASES)
def test_a_network_as_the_release_has_it(version, flags, limit, node):
    """Without strong typing every layer is held to its type."""
    adapter, typed = library(version), version in ("10.3", "11.1")
    built = adapter.build(b"graph", replace(FP16, memory=2**28))
    assert (built.plan, built.cache) == (b"plan", b"+timed")
    assert done(adapter, "network") == [(flags,)]
    assert done(adapter, "parse") == [(b"graph",)]
    assert done(adapter, "profile") == [(RANGE,)]
    assert done(adapter, "clear") == [("TF32",)]
    assert done(adapter, "parser flag") == [("NATIVE_INSTANCENORM",)] * (version not in ("8.2", "8.5"))
    assert done(adapter, "set") == ([] if typed else [("FP16",), ("OBEY_PRECISION_CONSTRAINTS",)])
    layers = [(layer.kind, layer.set) for layer in adapter.trt.did.layers]
    assert layers == [(kind, {} if typed else held) for kind, held in OF_PARTS]
    assert [call for call in adapter.trt.did.calls if call[0] in (LIMIT[0], OLD_LIMIT[0])] == [limit]
    free = library(version, layers=products("FLOAT"))
    free.build(b"graph", replace(FP16, precision="fp32"))
    assert not [call for kind in ("set", LIMIT[0], OLD_LIMIT[0]) for call in done(free, kind)]
    odd = library(version, refuses=("LSTM", "rnn", "no clip in the LSTM converter"))
    with raises("tensorrt-graph-unreadable", f"TensorRT {version}.0", f"{node}: no clip in the LSTM"):
        odd.build(b"graph", FP16)
    assert done(odd, "build") == []


@pytest.mark.parametrize(("version", "known"), [("8.6", True), ("10.3", False), ("11.1", False)])
def test_bf16_came_with_strong_typing(version, known):
    adapter = library(version, layers=products("FLOAT" if known else "BF16"))
    order = replace(FP16, precision="bf16")
    if known:
        with raises("tensorrt-without-precision", f"TensorRT {version}.0", "bf16", "fp32 or fp16"):
            adapter.build(b"graph", order)
        assert adapter.trt.did.calls == []
    else:
        assert adapter.build(b"graph", order).plan == b"plan"


@pytest.mark.parametrize("version", ["8.5", "10.3"])
@pytest.mark.parametrize(("asked", "found"), [("fp16", "FLOAT"), ("fp32", "HALF")])
def test_never_another_precision(version, asked, found):
    adapter = library(version, layers=products(found))
    with raises("tensorrt-products-untyped", asked, found):
        adapter.build(b"graph", replace(FP16, precision=asked))
    assert done(adapter, "build") == []


def test_a_graph_without_products_has_no_precision_to_show():
    """A running mean keeps its state in fp32 and multiplies no matrices: nothing of it is in fp16."""
    mean = [Layer("ELEMENTWISE", [Tensor("x", "FLOAT"), Tensor("c", "FLOAT")], [Tensor("c.next", "FLOAT")])]
    assert library("10.3", layers=mean).build(b"graph", FP16).plan == b"plan"


def built_with(version: str = "10.3", gpu: Gpu = ORIN, order: BuilderSettings = FP16, **changes: object) -> Library:
    adapter = library(version, gpu, **changes)
    adapter.build(b"graph", order)
    return adapter


SAID = [("ERROR", f"reason\n {n}.") for n in range(5)] + [("INFO", "bye"), ("VERBOSE", "secret")]
NO_WORKSPACE = [("ERROR", "could not find any implementation for node a, try increasing the workspace size")]
RTX = Gpu("GeForce RTX 4090", "8.9", 24 * 2**30)
# What is asked of which library, and the message.
REFUSED = {
    "int8": ({"order": replace(FP16, precision="int8")}, ("tensorrt-without-precision", "no int8:", "fp32 or fp16 or")),
    "bf16 of this GPU": (
        {"gpu": replace(ORIN, compute="7.2"), "order": replace(FP16, precision="bf16")},
        ("tensorrt-precision-by-gpu", "7.2", "bf16", "8.0"),
    ),
    "fp16 of this GPU": ({"gpu": replace(ORIN, compute="5.0")}, ("tensorrt-precision-by-gpu", "5.0", "fp16", "5.3")),
    "slow fp16": ({"version": "8.5", "fast_fp16": False}, ("tensorrt-fp16-graph", "TensorRT 8.5")),
    "no memory": ({"order": replace(FP16, memory=0)}, ("tensorrt-memory-too-small", "0")),
    "too little memory": (
        {"version": "8.5", "says": NO_WORKSPACE, "plan": None, "order": replace(FP16, memory=2**20)},
        ("tensorrt-build-failed", "allow more than 1 MiB with --memory"),
    ),
    "the last errors": ({"says": SAID, "plan": None}, ("tensorrt-build-failed", "reason 2; reason 3; reason 4")),
    "not a word": ({"plan": None}, ("tensorrt-build-failed", "its log gives no reason")),
    "its profile": ({"profile": -1}, ("tensorrt-range-refused",)),
    "another GPU": (
        {"gpu": RTX, "order": replace(FP16, compute=("8.7",))},
        ("tensorrt-other-compute", "GeForce RTX 4090", "8.9", "8.7"),
    ),
    "no start": ({"null": True}, ("tensorrt-not-starting", "CUDA initialization failure with error: 35")),
    **{
        f"{name}: {low}": (
            {"order": replace(FP16, shapes={**RANGE, name: (low, likely, high)})},
            ("tensorrt-range-unfit", f"({low}, {likely}, {high})"),
        )
        for name, low, likely, high in [
            ("x", (1, 5), (1, 5), (8, 5)), ("x", (4, 4), (1, 4), (8, 4)), ("x", (0, 4), (1, 4), (8, 4)),
            ("x", (1,), (1,), (8,)), ("c", (1, 4), (1,), (8, 4)),
        ]
    },
    "no ranges": ({"order": replace(FP16, shapes={})}, ("tensorrt-range-missing", "'x'", "(-1, 4)")),
    "one range": ({"order": replace(FP16, shapes={"x": RANGE["x"]})}, ("tensorrt-range-missing", "'c'", "(-1, 4)")),
    "a range too many": (
        {"order": replace(FP16, shapes={**RANGE, "z": RANGE["x"]})},
        ("tensorrt-shapes-unknown", "['z']", "['c', 'x']"),
    ),
    "a range of a static input": (
        {"inputs": (Tensor("x", "FLOAT", (1, 4)),), "order": replace(FP16, shapes={"x": ((1, 4), (1, 4), (2, 4))})},
        ("tensorrt-range-unfit",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_library_refuses(asked, message):
    with raises(*message) as error:
        built_with(**asked)
    assert "bye" not in str(error.value)


def test_what_it_takes():
    assert library("10.3").build(b"graph", replace(FP16, compute=("8.7",))).plan == b"plan"
    static = (Tensor("x", "FLOAT", (1, 4)),)
    order = replace(FP16, shapes={"x": ((1, 4), (1, 4), (1, 4))})
    assert done(built_with(inputs=static, order=order), "profile") == []


@pytest.mark.parametrize("version", ["8.5", "10.3"])
def test_the_timing_cache_goes_in_and_out(version):
    adapter = library(version)
    built = adapter.build(b"graph", replace(FP16, cache=b"known"))
    assert (done(adapter, "cache"), built.cache, built.log) == ([(b"known", False)], b"known+timed", "")


def test_a_timing_cache_of_another_gpu_is_left_and_said():
    adapter = library("10.3")
    built = adapter.build(b"graph", replace(FP16, cache=b"foreign"))
    assert done(adapter, "cache") == [(b"foreign", False), (b"", False)]
    assert built.cache == b"+timed"
    assert "[WARNING] the timing cache is of another GPU or library" in built.log


# As they stand in NVIDIA/TensorRT issues 4258, 477 and torch2trt issue 661.
OUT_OF_MEMORY = {
    "10": [
        ("ERROR", "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"),
        ("WARNING", "Requested amount of GPU memory (15485030400 bytes) could not be allocated."),
        ("ERROR", "IBuilder::buildSerializedNetwork: Could not find any implementation for node {ForeignNode[a]}."),
    ],
    "8": [("ERROR", "../builder/tacticOptimizer.cpp (1715) - OutOfMemory Error in computeCosts: 0")],
    "jetson": [
        ("WARNING", "Requested amount of memory (150994944 bytes) could not be allocated."),
        ("ERROR", "Could not find any implementation for node FC"),
    ],
}


@pytest.mark.parametrize("says", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_is_recognised(says):
    adapter = library("10.3", says=says, plan=None)
    with raises("tensorrt-build-failed", "Memory ran out: hold the builder with --memory", "on a Jetson") as error:
        adapter.build(b"graph", FP16)
    assert says[-1][1].rstrip(".") in str(error.value)
    with raises("tensorrt-build-failed", "Memory ran out: hold the builder to less than 256 MiB with --memory"):
        adapter.build(b"graph", replace(FP16, memory=2**28))


def test_the_log_is_kept():
    says = [("INFO", "Local timing cache in use.\n"), ("VERBOSE", "much"), ("WARNING", "int64 weights"), ("ERROR", "e")]
    built = library("8.5", says=says).build(b"graph", FP16)
    assert built.log == "[INFO] Local timing cache in use.\n[WARNING] int64 weights\n[ERROR] e\n"


def test_the_log_of_an_engine_that_runs_for_months_is_its_last_lines(monkeypatch):
    monkeypatch.setattr("rnn_export.runtime.backends.tensorrt.log.LINES", 3)
    log = BuilderLog(fake("10.3"))
    for number in range(5):
        log.add("ERROR", str(number))
    assert log.text == "[ERROR] 2\n[ERROR] 3\n[ERROR] 4\n"


def test_the_driver_comes_before_anything_that_could_crash():
    adapter = library("10.3", probe=no_driver)
    for call in (lambda: adapter.build(b"graph", FP16), lambda: adapter.load(b"plan")):
        with raises("nvidia-driver-missing"):
            call()
    assert adapter.trt.did.calls == []


def test_an_engine_is_loaded_or_the_reason_said():
    adapter = library("10.3")
    assert adapter.load(b"plan").engine == "engine"
    assert done(adapter, "deserialise") == [(b"plan",)]
    reason = "The engine plan file is not compatible with this version of TensorRT, expecting 10.3.0 got 8.5.2"
    with raises("tensorrt-cannot-load", "expecting 10.3.0 got 8.5.2"):
        library("10.3", engine=None, says=[("ERROR", reason)]).load(b"plan")


# --- finding a library


def test_an_unknown_library():
    with raises("tensorrt-library-unknown", "'openvino'", "tensorrt, tensorrt-rtx"):
        find_library("openvino")


@pytest.fixture
def without(monkeypatch, tmp_path):
    """Only what lies in `tmp_path` can be imported as tensorrt or tensorrt_rtx."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "tensorrt_rtx")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")])
def test_a_library_that_is_not_installed(without, name, extra):
    with raises("tensorrt-library-missing", f"is not installed: {pip_install(extra)}"):
        find_library(name)


def test_on_a_jetson_tensorrt_comes_with_jetpack(without, monkeypatch):
    monkeypatch.setattr(module, "jetson", lambda: Jetson("NVIDIA Jetson Orin NX", "6.2", "36.4.3"))
    with raises("tensorrt-library-missing", "sudo apt install nvidia-jetpack", "--system-site-packages"):
        find_library("tensorrt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('libnvinfer.so.10: no such file')", ("(OSError: libnvinfer.so.10",)),
        ("", ("(AttributeError: ", "__version__")),
    ],
)
def test_a_library_that_is_broken(without, monkeypatch, text, reason):
    (without / "tensorrt.py").write_text(text)
    with raises("tensorrt-library-missing", "TensorRT", "cannot be imported", *reason):
        find_library("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
