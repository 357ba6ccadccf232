"""Convolutions."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_name
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.notation import index_expression, shape_of, strides_of
from rnn_export.export.targets.c.code.tensors import CTensor, Shift
from rnn_export.export.targets.c.operators.image_windows import SlidingWindow
from rnn_export.export.targets.c.products.matrix import FEW_OUTPUTS, Operand, Product
from rnn_export.export.targets.c.products.window_positions import across_places, many_places
from rnn_export.platform.arrays import Array


def conv(code: CodeBuilder, node: ir.Node) -> None:
    """Many output positions lie across vectors; else each is a row: its window times the kernels."""
    weight, bias = code.required(node, 1), code.constant(node, 2)
    groups, window = node.attributes.get_int("group", 1), _unjoined_window(code, node)
    x = code.read(node, 0) if window is None else window.joined()
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    sliding, y = _some_places(code, node, SlidingWindow.of(node, x.shape, shape_of(node.outputs[0]), weight.shape[2:]))
    # A group with few outputs is in fp32 in every precision.
    if many_places(sliding) and (code.precision == "fp32" or len(weight) // groups <= FEW_OUTPUTS):
        across_places(code, sliding, x, y, weight, bias, groups)
        return
    if groups > 1 and weight.shape[1] == 1:
        _by_channel(code, sliding, window or x, y, weight, bias)
        return
    images, places = x.shape[0], math.prod(sliding.places)
    outputs, channels = len(weight) // groups, weight.shape[1]
    rows, values = images * places, channels * math.prod(sliding.window)
    for group in range(groups):
        of_group = slice(group * outputs, (group + 1) * outputs)
        source = x.view(group * channels * math.prod(sliding.sizes), (channels, *sliding.sizes))
        if window is None:
            address, row_stride = _rows(code, sliding, source, x.shape)
        else:
            address, row_stride = _row_of_window(code, sliding, window, group, channels), values
        operand = Operand(weight[of_group].reshape(outputs, values), address, row_stride, input_name(node, 0))
        start = group * outputs * places
        if places == 1 and 1 in (images, groups):
            Product(code, bias[of_group], rows, operand, wide=True).emit(f"({y.address} + {start})")
            continue
        by_place = code.alloc("float", (rows, outputs))
        Product(code, bias[of_group], rows, operand, wide=True).emit(by_place.address)
        with code.loops(["m", "o", "l"], [images, outputs, places]):
            target = index_expression(["m", "o", "l"], [len(weight) * places, places, 1])
            code.emit(f"{y.address}[{start} + {target}] = {by_place.address}[(m * {places} + l) * {outputs} + o];")


def _some_places(code: CodeBuilder, node: ir.Node, sliding: SlidingWindow) -> tuple[SlidingWindow, CTensor]:
    """The output positions that the one reader takes, if it takes a range of one axis; and their tensor."""
    uses, length = list(node.outputs[0].uses()), sliding.places[0]
    reader = uses[0].node if len(uses) == 1 and len(sliding.places) == 1 else node
    taken = _taken(reader, length)
    if taken is None or node.outputs[0].is_graph_output():
        return sliding, code.new_output(node)
    y = code.alloc("float", (*shape_of(node.outputs[0])[:2], len(taken)))
    code.fused.add(reader)
    code.tensors[reader.outputs[0]] = y.view(0, shape_of(reader.outputs[0]))
    return sliding.part(taken), y


def _taken(reader: ir.Node, length: int) -> range | None:
    """The range of `length` positions along axis 2 that a Gather or Slice takes, or None."""
    values = reader.inputs[1:]
    constants = [v.const_value.numpy() for v in values if v is not None and v.const_value is not None]
    if not values or len(constants) < len(values):
        return None
    first, *rest = [c.reshape(-1).tolist() for c in constants]
    if reader.op_type == "Gather" and constants[0].ndim == 0 and reader.attributes.get_int("axis", 0) == 2:
        at = first[0] % length
        return range(at, at + 1)
    if (
        reader.op_type == "Slice"
        and len(first) == 1
        and len(rest) > 1
        and rest[1] in ([2], [-1])
        and rest[2:] in ([], [[1]])
    ):
        taken = range(length)[slice(first[0], rest[0][0])]
        return taken if len(taken) else None
    return None


def _by_channel(
    code: CodeBuilder, sliding: SlidingWindow, x: CTensor | Shift, y: CTensor, weight: Array, bias: Array
) -> None:
    """Groups of one channel: too small to be products, in fp32 at any precision."""
    outputs, values, places = len(weight), math.prod(sliding.window), math.prod(sliding.places)
    kernels, biases = code.weights.name_of(weight), code.weights.name_of(bias)
    code.macs += y.size * values
    if isinstance(x, Shift):
        code.used(x.entering)
        channel = _channel(outputs, x.state.shape[1])
        with code.loop("o", outputs):
            taps = [x.value(channel, k * sliding.dilations[0]) for k in range(values)]
            terms = [f"{kernels}[o * {values} + {k}] * {tap}" for k, tap in enumerate(taps)]
            code.emit(f"{y.address}[o] = {biases}[o] + {' + '.join(terms)};")
        return
    index, inside = sliding.read()
    places_of, values_of = sliding.variables("l"), sliding.variables("k")
    source = f"(m * {x.shape[1]} + {_channel(outputs, x.shape[1])}) * {math.prod(sliding.sizes)} + {index}"
    target = f"(m * {outputs} + o) * {places} + {index_expression(places_of, strides_of(sliding.places))}"
    with code.loops(["m", "o"], [x.shape[0], outputs]):
        with code.loops(places_of, sliding.places):
            code.emit(f"{y.address}[{target}] = {biases}[o];")
        with code.loops([*values_of, *places_of], [*sliding.window, *sliding.places]):
            factor = f"{kernels}[o * {values} + {index_expression(values_of, strides_of(sliding.window))}]"
            condition = f"if ({' && '.join(inside)}) " if inside else ""
            code.emit(f"{condition}{y.address}[{target}] += {factor} * {x.address}[{source}];")


def _channel(outputs: int, channels: int) -> str:
    """The input channel of the output `o`."""
    return "o" if outputs == channels else f"o / {outputs // channels}"


def _unjoined_window(code: CodeBuilder, node: ir.Node) -> Shift | None:
    """The unjoined window that gives one output position, along time alone."""
    assert node.inputs[0] is not None
    window, rank = code.windows.get(node.inputs[0]), len(shape_of(node.outputs[0]))
    plain = rank == 3 and shape_of(node.outputs[0])[2] == 1 and not any(node.attributes.get_ints("pads", [0, 0]))
    return window if plain and window is not None and window.axis == 2 and window.state.shape[0] == 1 else None


def _row_of_window(code: CodeBuilder, sliding: SlidingWindow, window: Shift, group: int, channels: int) -> str:
    """The address of a group's one window, gathered from a state and new values."""
    (size,), first = sliding.window, group * channels
    values = code.alloc("float", (channels, size))
    code.used(window.entering)
    with code.loop("c", channels):
        for k in range(size):
            value = window.value(f"{first} + c", k * sliding.dilations[0])
            code.emit(f"{values.address}[c * {size} + {k}] = {value};")
    return values.address


def _rows(code: CodeBuilder, sliding: SlidingWindow, x: CTensor, images: Sequence[int]) -> tuple[str, int]:
    """The address of a row for each position, and the values from one to the next: x itself if it has them in a row.

    x is (channels, *sizes) in `images` (images, all channels, *sizes).
    """
    moves_by_one = not any(sliding.pads) and list(sliding.dilations) == [1] * len(sliding.window)
    if moves_by_one and images[0] == 1 and x.shape[0] == len(sliding.window) == 1:
        return x.address, sliding.strides[0]
    if moves_by_one and sliding.sizes == sliding.window:
        return x.address, math.prod(images[1:])
    variables = ["m", *sliding.variables("l"), "c", *sliding.variables("k")]
    shape = [images[0], *sliding.places, x.shape[0], *sliding.window]
    values = x.shape[0] * math.prod(sliding.window)
    patches = code.alloc("float", (math.prod(shape) // values, values))
    index, inside = sliding.read()
    read = f"{x.address}[m * {math.prod(images[1:])} + c * {math.prod(sliding.sizes)} + {index}]"
    with code.loops(variables, shape):
        value = f"{' && '.join(inside)} ? {read} : 0.0f" if inside else read
        code.emit(f"{patches.address}[{index_expression(variables, strides_of(shape))}] = {value};")
    return patches.address, values
