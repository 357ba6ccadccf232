"""What is known of the values of an ONNX graph at one node: types, shapes and constants, those of outer graphs too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, numpy_helper

LONGER = {"float": "float32", "double": "float64"}
Dim = int | str | None


@dataclass
class Scope:
    """Values by name. `dtypes` are numpy's names; a dimension is an int, a symbol or None where nothing is known.

    `constants` are those that no parser has to compute; the array is None where it is of no tensor.
    """

    opset: int
    dtypes: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[Dim, ...]] = field(default_factory=dict)
    constants: dict[str, npt.NDArray[Any] | None] = field(default_factory=dict)

    def inside(self, graph: GraphProto) -> Scope:
        """The scope at the first node of `graph`, whose shapes are inferred already."""
        inner = Scope(self.opset, dict(self.dtypes), dict(self.shapes), dict(self.constants))
        for value in (*graph.value_info, *graph.output, *graph.input):
            inner._learn(value)
            inner.constants.pop(value.name, None)
        for constant in graph.initializer:
            inner.dtypes[constant.name] = dtype_name(constant.data_type)
            inner.shapes[constant.name] = tuple(constant.dims)
            inner.constants[constant.name] = numpy_helper.to_array(constant)
        return inner

    def _learn(self, value: ValueInfoProto) -> None:
        kind: TypeProto.Tensor = value.type.tensor_type
        if kind.elem_type:
            self.dtypes[value.name] = dtype_name(kind.elem_type)
        if kind.HasField("shape"):
            self.shapes[value.name] = tuple(dimension(dim) for dim in kind.shape.dim)

    def pass_by(self, node: NodeProto) -> None:
        """Take note of a constant that `node` makes or passes on."""
        if node.op_type == "Constant":
            value = attributes(node).get("value")
            array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else None
            self.constants[node.output[0]] = array
        elif node.op_type == "Identity" and node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]


def dtype_name(kind: int) -> str:
    """Numpy's name of an ONNX element type."""
    name: str = TensorProto.DataType.Name(kind).lower()
    return LONGER.get(name, name)


def dimension(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    """An int, a symbol, or None where nothing is known."""
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


def attributes(node: NodeProto) -> dict[str, Any]:
    """By name, text as str."""
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: _text(value) for name, value in found.items()}


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_text(v) for v in value] if isinstance(value, list) else value


def is_wide(array: npt.NDArray[Any] | None) -> bool:
    """Whether a number in it is beyond int32."""
    if array is None or array.dtype != np.int64 or not array.size:
        return False
    limits = np.iinfo(np.int32)
    return bool(array.min() < limits.min or array.max() > limits.max)
