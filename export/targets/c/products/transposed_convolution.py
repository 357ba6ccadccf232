"""ConvTranspose: each place of the input gives a window of values, and windows that overlap are added."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_name
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.notation import index_expression, strides_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.data_movement import copy_strided
from rnn_export.export.targets.c.products.matrix import Operand, Product


def conv_transpose(code: CodeBuilder, node: ir.Node) -> None:
    """From (images, channels, *sizes) and weights (channels, outputs of a group, *window)."""
    weight, bias = code.required(node, 1), code.constant(node, 2)
    x, groups = code.read(node, 0), node.attributes.get_int("group", 1)
    y = code.new_output(node)
    images, channels, outputs = x.shape[0], x.shape[1] // groups, weight.shape[1]
    places, values = math.prod(x.shape[2:]), math.prod(weight.shape[2:])
    _start(code, y, np.zeros(groups * outputs, np.float32) if bias is None else bias)
    for group in range(groups):
        first = group * channels
        matrix = np.ascontiguousarray(weight[first : first + channels].reshape(channels, -1).T)
        source, row_stride = x.view(first * places, (channels, places)), channels * groups
        if places > 1:
            rows = code.alloc("float", (images * places, channels))
            loops = [(images, places * channels, row_stride * places), (places, channels, 1), (channels, 1, places)]
            copy_strided(code, rows, 0, source, 0, loops)
            source, row_stride = rows, channels
        windows = code.alloc("float", (images * places, outputs * values))
        operand = Operand(matrix, source.address, row_stride, input_name(node, 0))
        Product(code, np.zeros(outputs * values, np.float32), images * places, operand, wide=True).emit(windows.address)
        _add(code, node, windows, x.shape, y, (group * outputs, outputs, *weight.shape[2:]))


def _start(code: CodeBuilder, y: CTensor, bias: np.ndarray) -> None:
    places = math.prod(y.shape[2:])
    with code.loops(["m", "o", "l"], [*y.shape[:2], places]):
        name = code.weights.name_of(bias)
        code.emit(f"{y.address}[(m * {y.shape[1]} + o) * {places} + l] = {name}[o];")


def _add(
    code: CodeBuilder, node: ir.Node, windows: CTensor, image: Sequence[int], y: CTensor, of_group: Sequence[int]
) -> None:
    """Add the windows of one group to where they belong; `of_group` has its first output, their number, the window."""
    first, outputs, *window = of_group
    rank, sizes, result = len(window), image[2:], y.shape[2:]
    strides, dilations = (node.attributes.get_ints(name, [1] * rank) for name in ("strides", "dilations"))
    pads, inside, indices = _pads(node, sizes, result, window), [], []
    for axis, (size, end) in enumerate(zip(sizes, result, strict=True)):
        index = f"(l{axis} * {strides[axis]} + k{axis} * {dilations[axis]} - {pads[axis]})"
        indices.append(index)
        if pads[axis] > 0:
            inside.append(f"{index} >= 0")
        if (size - 1) * strides[axis] + (window[axis] - 1) * dilations[axis] - pads[axis] >= end:
            inside.append(f"{index} < {end}")
    variables = ["m", *(f"l{a}" for a in range(rank)), "o", *(f"k{a}" for a in range(rank))]
    shape = [image[0], *sizes, outputs, *window]
    target = f"(m * {y.shape[1]} + {first} + o) * {math.prod(result)} + {index_expression(indices, strides_of(result))}"
    with code.loops(variables, shape):
        if inside:
            code.emit(f"if ({' && '.join(inside)})")
        code.emit(f"    {y.address}[{target}] += {windows.address}[{index_expression(variables, strides_of(shape))}];")


def _pads(node: ir.Node, sizes: Sequence[int], result: Sequence[int], window: Sequence[int]) -> list[int]:
    """Values that are cut off before each axis: given, or half of the excess over the result."""
    attributes, rank = node.attributes, len(window)
    padding = attributes.get_string("auto_pad", "NOTSET")
    if padding in ("NOTSET", "VALID") and "output_shape" not in attributes:
        return list(attributes.get_ints("pads", [0] * rank))[:rank]
    strides, dilations = (attributes.get_ints(name, [1] * rank) for name in ("strides", "dilations"))
    more = attributes.get_ints("output_padding", [0] * rank)
    full = [
        s * (n - 1) + extra + (w - 1) * d + 1
        for n, w, s, d, extra in zip(sizes, window, strides, dilations, more, strict=True)
    ]
    total = [max(n - end, 0) for n, end in zip(full, result, strict=True)]
    return [t // 2 if padding == "SAME_UPPER" else t - t // 2 for t in total]
