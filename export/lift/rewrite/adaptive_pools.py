"""Adaptive pools that keep the time axis: means and maxima over the other axes.

Source: the docstrings of torch.nn.AdaptiveAvgPool2d and AdaptiveMaxPool2d. An axis pooled to its own size stays; one of
a fixed size is pooled with the weights of the operator itself.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.rewrite.resampling import rate_of, weighed

MEANS = overloads(
    "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool3d"
)
MAXIMA = overloads("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d")


def pooled_to_size(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The pool `node` as other operators; None if it resizes a symbolic axis, or has no such form."""
    value, made, is_mean = named_args(node)["self"], write.value_of(node), node.target in MEANS
    if not is_mean:
        if any(u.target is not operator.getitem or (u.args[1] != 0 and u.users) for u in node.users):
            return None
        made = made[0]
    sizes, axes = write.value_of(value).shape, len(named_args(node)["output_size"])
    places = range(len(sizes) - axes, len(sizes))
    # Where torch.export freezes the length, all are numbers.
    for axis in (a for a in places if rate_of(sizes[a], made.shape[a]) != 1):
        if not isinstance(sizes[axis], int):
            return None
        if made.shape[axis] == 1:
            value = write.call(aten.mean.dim if is_mean else aten.amax.default, value, [axis], True)
        elif is_mean:
            value = weighed(write, value, axis, _shares(sizes[axis], made.shape[axis]), picks=False)
        else:
            return None
    if not is_mean:
        for user in list(node.users):
            if user.users:
                user.replace_all_uses_with(value)
            write.graph.erase_node(user)
    return cast(fx.Node, value)


def _shares(size: int, made: int) -> Tensor:
    """The weights (size, made) of the entries of an axis in each pooled entry."""
    each: Any = torch.eye(size, dtype=torch.float64)[None]
    return torch.nn.functional.adaptive_avg_pool1d(each, made)[0]
