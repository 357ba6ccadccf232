"""Hostile step graphs of the contract of a running sum: x, h (batch, 3) -> y, h.next."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Nodes = Sequence[onnx.NodeProto]


def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[object] = ("batch", 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


SUM = [node("Add", ["x", "h"], ["y"]), node("Identity", ["y"], ["h.next"])]


def constant(name: str, values: object, dtype: str = "int64") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def external(name: str, where: str, shape: Sequence[int] = (3,)) -> onnx.TensorProto:
    """A tensor whose values lie in the file `where`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=where)
    return tensor


def step(
    nodes: Nodes = (), constants: Sequence[onnx.TensorProto] = (), outputs: object = None, **kept: object
) -> bytes:
    """A step with `nodes` before those that sum up."""
    last = kept.get("last", SUM)
    gives = outputs or [value("y"), value("h.next")]
    graph = helper.make_graph([*nodes, *last], "step", [value("x"), value("h")], gives, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def body(nodes: Nodes, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [value(n) for n in inputs], [value(n) for n in outputs])


def loop(trips: Sequence[str]) -> list[onnx.NodeProto]:
    """x added up again and again: `trips` is the name of how often, or nothing."""
    inner = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), node("Tanh", ["a"], ["b"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("a")],
        [value("c2", TensorProto.BOOL, []), value("b")],
    )
    return [node("Loop", [*trips, "yes", "x"], ["looped"], body=inner)]


def doubling(times: int) -> list[onnx.NodeProto]:
    """A value of 3 * 2**times."""
    return [node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=1) for i in range(times)]
