"""The operands of an ONNX node, as tensors or as numbers, and its attributes, to write it in torch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.platform.arrays import Array

Operator = Callable[["Operands"], Tensor | tuple[Tensor, ...]]


class Operands:
    """The operands of one node. A constant is a tensor in computations, and numbers as a size."""

    def __init__(self, node: ir.Node, tensors: Mapping[str, Tensor], constants: Mapping[str, Array]) -> None:
        self.node, self.tensors, self.constants = node, tensors, constants

    def given(self, index: int) -> bool:
        return input_of(self.node, index) is not None

    def __getitem__(self, index: int) -> Tensor:
        value = input_of(self.node, index)
        if value is None:
            raise self.refusal(f"its input {index} is left out", id="torch-operand-left-out")
        return self.tensors[str(value.name)]

    def all(self) -> list[Tensor]:
        return [self.tensors[str(value.name)] for value in self.node.inputs if value is not None]

    def numbers(self, index: int) -> Array | None:
        """A constant operand; None where it is left out."""
        value = input_of(self.node, index)
        if value is None:
            return None
        if value.name not in self.constants:
            raise self.refusal(f"its input {index} ({value.name!r}) is no constant", id="torch-operand-not-constant")
        return self.constants[str(value.name)]

    def is_constant(self, index: int) -> bool:
        """Also where it is left out."""
        value = input_of(self.node, index)
        return value is None or value.name in self.constants

    def ints(self, index: int) -> list[int] | None:
        found = self.numbers(index)
        return None if found is None else [int(n) for n in np.atleast_1d(found)]

    def required(self, index: int) -> list[int]:
        found = self.ints(index)
        if found is None:
            raise self.refusal(f"its input {index} is left out", id="torch-operand-left-out")
        return found

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        if found is None:
            return default
        value = found.value
        return list(value) if isinstance(value, tuple) else value

    def axes(self, index: int = 1) -> list[int] | None:
        """As an operand, or as an attribute before opset 13 or 18."""
        found = self.ints(index) if self.given(index) else self.attribute("axes")
        return None if found is None else [int(axis) for axis in found]

    def refusal(self, reason: str, *, id: str) -> ExportError:
        return ExportError(
            f"node {self.node.name!r} ({self.node.op_type}) cannot be written in torch's operators: {reason}. Export "
            "the PyTorch module itself with this target, or leave the target out.",
            id=id,
        )


DTYPES: Mapping[int, torch.dtype] = {
    int(ir.DataType.from_numpy(np.dtype(name))): getattr(torch, name)
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
}
