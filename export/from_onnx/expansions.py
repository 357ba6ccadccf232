"""Remove the test for -1 before an Expand to sizes that are never -1, so that its shape can be inferred."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

# Of what is made of sizes, these make sizes again.
_MOVES = {"Gather", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Slice", "Cast"}
_JOINS = {"Concat", "Add", "Mul"}


class KeepSizes(InPlacePass):
    """Replace Where(s == -1, other, s) by s for sizes s: torch.onnx writes it before each Expand."""

    def call(self, model: ir.Model) -> PassResult:
        done = False
        for graph in model.graphs():
            for node in [n for n in graph if n.op_type == "Where"]:
                sizes = node.inputs[2]
                if sizes is not None and _asks_for_minus_one(node.inputs[0], sizes) and _are_sizes(sizes):
                    sizes = _without_reshape(sizes)
                    ir.convenience.replace_all_uses_with(node.outputs[0], sizes)
                    graph.remove(node, safe=True)
                    done = True
        return PassResult(model, modified=done)


def _asks_for_minus_one(condition: ir.Value | None, sizes: ir.Value) -> bool:
    node = None if condition is None else condition.producer()
    if node is None or node.op_type != "Equal" or sizes not in node.inputs:
        return False
    (other,) = [value for value in node.inputs if value is not sizes] or [None]
    number = _number(other)
    return number is not None and bool((number == -1).all())


def _are_sizes(value: ir.Value | None) -> bool:
    """True if a value holds whole numbers that count something: of a shape, or constants, none below 0."""
    number = _number(value)
    if number is not None:
        return number.dtype.kind == "i" and bool((number >= 0).all())
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type in ("Shape", "Size"):
        return True
    if node.op_type in _MOVES:
        return _are_sizes(node.inputs[0])
    return node.op_type in _JOINS and all(map(_are_sizes, node.inputs))


def _without_reshape(sizes: ir.Value) -> ir.Value:
    """The list of sizes before a Reshape that leaves it as it was."""
    node = sizes.producer()
    if node is None or node.op_type != "Reshape" or node.inputs[0] is None:
        return sizes
    shape, before = _number(node.inputs[1]), node.inputs[0].shape
    flat = shape is not None and shape.tolist() == [-1] and before is not None and len(before) == 1
    return node.inputs[0] if flat else sizes


def _number(value: ir.Value | None) -> np.ndarray | None:
    if value is None:
        return None
    constant = ir.convenience.get_const_tensor(value)
    return None if constant is None else np.asarray(constant.numpy())
