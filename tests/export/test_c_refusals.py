"""A graph without a form in C is refused, with the node, the reason and advice."""

import numpy as np
import pytest
import torch

from rnn_export.errors import ExportError
from rnn_export.export import export

from ..messages import raises  # noqa: TID252
from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import X, Y, model, written

IMAGE = np.array([1, 1, 3])
PLAIN = [("Identity", ["x"], ["y"], {})]
CELL = {"w": np.ones((1, 9, 3), np.float32), "r": np.ones((1, 9, 3), np.float32)}


def refused(nodes, *, inputs=(X,), outputs=(Y,), states=(), **constants) -> str:
    with pytest.raises(ExportError) as error:
        written(model(nodes, states, inputs, outputs, **constants))
    return str(error.value)


def through(op, inputs, attributes=None, **constants) -> str:
    """The refusal of one node on x as (1, 1, 3)."""
    nodes = [
        ("Reshape", ["x", "image"], ["x3"], {}),
        (op, inputs, ["y3"], {"name": "middle", **(attributes or {})}),
        ("Reshape", ["y3", "row"], ["y"], {}),
    ]
    return refused(nodes, image=IMAGE, row=np.array([1, 3]), **constants)


COMPUTED = "is computed, and only a constant"
NOT_NEGATIVE = "and only constant pads may be negative"
SCALES = {"scales": np.ones(3, np.float32)}
# By operator: inputs, attributes, constants, and what is said.
REFUSALS = {
    "NonZero": (["x3"], {}, {}, "there is no code for that operator. Known are Abs, "),
    "Conv computed": (["x3", "x3"], {}, {}, f"its input 'x3' {COMPUTED} can be written there"),
    "ConvTranspose computed": (["x3", "x3"], {}, {}, f"its input 'x3' {COMPUTED}"),
    "Pad less": (
        ["x3", "p"],
        {"mode": "edge"},
        {"p": np.array([0, 0, -1, 0, 0, 1])},
        f"its mode is 'edge' with pads [0, 0, -1, 0, 0, 1], {NOT_NEGATIVE}",
    ),
    "Pad far": (
        ["x3", "p"],
        {"mode": "reflect"},
        {"p": np.array([0, 0, 3, 0, 0, -3])},
        f"its mode is 'reflect' with pads [0, 0, 3, 0, 0, -3], {NOT_NEGATIVE}",
    ),
    "Pad mirror": (
        ["x3", "p"],
        {"mode": "reflect"},
        {"p": np.array([0, 0, 3, 0, 0, 0])},
        "it mirrors [0, 0, 3, 0, 0, 0] values of [1, 1, 3], which are not so many",
    ),
    "Resize cubic": (
        ["x3", "", "scales"],
        {"mode": "cubic"},
        SCALES,
        "its mode is 'cubic' over 'half_pixel' with the policy 'stretch', and known are nearest and linear over half",
    ),
    "Resize smooth": (["x3", "", "scales"], {"mode": "linear", "antialias": 1}, SCALES, "it smooths (antialias)"),
    "Mod": (["x3", "x3"], {}, {}, "ONNX has it for floats with fmod=1 alone"),
    "Gather far": (["x3", "at"], {"axis": 1}, {"at": np.int64(4)}, "it takes 4 of 1 along axis 1"),
    "CumSum computed": (["x3", "x"], {}, {}, f"its input 'x' {COMPUTED} can be written there"),
    "ReduceL1 nothing": (["x3"], {"noop_with_empty_axes": 1}, {}, "it has no axes and noop_with_empty_axes"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_node_that_cannot_be_written_is_named(name):
    inputs, attributes, constants, message = REFUSALS[name]
    op = name.split()[0]
    said = through(op, inputs, attributes, **constants)
    assert said.startswith(f"node 'middle' ({op}) cannot be written in C: ")
    assert message in said


def ports(dtype, *shape):
    """An input and an output of another type."""
    x, y = tensor("x", "batch", 3, dtype=dtype), tensor("y", "batch", *(shape or (3,)), dtype=dtype)
    return {"inputs": (x,), "outputs": (y,)}


WHOLE, CANNOT = "it has no form for int64_t.", "cannot be written in C: "
TYPES = "which is not written in C: a step has float32, int64, int32 and bool."
SHAPES = {"image": IMAGE, "row": np.array([1, 3])}
MANY = tensor("n", "batch", dtype="int64")
FOUR = {name: np.ones(3, np.float32) for name in "sbmv"}
# Nodes, what else the graph has, and what is said of it.
GRAPHS = {
    "every unknown operator is named": (
        [("LRN", ["x"], ["a"], {"size": 3}), ("NonZero", ["a"], ["b"], {}), ("Det", ["b"], ["y"], {})],
        {},
        f"(LRN) {CANNOT}there is no code for that operator, nor for Det, NonZero. Known are",
    ),
    "and what to do": ([("Det", ["x"], ["y"], {})], {}, "Say the same with those, or take the target onnx."),
    "another domain": (
        [("Gelu", ["x"], ["y"], {"domain": "com.microsoft"})],
        {},
        f"(Gelu) {CANNOT}there is no code for that operator",
    ),
    **{
        dtype: (PLAIN, ports(dtype), f"'x' is {named}, {TYPES} Let the model take one of these, and convert outside")
        for dtype, named in (("float64", "double"), ("float16", "float16"), ("uint8", "uint8"), ("int8", "int8"))
    },
    **{
        f"number {to} in between": (
            [("Cast", ["x"], ["a"], {"to": to}), ("Neg", ["a"], ["b"], {}), ("Cast", ["b"], ["y"], {"to": 1})],
            {},
            TYPES,
        )
        for to in (10, 11)
    },
    "whole numbers as matrices": (
        [("MatMul", ["x", "w"], ["y"], {})],
        {**ports("int64"), "w": np.ones((3, 3), np.int64)},
        f"(MatMul) {CANNOT}it multiplies int64_t.",
    ),
    "a root of whole numbers": (
        [("ReduceL2", ["x", "axis"], ["y"], {})],
        {**ports("int64", 1), "axis": np.array([1])},
        f"(ReduceL2) {CANNOT}{WHOLE}",
    ),
    "powers of whole numbers": (
        [("Pow", ["x", "x"], ["y"], {})],
        ports("int64"),
        "whole numbers have constant powers of 0 to 8 alone, all to the same one.",
    ),
    "a formula of floats": ([("Relu", ["x"], ["y"], {})], ports("int64"), f"(Relu) {CANNOT}{WHOLE}"),
    "shapes of values": (
        [
            ("ReduceSum", ["x", "axis"], ["sum"], {}),
            ("Expand", ["sum", "n"], ["wide"], {}),
            ("ReduceSum", ["wide"], ["y"], {}),
        ],
        {"inputs": [X, MANY], "outputs": [tensor("y", "batch", 1)], "axis": np.array([1])},
        "C has no arrays that change their size. Make the shape depend on sizes alone.",
    ),
    "a cut that is computed": (
        [("Gather", ["n", "all"], ["start"], {}), ("Slice", ["x", "start", "end", "axis"], ["y"], {})],
        {"inputs": [X, MANY], "all": np.array([0]), "end": np.array([9]), "axis": np.array([1])},
        "(Slice)",
    ),
    "dropout in training": (
        [("Dropout", ["x", "ratio", "yes"], ["y"], {})],
        {"ratio": np.float32(0.5), "yes": np.bool_(True)},
        ": it is in training mode.",
    ),
    "a norm in training": (
        [("BatchNormalization", ["x", *"sbmv"], ["y", "mean", "variance"], {"training_mode": 1})],
        FOUR,
        f"(BatchNormalization) {CANNOT}it is in training mode.",
    ),
    "places by column": (
        [
            ("Reshape", ["x", "image"], ["x3"], {}),
            ("MaxPool", ["x3"], ["most", "where"], {"kernel_shape": [1], "storage_order": 1}),
            ("Cast", ["where"], ["places"], {"to": 1}),
            ("Add", ["most", "places"], ["y3"], {}),
            ("Reshape", ["y3", "row"], ["y"], {}),
        ],
        SHAPES,
        f"(MaxPool) {CANNOT}its indices count column by column (storage_order).",
    ),
    "the mean of a norm": (
        [("LayerNormalization", ["x", "w"], ["z", "mean"], {}), ("Add", ["z", "mean"], ["y"], {})],
        {"w": np.ones(3, np.float32)},
        ": its mean or deviation is an output too.",
    ),
    "a transposed computed matrix": (
        [
            ("Concat", ["x", "x"], ["two"], {"axis": 0}),
            ("Gemm", ["two", "w"], ["three"], {"transA": 1}),
            ("ReduceSum", ["three", "axis"], ["y"], {}),
        ],
        {"w": np.ones((2, 3), np.float32), "axis": np.array([0])},
        f"(Gemm) {CANNOT}its first matrix is transposed.",
    ),
    "a cell with computed weights": (
        [
            ("Reshape", ["x", "image"], ["x3"], {}),
            ("Add", ["r", "x3"], ["r2"], {}),
            ("GRU", ["x3", "w", "r2"], ["", "last"], {"name": "cell", "hidden_size": 3}),
            ("Reshape", ["last", "row"], ["y"], {}),
        ],
        {**SHAPES, **CELL},
        f"node 'cell' (GRU) {CANNOT}its input 'r2' {COMPUTED}",
    ),
}


@pytest.mark.parametrize(("nodes", "rest", "message"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_cannot_be_written_is_refused(nodes, rest, message):
    assert message in refused(nodes, **rest)


CELLS = {
    "clip": ({"clip": 1.0}, "cannot be decomposed: it uses sequence_lens, peepholes, clip or input_forget."),
    "layout": ({"layout": 1}, "cannot be decomposed: it has layout 1."),
    "alpha": (
        {"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [0.3], "activation_beta": [0.5]},
        "cannot be decomposed: its activations have an alpha or beta of their own.",
    ),
    "affine": (
        {"activations": ["Sigmoid", "Affine"]},
        "(Affine) cannot be written in C: there is no code for that operator.",
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_that_nobody_writes_is_refused(name):
    attributes, message = CELLS[name]
    nodes = [
        ("Reshape", ["x", "image"], ["x3"], {}),
        ("Reshape", ["h0", "image"], ["h"], {}),
        ("GRU", ["x3", "w", "r", "", "", "h"], ["all", "last"], {"name": "cell", "hidden_size": 3, **attributes}),
        ("Reshape", ["last", "row"], ["y"], {}),
        ("Identity", ["y"], ["h0.next"], {}),
    ]
    assert message in refused(nodes, states=[state("h0", 3)], image=IMAGE, row=np.array([1, 3]), **CELL)


def test_code_that_crashes_leaves_no_bundle(tmp_path, monkeypatch):
    crash, place = tmp_path / "crash.h", tmp_path / "out"
    crash.write_text("__attribute__((constructor)) static void starts(void) { *(volatile int *)8 = 1; }\n")
    place.mkdir()
    monkeypatch.setenv("CC", f"gcc -include {crash}")
    with raises("first-run-failed", "ended with SIGSEGV"):
        export(torch.nn.GRU(3, 3, batch_first=True), torch.zeros(1, 4, 3), place / "net.rnnx", targets=("onnx", "c"))
    assert not list(place.iterdir())
