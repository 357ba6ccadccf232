"""Values by frame index from a table: one that ends, or one that goes on in even steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.errors import ONE_FRAME, at_most, keyword
from rnn_export.export.lift.ir.compare import INITIAL_ROWS, same
from rnn_export.export.lift.ir.fx_nodes import aten, name_of
from rnn_export.export.lift.streaming.time_axis import refusal

# Frames that are seen, at least; of so many of them one is of the first ones, which are unlike the others.
SEEN, FEW = 8, 4


def going_on(value: Tensor, axis: int) -> tuple[Tensor, Tensor | None] | None:
    """The first frames (K, ...) of `value`, and its step from frame to frame from then on, None for no step.

    None if it does not go on in even steps: a block of positions does, (T, W) of `arange(T * W)`, and a mask whose
    first frames alone differ from the others.
    """
    rows = value.movedim(axis, 0)
    if len(rows) < SEEN:
        return None
    steps: Tensor | None = None
    if value.dtype == torch.bool or value.is_floating_point():
        is_even = (rows == rows[-1:]).reshape(len(rows), -1).all(1)
    elif value.dtype == torch.int64:
        steps = rows[1:] - rows[:-1]
        is_even = (steps == steps[-1:]).reshape(len(steps), -1).all(1)
    else:
        return None
    unlike = (~is_even).nonzero()
    # Up to the first frame of those that go on evenly.
    first = int(unlike[-1]) + 2 if len(unlike) else 1
    step = None if steps is None or not steps[-1].any() else steps[-1]
    if first * FEW > len(rows) or (first == 1 and step is None):
        return None
    return rows[:first], step


def goes_on(value: Tensor | None, axis: int, table: Tensor, step: Tensor | None) -> bool:
    """True if `value`, over many more frames, is what `going_on` found over fewer: `table`, then in even steps."""
    if value is None:
        return False
    numbers = torch.arange(value.shape[axis])
    first = numbers.clamp(max=len(table) - 1)
    expected = table[first]
    if step is not None:
        expected = expected + (numbers - first).reshape(-1, *[1] * step.dim()) * step
    return same(value.movedim(axis, 0), expected, INITIAL_ROWS)


def by_number(graph: fx.Graph, numbers: fx.Node, table: Tensor, step: Tensor | None) -> fx.Node:
    """Values of `going_on` for these frame indices, (frames, ...); at the insertion point."""
    call = graph.call_function
    made: fx.Node | None = None
    if len(table) > 1:
        first = call(aten.clamp.default, (numbers, None, len(table) - 1))
        made = call(aten.index_select.default, (_constant(graph, table), 0, first))
        numbers = call(aten.sub.Tensor, (numbers, first))
    if step is not None:
        more = call(aten.reshape.default, (numbers, [-1, *[1] * step.dim()]))
        more = call(aten.mul.Tensor, (more, _constant(graph, step)))
        made = call(aten.add.Tensor, (more, made or _constant(graph, table[0])))
    assert made is not None
    return made


def _constant(graph: fx.Graph, value: Tensor) -> fx.Node:
    module: Any = graph.owning_module
    name = f"_position_{sum(n.startswith('_position_') for n, _ in module.named_buffers())}"
    module.register_buffer(name, value.contiguous())
    return graph.get_attr(name)


def refuse_beyond(node: fx.Node, frames: int, max_frames: int | None) -> None:
    """Raise LiftError unless a stream ends before the table that `node` looks up in."""
    if max_frames is None:
        raise refusal(
            node,
            f"{name_of(node)} looks up each frame by its number, in a table for {frames} frames, but a stream has no "
            "end.",
            at_most(frames),
            ONE_FRAME,
            id="position-table-ends",
        )
    if max_frames > frames:
        reason = f"{name_of(node)} has a table for {frames} frames: {keyword('max_frames', frames)} is the most."
        raise refusal(node, reason, id="position-table-too-short")
