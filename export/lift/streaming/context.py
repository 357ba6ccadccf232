"""Operators with a window over their last axes, and how many frames a graph of them looks back."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx

from rnn_export.export.lift.program.fx import args_of, aten, named_args

# Over how many axes the window goes.
WINDOWS: dict[Any, int] = {
    aten.conv1d.default: 1,
    aten.conv1d.padding: 1,
    aten.conv2d.default: 2,
    aten.conv2d.padding: 2,
    aten.conv3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
}
# The same the other way round: each frame becomes several, which overlap.
TRANSPOSED: dict[Any, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
}
MOVES = (aten.pad.default, aten.constant_pad_nd.default, aten.slice.Tensor, aten.cat.default, aten.unfold.default)
# A number above is an end, not a size.
HUGE = 2**20


def context_of(graph: fx.Graph) -> tuple[int, int]:
    """A number of frames that every stride divides, and at least as many as one frame of a result depends on."""
    unit, context = 1, 1
    for node in graph.nodes:
        stride = 1
        if node.target is operator.floordiv and type(args_of(node)[1]) is int:
            stride = max(args_of(node)[1], 1)
        if node.target in WINDOWS:
            size, stride = _window(node)
            context += size * unit
        elif node.target in TRANSPOSED:
            context += _window(node)[0] * unit
        elif node.target in MOVES:
            numbers = [n for n in _numbers(node) if abs(n) < HUGE]
            context += sum(map(abs, numbers)) * unit
            if node.target is aten.unfold.default:
                stride = args_of(node)[3]
            elif node.target is aten.slice.Tensor and len(node.args) > 4:
                stride = args_of(node)[4]
        unit *= stride
    return unit, context


def _window(node: fx.Node) -> tuple[int, int]:
    """The largest size and stride of a window."""
    given = named_args(node)
    sizes = list(given["weight"].meta["val"].shape[2:]) if "weight" in given else given["kernel_size"]
    strides = given.get("stride") or sizes
    return max(sizes) * max(given.get("dilation") or [1]), max(strides)


def _numbers(node: fx.Node) -> list[int]:
    parts = [a if isinstance(a, list | tuple) else [a] for a in args_of(node)]
    values = [n.meta.get("val") for n in node.all_input_nodes if n.op != "placeholder"]
    frames = [value.shape for value in values if isinstance(value, Tensor)]
    joined = [max((d for d in shape if isinstance(d, int)), default=0) for shape in frames]
    return [n for part in parts for n in part if type(n) is int] + (joined if node.target is aten.cat.default else [])
