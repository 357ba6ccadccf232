"""One graph at every opset: the same values, or a refusal that names node and operator."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from rnn_export.contract.target_table import TARGETS

from ..messages import raises  # noqa: TID252
from .rewriting import at_opset, built

LOW, HIGH = TARGETS["onnx"].opsets


def model(nodes: list[onnx.NodeProto], outputs: int = 1, **constants: np.ndarray) -> onnx.ModelProto:
    """x (2, 6) through `nodes`, which are named after their operator, to y, y1, ..."""
    for node in nodes:
        node.name = f"the_{node.op_type}"
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    made = built(nodes, {"x": ["batch", 6]}, dict.fromkeys(names), **constants)
    return onnx.shape_inference.infer_shapes(made)


CASES = {
    "reduce": model([helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)], axes=np.array([1])),
    "reduce all": model([helper.make_node("ReduceMax", ["x"], ["y"])]),
    "reduce sum": model([helper.make_node("ReduceSum", ["x", "axes"], ["y"])], axes=np.array([-1])),
    "pad": model(
        [helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode="reflect")],
        pads=np.array([2, 3]),
        axes=np.array([-1]),
    ),
    "split": model([helper.make_node("Split", ["x"], ["y", "y1"], axis=1, num_outputs=2)], 2),
    "split unevenly": model([helper.make_node("Split", ["x"], ["y", "y1", "y2", "y3"], axis=1, num_outputs=4)], 4),
    "split sizes": model([helper.make_node("Split", ["x", "s"], ["y", "y1"], axis=1)], 2, s=np.array([2, 4])),
    "reshape": model([helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=0)], s=np.array([0, 2, 3])),
    "relu add": model([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Add", ["a", "x"], ["y"])]),
}


@pytest.mark.parametrize("opset", range(LOW, HIGH + 1))
@pytest.mark.parametrize("name", CASES)
def test_every_opset_gives_the_same(name: str, opset: int) -> None:
    case = onnx.ModelProto()
    case.CopyFrom(CASES[name])
    x = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    moved = at_opset(case, opset)
    assert [(entry.domain, entry.version) for entry in moved.opset_import] == [("", opset)]
    onnx.checker.check_model(moved, full_check=True)
    for got, want in zip(evaluate(moved, x), evaluate(CASES[name], x), strict=True):
        np.testing.assert_array_equal(got, want)


def evaluate(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, {"x": x})
    return results


@pytest.mark.parametrize(
    ("node", "constants", "opset", "message"),
    [
        (helper.make_node("Mish", ["x"], ["y"]), {}, 17, ("lowering-unknown-operator", "'the_Mish' (Mish", "18 to 17")),
        (
            helper.make_node("ReduceMean", ["x", "axes"], ["y"], noop_with_empty_axes=1),
            {"axes": np.array([1])},
            17,
            ("lowering-unknown-attributes", "'the_ReduceMean'", "['noop_with_empty_axes']"),
        ),
        (
            helper.make_node("LayerNormalization", ["x", "s"], ["y"]),
            {"s": np.ones(6, np.float32)},
            16,
            ("lowering-unknown-operator", "LayerNormalization", "18"),
        ),
    ],
)
def test_what_cannot_be_said_is_refused(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], opset: int, message: tuple[str, ...]
) -> None:
    with raises(*message):
        at_opset(model([node], **constants), opset)


def reshape(sizes: list[int], constant: bool = True) -> onnx.ModelProto:
    """With allowzero=1, which opset 13 cannot say."""
    ends = [helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=1)]
    if constant:
        return model(ends, s=np.array(sizes))
    return model([helper.make_node("Cast", ["f"], ["s"], to=TensorProto.INT64), *ends], f=np.array(sizes, np.float32))


def test_zeros_of_a_reshape_need_not_be_said_where_there_are_none() -> None:
    x = np.ones((2, 6), np.float32)
    moved = at_opset(reshape([2, 3, 2]), 13)
    assert list(moved.graph.node[0].attribute) == []
    np.testing.assert_array_equal(evaluate(moved, x), [x.reshape(2, 3, 2)])
    assert at_opset(reshape([2, 3, 2]), 14).graph.node[0].attribute[0].i == 1


@pytest.mark.parametrize(("sizes", "constant"), [([0, 6], True), ([2, 6], False)], ids=["zero", "computed"])
def test_zeros_of_a_reshape_that_may_be_there_are_refused(sizes: list[int], constant: bool) -> None:
    with raises("lowering-unknown-attributes", "'the_Reshape'", "['allowzero']"):
        at_opset(reshape(sizes, constant), 13)


def test_axes_that_are_computed_are_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["f"], ["axes"], to=TensorProto.INT64),
        helper.make_node("ReduceMean", ["x", "axes"], ["y"]),
    ]
    with raises("lowering-computed-input", "'the_ReduceMean'", "'axes'"):
        at_opset(model(nodes, f=np.array([1.0], np.float32)), 13)


def test_another_domain_is_refused() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with raises("opset-not-reached", "['com.microsoft']"):
        at_opset(proto, 18)
