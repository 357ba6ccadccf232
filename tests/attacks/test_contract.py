"""Findings 2, 4, 6 and 13: a graph matches the contract, reads only from the bundle, and ends."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

from rnn_export.bundle import open_bundle
from rnn_export.contract.target_options import TargetOptions
from rnn_export.errors import BackendUnavailable, DeviceError, RnnExportError
from rnn_export.export.add_target import add_target
from rnn_export.export.triton.repository import write_repository
from rnn_export.runtime import load
from rnn_export.runtime.backends.tensorrt.session import LoadedContext
from rnn_export.runtime.build.native.compilers import find_compiler

from ..messages import raises  # noqa: TID252
from ..runtime.native_toys import model_sources, with_native  # noqa: TID252
from . import graphs
from .forging import forge
from .graphs import SUM, constant, doubling, external, loop, node, value


def _within(tensor) -> bytes:
    """A step with a tensor at depth two: in the branch of an If in the body of a Scan."""
    branch = helper.make_graph([node("Constant", [], ["z"], value=tensor)], "b", [], [value("z", shape=[3])])
    inner = helper.make_graph(
        [
            node("If", ["yes"], ["z2"], then_branch=branch, else_branch=branch),
            node("Add", ["a", "z2"], ["b"]),
            node("Identity", ["b"], ["c"]),
        ],
        "body",
        [value("a"), value("frame")],
        [value("b"), value("c")],
    )
    scan = [
        node("Unsqueeze", ["x", "[0]"], ["xs"]),
        node("Scan", ["x", "xs"], ["last", "all"], body=inner, num_scan_inputs=1),
    ]
    return graphs.step(scan, [constant("yes", True, "bool"), constant("[0]", [0])])


ELSEWHERE = {
    "initializer": lambda where: graphs.step([node("Add", ["x", "w"], ["x2"])], [external("w", where)]),
    "attribute": lambda where: graphs.step([node("Constant", [], ["w"], value=external("", where))]),
    "in a body": lambda where: _within(external("", where)),
}


@pytest.mark.parametrize("make", ELSEWHERE.values(), ids=ELSEWHERE)
@pytest.mark.parametrize("absolute", [False, True])
def test_no_graph_reads_a_file_next_to_it(path: Path, tmp_path: Path, monkeypatch, make, absolute: bool) -> None:
    """By whatever reads it: the runtime, and what writes C, TensorRT or Triton from it."""
    (tmp_path / "w.bin").write_bytes(np.float32([1, 2, 3]).tobytes())
    monkeypatch.chdir(tmp_path)
    forge(path, files={"step.onnx": make(str(tmp_path / "w.bin") if absolute else "w.bin")})
    refused = ("graph-file-unusable", "step.onnx", "the tensor", "lies in another file, which no")
    with raises(*refused):
        load(path, backend="onnxruntime")
    for target, precision in (("c", "fp32"), ("c", "int8"), ("tensorrt", "fp16")):
        with raises(*refused):
            add_target(open_bundle(path), target, TargetOptions(precision))
    with raises(*refused):
        write_repository(path, tmp_path / "repository", backend="onnxruntime")


WRONG = {
    "output of another dtype": (
        graphs.step(
            last=[node("Add", ["x", "h"], ["h.next"]), node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)],
            outputs=[value("y", TensorProto.DOUBLE), value("h.next")],
        ),
        ("graph-contract-differs", "'y'", "float64 (1, 3)", "float32 (1, 3)"),
    ),
    "output of another size": (
        graphs.step(
            last=[node("Add", ["x", "h"], ["h.next"]), node("Concat", ["x", "x"], ["y"], axis=1)],
            outputs=[value("y", shape=["batch", "what"]), value("h.next")],
        ),
        ("graph-contract-differs", "'y'", "float32 (1, 6)", "float32 (1, 3)"),
    ),
    "state of another size": (
        graphs.step(
            last=[node("Add", ["x", "h"], ["y"]), node("Concat", ["h", "h"], ["h.next"], axis=1)],
            outputs=[value("y"), value("h.next", shape=["batch", "what"])],
        ),
        ("graph-contract-differs", "'h.next'", "float32 (1, 6)", "float32 (1, 3)"),
    ),
    "other domain": (
        graphs.step([helper.make_node("Inverse", ["x"], ["x2"], domain="com.microsoft")]),
        ("graph-file-unusable", "node Inverse giving ('x2',)", "the domain 'com.microsoft'"),
    ),
    "operator that is not listed": (
        graphs.step([node("NonZero", ["x"], ["x2"])]),
        ("graph-file-unusable", "node NonZero giving ('x2',) is an operator that no graph"),
    ),
    "loop without end": (
        graphs.step(loop([""]), [constant("yes", True, "bool")]),
        ("graph-file-unusable", "node Loop giving ('looped',) has no constant number of trips"),
    ),
    "loop of 2**40 trips": (
        graphs.step(loop(["n"]), [constant("n", 2**40), constant("yes", True, "bool")]),
        ("graph-file-unusable", "takes 1099511627776 trips", 1048576),
    ),
    "loop of as many trips as a value says": (
        graphs.step(
            [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["n"], to=7), *loop(["n"])],
            [constant("yes", True, "bool")],
        ),
        ("graph-file-unusable", "has no constant number of trips"),
    ),
    "64 GiB at once": (
        graphs.step([node("ConstantOfShape", ["n"], ["big"])], [constant("n", [2**34])]),
        ("graph-file-unusable", "'big' of the graph takes 68719476736 bytes", 268435456),
    ),
    "64 GiB by doubling": (
        graphs.step([node("Identity", ["x"], ["d0"]), *doubling(32)]),
        ("graph-file-unusable", "of the graph takes"),
    ),
    "64 GiB by an outer sum": (
        graphs.step(
            [
                node("Identity", ["x"], ["d0"]), *doubling(16), node("Transpose", ["d16"], ["t"]),
                node("Add", ["d16", "t"], ["big"]),
            ],
        ),
        ("graph-file-unusable", "'big' of the graph takes 154618822656 bytes"),
    ),
    "64 GiB in a body": (
        graphs.step(
            [
                node("Unsqueeze", ["x", "[0]"], ["xs"]),
                node("Scan", ["x", "xs"], ["last", "all"], num_scan_inputs=1, body=graphs.body(
                    [node("Identity", ["a"], ["d0"]), *doubling(32), node("ReduceMax", ["d32"], ["m"]),
                     node("Add", ["a", "m"], ["b"]), node("Identity", ["b"], ["c"])], ["a", "frame"], ["b", "c"])),
            ],
            [constant("[0]", [0])],
        ),
        ("graph-file-unusable", "of the graph takes"),
    ),
    "a size from values": (
        graphs.step(
            [
                node("ReduceSum", ["x"], ["s"]), node("Exp", ["s"], ["e"]), node("Cast", ["e"], ["i"], to=7),
                node("Reshape", ["i", "[1]"], ["n"]), node("ConstantOfShape", ["n"], ["big"]),
            ],
            [constant("[1]", [1])],
        ),
        ("graph-file-unusable", "'big'", "node ConstantOfShape giving ('big',)", "follows from values"),
    ),
    "a tensor that is not there": (
        graphs.step(constants=[TensorProto(name="w", data_type=1, dims=[2**20, 2**20], raw_data=b"1234")]),
        ("graph-file-unusable", "the tensor 'w'", "[1048576, 1048576]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "message"), WRONG.values(), ids=WRONG)
def test_a_graph_is_refused_before_it_is_loaded(path: Path, graph: bytes, message: tuple[object, ...], quick) -> None:
    forge(path, files={"step.onnx": graph})
    name, *values = message
    with raises(name, "step.onnx", *values):
        load(path, backend="onnxruntime")
    with raises(name, "step.onnx"):
        add_target(open_bundle(path), "c", TargetOptions())
    quick(200)


def test_a_loop_that_ends_runs(path: Path) -> None:
    forge(path, files={"step.onnx": graphs.step(loop(["n"]), [constant("n", 5), constant("yes", True, "bool")])})
    stream = load(path, backend="onnxruntime").stream()
    assert stream.step(np.ones(3, np.float32)).tolist() == [1, 1, 1]


def test_a_size_that_follows_from_shapes_is_known(path: Path) -> None:
    """torch writes the zeros of a state so."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1), node("Mul", ["s", "four"], ["m"]),
        node("Concat", ["m", "four"], ["n"], axis=0), node("ConstantOfShape", ["n"], ["zeros"]),
    ]  # fmt: skip
    forge(path, files={"step.onnx": graphs.step(nodes, [constant("four", [4])])})
    assert load(path, backend="onnxruntime").stream().step(np.ones(3, np.float32)).tolist() == [1, 1, 1]
    huge = graphs.step(nodes, [constant("four", [2**34])])
    with raises("graph-file-unusable", "over the limit of 268435456 a tensor"):
        load(forge(path, files={"step.onnx": huge}), backend="onnxruntime")


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_a_graph_with_a_bit_flipped_is_read_or_refused(path: Path, at: int) -> None:
    raw = bytearray(graphs.step(SUM[:0], [constant("n", [1, 2])]))
    at %= len(raw)
    raw[at] ^= 1 << at % 8
    forge(path, files={"step.onnx": bytes(raw)})
    for use in (
        lambda: load(path, backend="onnxruntime").stream().step(np.ones(3, np.float32)),
        lambda: add_target(open_bundle(path), "tensorrt", TargetOptions()),
    ):
        try:
            use()
        except RnnExportError as error:
            assert str(error)  # noqa: PT017


@pytest.fixture(scope="module")
def compiled(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    path = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("compiled") / "sum.rnnx"))
    with_native(path, model_sources("sum"), "sum")
    return path


CHANGED = {
    "output of one": lambda s: s["outputs"][0].update(shape=["batch", 1]),
    "output of 64": lambda s: s["outputs"][0].update(shape=["batch", 64]),
    "output in float16": lambda s: s["outputs"][0].update(dtype="float16"),
    "input of one": lambda s: s["inputs"][0].update(shape=["batch", 1]),
    "input of 64": lambda s: s["inputs"][0].update(shape=["batch", 64]),
    "state of one": lambda s: s["states"][0].update(shape=["batch", 1]),
    "state of 2**20": lambda s: s["states"][0].update(shape=["batch", 2**20]),
    "state more": lambda s: s["states"].append({**s["states"][0], "name": "g", "input": "g", "output": "g.next"}),
    "no state": lambda s: s.update(states=[]),
    "time and chunk": lambda s: s.update(
        chunk=64, inputs=[{**s["inputs"][0], "shape": ["batch", "time", 3]}],
        outputs=[{**s["outputs"][0], "shape": ["batch", "time", 3]}],
    ),
    "names": lambda s: s["inputs"][0].update(name="z"),
}  # fmt: skip


@pytest.mark.parametrize("edit", CHANGED.values(), ids=CHANGED)
@pytest.mark.parametrize("extension", [True, False])
def test_a_library_is_not_stepped_under_another_contract(compiled: Path, tmp_path: Path, edit, extension: bool) -> None:
    path = Path(shutil.copytree(compiled, tmp_path / "sum.rnnx"))
    record = next(path.rglob("build.json"))
    without = re.sub(rb'"python": [^,]*', b'"python": null', record.read_bytes())
    files = {} if extension else {record.relative_to(path).as_posix(): without}
    sound = load(forge(path, files=files), backend="native", trust=True)
    assert sound.stream().step(np.ones(3, np.float32)).tolist() == [1, 1, 1]
    forge(path, lambda m: edit(m["spec"]))
    with raises("native-contract-differs", "native.so"):
        load(path, backend="native", trust=True)


def test_an_engine_gives_what_the_contract_says() -> None:
    """Its sizes are known when a batch is set: what it writes beyond a buffer nobody could take back."""
    context = LoadedContext(SimpleNamespace(get_tensor_shape=lambda name: [2, 64]), None)
    context.check_shape("y", (2, 64))
    with pytest.raises(DeviceError, match=r"the engine gives 'y' as \(2, 64\), but the contract says \(2, 1\)"):
        context.check_shape("y", (2, 1))
