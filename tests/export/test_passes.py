"""Graph passes check conditions, raise errors unchanged, and keep the bytes of an unchanged graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.mixed_precision import ToMixedPrecision
from rnn_export.export.graph.passes.pipeline import InferShapes, apply, parse, rewrite, serialise
from rnn_export.export.graph.passes.simplify import Simplify
from rnn_export.export.graph.sequence import SequenceFromStep

from ..messages import raises  # noqa: TID252
from .rewriting import built

X, Y = {"x": ["batch", 4]}, {"y": ["batch", 4]}


def graph() -> bytes:
    """y = relu(x) + 1 of (batch, 4), its weights large and small in turn."""
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("MatMul", ["b", "sum"], ["y"]),
    ]
    weights = {"big": np.ones((4, 400), np.float32), "one": np.float32(1), "sum": np.ones((400, 4), np.float32)}
    return built(nodes, X, Y, **weights).SerializeToString()


class Conditional(InPlacePass):
    """Fails at one point."""

    def __init__(self, point: str, error: Exception) -> None:
        self.point, self.error = point, error

    def reach(self, point: str) -> None:
        if point == self.point:
            raise self.error

    def requires(self, model: ir.Model) -> None:
        self.reach("requires")

    def call(self, model: ir.Model) -> PassResult:
        self.reach("call")
        return PassResult(model, modified=False)

    def ensures(self, model: ir.Model) -> None:
        self.reach("ensures")


@pytest.mark.parametrize("point", ["requires", "call", "ensures"])
@pytest.mark.parametrize("error", [ExportError("node 'n' is bad"), ZeroDivisionError("a fault")])
def test_what_a_pass_raises_arrives_as_it_was(point: str, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        apply(parse(graph()), InferShapes(), Conditional(point, error))
    assert caught.value is error


def test_a_pass_that_nothing_stops_returns_the_model() -> None:
    model = parse(graph())
    assert apply(model, Conditional("never", ExportError(""))) is model


def test_a_graph_that_no_pass_changes_keeps_its_bytes() -> None:
    once = serialise(parse(graph()))
    assert rewrite(once, Conditional("never", ExportError(""))) == once
    assert serialise(parse(once), check=True) == once


def test_inferred_shapes_are_written_and_weights_keep_their_order() -> None:
    model = apply(parse(graph()), InferShapes())
    assert list(model.graph.initializers) == ["big", "one", "sum"]
    assert [str(value.shape) for node in model.graph for value in node.outputs] == ["[batch,400]"] * 2 + ["[batch,4]"]


def test_what_is_not_decomposed_in_spite_of_all_is_a_fault() -> None:
    node = helper.make_node("RNN", ["x", "W", "R", "", "", "h"], ["y"], name="rnn", hidden_size=2)
    weights = {"W": np.ones((1, 2, 4), np.float32), "R": np.ones((1, 2, 2), np.float32)}
    model = parse(built([node], {"x": [1, 3, 4], "h": [1, 3, 2]}, {"y": None}, **weights).SerializeToString())
    assert {n.op_type for n in apply(model.clone(), DecomposeRecurrent()).graph} >= {"Gemm", "Tanh"}
    with raises("recurrent-node-left", "'rnn' (RNN"):
        DecomposeRecurrent().ensures(model)


def test_mixed_precision_needs_the_contract_in_the_graph() -> None:
    with raises("graph-without-contract", "'rnn_export.spec'"):
        apply(parse(graph()), ToMixedPrecision("fp16"))


def test_a_sequence_needs_the_step_of_its_contract() -> None:
    tensor = TensorSpec("x", "float32", ("batch", "time", 4))
    spec = StreamSpec((tensor,), (TensorSpec("z", "float32", ("batch", "time", 4)),), ())
    with raises("sequence-ports-differ", "['x', 'y']", "['x', 'z']"):
        apply(parse(graph()), SequenceFromStep(spec))


def of_constant(op: str, number: float) -> bytes:
    """y = op(x, number) + x."""
    nodes = [helper.make_node(op, ["x", "c"], ["a"]), helper.make_node("Add", ["a", "x"], ["y"])]
    return built(nodes, X, Y, c=np.float32(number)).SerializeToString()


@pytest.mark.parametrize(("op", "number"), [("Add", 0), ("Sub", 0), ("Mul", 1), ("Div", 1)])
def test_what_does_nothing_is_taken_out(op: str, number: float) -> None:
    assert [n.op_type for n in parse(rewrite(of_constant(op, number), Simplify())).graph] == ["Add"]


@pytest.mark.parametrize(
    ("op", "number"), [("Add", 1e-8), ("Add", 1e-12), ("Sub", 1e-8), ("Mul", 1 + 1e-6), ("Div", 1 + 1e-6)]
)
def test_what_does_little_stays(op: str, number: float) -> None:
    """onnxscript's own rules take it out."""
    model = parse(rewrite(of_constant(op, number), Simplify()))
    assert [n.op_type for n in model.graph] == [op, "Add"]


def test_two_clamps_of_one_value_keep_their_bounds() -> None:
    """A Clip names its bounds after what it clamps: `x_min` of the second one is no input, and none of the first's."""
    bounds = {"low": -1, "high": 1, "lower": -6, "higher": 6}
    nodes = [
        helper.make_node("Max", ["x", "low"], ["a"]), helper.make_node("Min", ["a", "high"], ["b"]),
        helper.make_node("Max", ["x", "lower"], ["c"]), helper.make_node("Min", ["c", "higher"], ["d"]),
        helper.make_node("Sum", ["b", "d", "x_min"], ["y"]),
    ]  # fmt: skip
    inputs, numbers = {**X, "x_min": ["batch", 4]}, {name: np.float32(value) for name, value in bounds.items()}
    raw = built(nodes, inputs, Y, **numbers).SerializeToString()
    model = parse(rewrite(raw, Simplify()))
    assert serialise(model, check=True)
    assert [n.op_type for n in model.graph] == ["Clip", "Clip", "Sum"]
    found = [[float(v.const_value.numpy()) for v in n.inputs[1:]] for n in model.graph if n.op_type == "Clip"]
    assert found == [[-1, 1], [-6, 6]]
    assert [value.name for value in model.graph.inputs] == ["x", "x_min"]
