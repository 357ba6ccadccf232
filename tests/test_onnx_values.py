"""Sizes computed in a graph, as the reader follows them, against those of onnx.reference."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rnn_export.onnx.onnx_file import read_model
from rnn_export.onnx.size_values import ShapeValues

FULL = 2**63 - 1
CUTS = {
    "to a computed end": ([0], None, [1], None),
    "from the back": ([-2], [FULL], [0], None),
    "every other": ([1], [FULL], [1], [2]),
    "backwards": ([-1], [-FULL], [2], [-1]),
    "without axes": ([0, 1], [2, 3], None, None),
    "beyond the end": ([2], [99], [2], [1]),
    "nothing": ([3], [1], [2], None),
}


def _graph(starts, ends, axes, steps):
    """x (2, 6, 4) cut; an end that is None is computed, 2 * x.shape[0]."""
    constants, names = [], []
    for name, value in zip(("starts", "ends", "axes", "steps"), (starts, ends, axes, steps), strict=True):
        computed = name == "ends" and value is None
        names.append(name if value is not None or computed else "")
        if value is not None:
            constants.append(numpy_helper.from_array(np.array(value, np.int64), name))
    constants.append(numpy_helper.from_array(np.array([2], np.int64), "two"))
    nodes = [helper.make_node("Shape", ["x"], ["shape"], start=0, end=1)]
    nodes.append(helper.make_node("Mul", ["shape", "two"], ["ends" if ends is None else "unused"]))
    nodes.append(helper.make_node("Slice", ["x", *names], ["y"], name="cut"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "cut", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_what_is_cut_has_the_shape_that_onnx_gives(cut):
    model = _graph(*cut)
    (y,) = ReferenceEvaluator(model).run(None, {"x": np.zeros((2, 6, 4), np.float32)})
    graph = read_model(model.SerializeToString())
    (node,) = (node for node in graph.nodes if node.op == "Slice")
    assert ShapeValues(graph, {"x": (2, 6, 4)}).shape(node) == y.shape


@pytest.mark.parametrize(("start", "step"), [(0, 1), (1, 2), (9, 1), (9, -3)])
def test_what_is_counted_has_the_shape_that_onnx_gives(start, step):
    """To the size of another axis: x.shape[1], over 2."""
    constants = {"start": start, "step": step, "two": 2, "one": 1}
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["size"]),
        helper.make_node("Div", ["size", "two"], ["end"]),
        helper.make_node("Range", ["start", "end", "step"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 13, 4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    given = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "count", [x], [y], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (want,) = ReferenceEvaluator(model).run(None, {"x": np.zeros((2, 13, 4), np.float32)})
    read = read_model(model.SerializeToString())
    assert ShapeValues(read, {"x": (2, 13, 4)}).shape(read.nodes[-1]) == want.shape


RESHAPES = {
    "to computed sizes": ([None, 4, 3, 2], 0),
    "with zeros for themselves": ([None, 4, 3, 2], 1),
    "what is left": ([None, -1], 0),
    "a size that stays": ([0, -1, 2, None], 0),
    "to other numbers": ([None, 25], 0),
    "two that are left": ([None, -1, -1], 0),
}


@pytest.mark.parametrize(("sizes", "keeps_zeros"), RESHAPES.values(), ids=RESHAPES)
def test_what_is_reshaped_has_the_shape_that_onnx_gives(sizes, keeps_zeros):
    """x (2, 6, 4); a size that is None is x.shape[0]."""
    names = ["shape" if n is None else f"n{i}" for i, n in enumerate(sizes)]
    constants = [
        numpy_helper.from_array(np.array([n], np.int64), f"n{i}") for i, n in enumerate(sizes) if n is not None
    ]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Concat", names, ["sizes"], axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["y"], allowzero=keeps_zeros),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "reshaped", [x], [y], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    try:
        (given,) = ReferenceEvaluator(model).run(None, {"x": np.zeros((2, 6, 4), np.float32)})
        wanted = given.shape
    except (ValueError, RuntimeError):
        wanted = None
    graph = read_model(model.SerializeToString())
    (node,) = (node for node in graph.nodes if node.op == "Reshape")
    assert ShapeValues(graph, {"x": (2, 6, 4)}).shape(node) == wanted
    assert ShapeValues(graph, {"x": (2, None, 4)}).shape(node) is None


def test_a_count_to_a_value_is_not_known():
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("start", "end", "step")]
    y = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph([helper.make_node("Range", ["start", "end", "step"], ["y"])], "count", inputs, [y])
    read = read_model(helper.make_model(graph).SerializeToString())
    assert ShapeValues(read, dict.fromkeys(("start", "end", "step"), ())).shape(read.nodes[0]) is None


def test_a_cut_that_a_value_decides_is_not_known():
    model = _graph([0], [3], [1], None)
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "ends"))
    model.graph.input.append(helper.make_tensor_value_info("ends", TensorProto.INT64, [1]))
    graph = read_model(model.SerializeToString())
    node = graph.nodes[-1]
    assert ShapeValues(graph, {"x": (2, 6, 4), "ends": (1,)}).shape(node) is None
