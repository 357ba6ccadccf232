"""A graph without a form in C is refused, with the node, the reason and advice."""

import numpy as np
import pytest
import torch

from rnn_export.errors import ExportError
from rnn_export.export import export

from ..messages import raises  # noqa: TID252
from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import X, Y, model, written

W = np.ones((3, 3), np.float32)
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


REFUSALS = {
    "NonZero": (["x3"], {}, {}, "there is no code for that operator. Known are Abs, "),
    "Conv computed": (["x3", "x3"], {}, {}, "its input 'x3' is computed, and only a constant can be written there"),
    "ConvTranspose computed": (["x3", "x3"], {}, {}, "its input 'x3' is computed, and only a constant"),
    "Pad less": (
        ["x3", "p"],
        {"mode": "edge"},
        {"p": np.array([0, 0, -1, 0, 0, 1])},
        "its mode is 'edge' with pads [0, 0, -1, 0, 0, 1], and only constant pads may be negative",
    ),
    "Pad far": (
        ["x3", "p"],
        {"mode": "reflect"},
        {"p": np.array([0, 0, 3, 0, 0, -3])},
        "its mode is 'reflect' with pads [0, 0, 3, 0, 0, -3], and only constant pads may be negative",
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
        {"scales": np.ones(3, np.float32)},
        "its mode is 'cubic' over 'half_pixel' with the policy 'stretch', and known are nearest and linear over half",
    ),
    "Resize smooth": (
        ["x3", "", "scales"],
        {"mode": "linear", "antialias": 1},
        {"scales": np.ones(3, np.float32)},
        "it smooths (antialias)",
    ),
    "Mod": (["x3", "x3"], {}, {}, "ONNX has it for floats with fmod=1 alone"),
    "Gather far": (["x3", "at"], {"axis": 1}, {"at": np.int64(4)}, "it takes 4 of 1 along axis 1"),
    "CumSum computed": (["x3", "x"], {}, {}, "its input 'x' is computed, and only a constant can be written there"),
    "ReduceL1 nothing": (["x3"], {"noop_with_empty_axes": 1}, {}, "it has no axes and noop_with_empty_axes"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_node_that_cannot_be_written_is_named(name):
    inputs, attributes, constants, message = REFUSALS[name]
    op = name.split()[0]
    said = through(op, inputs, attributes, **constants)
    assert said.startswith(f"node 'middle' ({op}) cannot be written in C: ")
    assert message in said


def test_every_unknown_operator_is_named():
    nodes = [("LRN", ["x"], ["a"], {"size": 3}), ("NonZero", ["a"], ["b"], {}), ("Det", ["b"], ["y"], {})]
    said = refused(nodes)
    assert "(LRN) cannot be written in C: there is no code for that operator, nor for Det, NonZero. Known are" in said
    assert "Say the same with those, or take the target onnx." in said


def test_an_operator_of_another_domain_is_unknown():
    assert "(Gelu) cannot be written in C: there is no code for that operator" in refused(
        [("Gelu", ["x"], ["y"], {"domain": "com.microsoft"})]
    )


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int8"])
def test_other_types_are_refused(dtype):
    wide = (tensor("x", "batch", 3, dtype=dtype),), (tensor("y", "batch", 3, dtype=dtype),)
    known = {"float64": "double"}.get(dtype, dtype)
    said = refused(PLAIN, inputs=wide[0], outputs=wide[1])
    assert (
        said == f"'x' is {known}, which is not written in C: a step has float32, int64, int32 and bool. "
        "Let the model take one of these, and convert outside of it."
    )


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_types_in_between_are_refused(dtype):
    to = {"float64": 11, "float16": 10}[dtype]
    nodes = [
        ("Cast", ["x"], ["wide"], {"to": to}),
        ("Neg", ["wide"], ["less"], {}),
        ("Cast", ["less"], ["y"], {"to": 1}),
    ]
    assert "which is not written in C: a step has float32, int64, int32 and bool." in refused(nodes)


def test_whole_numbers_are_not_multiplied_as_matrices():
    ids = tensor("x", "batch", 3, dtype="int64"), tensor("y", "batch", 3, dtype="int64")
    said = refused([("MatMul", ["x", "w"], ["y"], {})], inputs=ids[:1], outputs=ids[1:], w=np.ones((3, 3), np.int64))
    assert said.endswith("(MatMul) cannot be written in C: it multiplies int64_t.")
    nodes = [("ReduceL2", ["x", "axis"], ["y"], {})]
    said = refused(nodes, inputs=ids[:1], outputs=[tensor("y", "batch", 1, dtype="int64")], axis=np.array([1]))
    assert said.endswith("(ReduceL2) cannot be written in C: it has no form for int64_t.")
    said = refused([("Pow", ["x", "x"], ["y"], {})], inputs=ids[:1], outputs=ids[1:])
    assert said.endswith("whole numbers have constant powers of 0 to 8 alone, all to the same one.")


def test_what_has_a_form_for_floats_alone_is_refused_for_whole_numbers():
    ids = tensor("x", "batch", 3, dtype="int64"), tensor("y", "batch", 3, dtype="int64")
    said = refused([("Relu", ["x"], ["y"], {})], inputs=ids[:1], outputs=ids[1:])
    assert said.endswith("(Relu) cannot be written in C: it has no form for int64_t.")


def test_shapes_that_depend_on_values_are_refused():
    many = tensor("n", "batch", dtype="int64")
    nodes = [
        ("ReduceSum", ["x", "axis"], ["sum"], {}),
        ("Expand", ["sum", "n"], ["wide"], {}),
        ("ReduceSum", ["wide"], ["y"], {}),
    ]
    said = refused(nodes, inputs=[X, many], outputs=[tensor("y", "batch", 1)], axis=np.array([1]))
    assert "(Expand) gives 'wide' of a shape that is not fixed" in said
    assert "C has no arrays that change their size. Make the shape depend on sizes alone." in said


def test_a_cut_that_is_computed_is_refused():
    at = tensor("n", "batch", dtype="int64")
    nodes = [("Gather", ["n", "all"], ["start"], {}), ("Slice", ["x", "start", "end", "axis"], ["y"], {})]
    said = refused(nodes, inputs=[X, at], all=np.array([0]), end=np.array([9]), axis=np.array([1]))
    assert "(Slice)" in said


def test_what_only_training_has_is_refused():
    nodes = [("Dropout", ["x", "ratio", "yes"], ["y"], {})]
    assert refused(nodes, ratio=np.float32(0.5), yes=np.bool_(True)).endswith(": it is in training mode.")
    four = {name: np.ones(3, np.float32) for name in "sbmv"}
    nodes = [("BatchNormalization", ["x", *"sbmv"], ["y", "mean", "variance"], {"training_mode": 1})]
    assert refused(nodes, **four).endswith("(BatchNormalization) cannot be written in C: it is in training mode.")


def test_outputs_that_are_not_computed_are_refused():
    nodes = [
        ("Reshape", ["x", "image"], ["x3"], {}),
        ("MaxPool", ["x3"], ["most", "where"], {"kernel_shape": [1], "storage_order": 1}),
        ("Cast", ["where"], ["places"], {"to": 1}),
        ("Add", ["most", "places"], ["y3"], {}),
        ("Reshape", ["y3", "row"], ["y"], {}),
    ]
    said = refused(nodes, image=IMAGE, row=np.array([1, 3]))
    assert said.endswith("(MaxPool) cannot be written in C: its indices count column by column (storage_order).")
    nodes = [("LayerNormalization", ["x", "w"], ["z", "mean"], {}), ("Add", ["z", "mean"], ["y"], {})]
    assert refused(nodes, w=np.ones(3, np.float32)).endswith(": its mean or deviation is an output too.")


def test_a_transposed_computed_matrix_is_refused():
    nodes = [
        ("Concat", ["x", "x"], ["two"], {"axis": 0}),
        ("Gemm", ["two", "w"], ["three"], {"transA": 1}),
        ("ReduceSum", ["three", "axis"], ["y"], {}),
    ]
    said = refused(nodes, w=np.ones((2, 3), np.float32), axis=np.array([0]))
    assert said.endswith("(Gemm) cannot be written in C: its first matrix is transposed.")


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


def test_a_cell_with_computed_weights_is_refused():
    nodes = [
        ("Reshape", ["x", "image"], ["x3"], {}),
        ("Add", ["r", "x3"], ["r2"], {}),
        ("GRU", ["x3", "w", "r2"], ["", "last"], {"name": "cell", "hidden_size": 3}),
        ("Reshape", ["last", "row"], ["y"], {}),
    ]
    said = refused(nodes, image=IMAGE, row=np.array([1, 3]), **CELL)
    assert said.startswith("node 'cell' (GRU) cannot be written in C: its input 'r2' is computed, and only a constant")


def test_code_that_crashes_leaves_no_bundle(tmp_path, monkeypatch):
    crash, place = tmp_path / "crash.h", tmp_path / "out"
    crash.write_text("__attribute__((constructor)) static void starts(void) { *(volatile int *)8 = 1; }\n")
    place.mkdir()
    monkeypatch.setenv("CC", f"gcc -include {crash}")
    with raises("first-run-failed", "ended with SIGSEGV"):
        export(torch.nn.GRU(3, 3, batch_first=True), torch.zeros(1, 4, 3), place / "net.rnnx", targets=("onnx", "c"))
    assert not list(place.iterdir())
