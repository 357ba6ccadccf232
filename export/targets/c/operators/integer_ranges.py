"""Bounds of the whole numbers of a step, as far as the graph shows them."""

import math

import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
# These give values of their first input.
MOVED = (
    "Cast", "CastLike", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip


def range_of(value: ir.Value | None, deep: int = 12) -> Range:
    """The least and the largest number that `value` may hold, infinite if `deep` operators before it tell none."""
    if value is None or deep == 0:
        return ANY
    if value.const_value is not None:
        constant = value.const_value.numpy()
        return (float(constant.min()), float(constant.max())) if constant.size else ANY
    if value.dtype == ir.DataType.BOOL:
        return 0, 1
    node = value.producer()
    # A float may be NaN, which is a number beyond every range once it is a whole one.
    if node is None or value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return ANY
    if node.op_type in ("ArgMax", "ArgMin", "TopK"):
        searched, axis = node.inputs[0], node.attributes.get_int("axis", -1 if node.op_type == "TopK" else 0)
        shape = None if searched is None else searched.shape
        size = None if shape is None else shape[axis]
        return (0, size - 1) if isinstance(size, int) else ANY
    if node.op_type in MOVED:
        return range_of(node.inputs[0], deep - 1)
    return _computed(node, deep - 1)


def _computed(node: ir.Node, deep: int) -> Range:
    ranges = [range_of(input_of(node, i), deep) for i in range(len(node.inputs))]
    lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
    match node.op_type:
        case "Concat":
            return min(lows), max(highs)
        case "Where":
            return min(lows[1:]), max(highs[1:])
        case "Min":
            return min(lows), min(highs)
        case "Max":
            return max(lows), max(highs)
        case "Clip":
            low, high = (list(ranges) + [ANY] * 2)[1:3]
            return min(max(lows[0], low[0]), high[0]), min(max(highs[0], low[1]), high[1])
        case "Add":
            return sum(lows), sum(highs)
        case "Sub":
            return lows[0] - highs[1], highs[0] - lows[1]
        case "Mod" if lows[1] > 0 and not node.attributes.get_int("fmod", 0):
            return 0, highs[1] - 1
    return ANY
