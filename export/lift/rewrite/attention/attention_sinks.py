"""Attention sinks: the first few frames, which attention keeps beside the window of each frame.

Sink f is the running sum of a sequence that has frame f at its place and zeros at all others: zero before frame f, and
the frame from there on. A frame attends to it once it is behind the window.

Source: G. Xiao and others, Efficient Streaming Language Models with Attention Sinks, 2023.
"""

from __future__ import annotations

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow


def with_first(write: NodeWriter, windows: fx.Node, value: fx.Node, count: int) -> fx.Node:
    """Windows (..., T, E, size) of `value` (..., T, E) with the attention sinks: (..., T, E, size + count)."""
    is_it = write.call(aten.eq.Tensor, _numbers(write, value), write.constant(torch.arange(count)))
    is_it = write.call(aten.unsqueeze.default, is_it, 1)
    alone = write.call(aten.where.ScalarOther, is_it, write.call(aten.unsqueeze.default, value, -1), 0.0)
    seen = write.call(aten.cumsum.default, alone, write.value_of(alone).dim() - 3)
    return write.call(aten.cat.default, [windows, seen], -1)


def with_first_ones(write: NodeWriter, is_there: fx.Node, value: fx.Node, window: AttentionWindow) -> fx.Node:
    """The mask (..., T, 1, size + first) of the frames in a window and of the sinks behind it."""
    after = write.constant(torch.arange(window.first) + window.behind)
    is_behind = write.call(aten.gt.Tensor, _numbers(write, value), after)
    is_behind = write.call(aten.unsqueeze.default, is_behind, 1)
    like = write.call(aten.slice.Tensor, is_there, -1, 0, 1)
    # Where any is behind the window, that is full: this is for the rows of the batch.
    is_behind = write.call(aten.logical_and.default, is_behind, like)
    return write.call(aten.cat.default, [is_there, is_behind], -1)


def _numbers(write: NodeWriter, value: fx.Node) -> fx.Node:
    """Frame indices (T, 1)."""
    numbers = write.call(aten.arange.default, write.call(aten.sym_size.int, value, write.value_of(value).dim() - 2))
    return write.call(aten.unsqueeze.default, numbers, -1)
