"""Grouped convolutions of (1, B C, T), rows among the channels, that have one filter for every row."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import guard_or_false

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter


def _by_rows(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The convolution of each channel as a row, if all have the same filter and their number is symbolic."""
    if not _is_shared(node):
        return None
    given = named_args(node)
    filters, sizes = given["weight"].args
    rows = write.call(aten.transpose.int, given["input"], 0, 1)
    one = write.call(aten.expand.default, filters, [1, *sizes[1:]])
    places = (given["stride"], given["padding"], given["dilation"])
    return write.call(aten.transpose.int, write.call(node.target, rows, one, None, *places, 1), 0, 1)


SHARED_FILTERS = dict.fromkeys(overloads("conv1d conv1d.padding conv2d conv2d.padding"), _by_rows)


def _is_shared(node: fx.Node) -> bool:
    given = named_args(node)
    taken, weight = given["input"].meta["val"], given["weight"]
    if given["bias"] is not None or weight.target is not aten.expand.default or taken.dim() != weight.meta["val"].dim():
        return False
    rows, groups = taken.shape[:2]
    number: Any = given["groups"].meta["val"] if isinstance(given["groups"], fx.Node) else given["groups"]
    repeats = weight.meta["val"].shape[0]
    if not isinstance(groups, torch.SymInt):
        return False
    same = guard_or_false(groups == number) and guard_or_false(groups == repeats)
    return bool(same) and isinstance(rows, int) and rows == 1
