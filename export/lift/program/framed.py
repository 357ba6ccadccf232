"""Windows picked by the numbers of their frames, `x[:, hop * arange(n)[:, None] + arange(W)]`, as windows.

Numbers that are held within a sequence, `clamp(0, T - 1)`, repeat its ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.program.fx import SHAPE_ONLY, aten, named_args, sources_of
from rnn_export.export.lift.program.node_writer import NodeWriter
from rnn_export.export.lift.program.resampling import padded
from rnn_export.export.lift.program.size_numbers import size_at

# Frames of the input at which the numbers are seen.
SEEN = (960, 1200, 1441)


def framed(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """What an index over an axis of any size gives, written so; None where it picks no windows in even steps."""
    given = named_args(node)
    value = given["self"]
    if node.target is aten.index_select.default:
        axis, index = given["dim"] % write.value_of(value).dim(), given["index"]
    else:
        indices = [(a, n) for a, n in enumerate(given["indices"]) if n is not None]
        if len(indices) != 1:
            return None
        ((axis, index),) = indices
    size = write.value_of(value).shape[axis]
    if isinstance(size, int) or not _is_picked(write, index):
        return None
    shape = write.value_of(index).shape
    frames = [a for a, n in enumerate(shape) if not isinstance(n, int)]
    if len(shape) > 2 or len(frames) != 1:
        return None
    try:
        seen = [(size_at(size, n) or 0, _value(write, index, n).movedim(frames[0], 0)) for n in SEEN]
    except Exception:  # a length that the code does not take may raise anything
        return None
    found = {_windows(numbers.reshape(len(numbers), -1), length) for length, numbers in seen}
    windows = found.pop()
    if found or windows is None:
        return None
    spans = ((n, [windows.count(length, n) - len(numbers) for length, numbers in seen]) for n in windows.spans)
    fitting = next(((span, left[0]) for span, left in spans if len({*left}) == 1 and left[0] >= 0), None)
    return None if fitting is None else _written(write, value, axis, windows, fitting, (len(shape), frames[0]))


def _is_picked(write: NodeWriter, index: fx.Node) -> bool:
    """Whether an index is whole numbers that are made of sizes alone."""
    made_of = sources_of(index, lambda n: [] if n.target in SHAPE_ONLY else n.all_input_nodes)
    return write.value_of(index).dtype == torch.int64 and all(n.op != "placeholder" for n in made_of)


def _value(write: NodeWriter, node: fx.Node, frames: int) -> Any:
    """What a node made of sizes gives where all of these are those of so many frames."""
    known: Any = None if node.op == "get_attr" else write.value_of(node)
    if isinstance(known, torch.SymInt):
        return size_at(known, frames)
    if node.op == "get_attr":
        return attrgetter(str(node.target))(write.module)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _value(write, n, frames))
    target: Any = node.target
    return target(*args, **kwargs)


@dataclass(frozen=True)
class _Windows:
    """Every `hop` frames, those at `places` of the first one; `before` and `behind` frames of the ends repeated."""

    hop: int
    places: tuple[int, ...]
    before: int
    behind: int

    @property
    def spans(self) -> range:
        """Over how many frames a window may go: the last ones may be none of its own, so that as many are there."""
        span = max(self.places) - min(self.places) + 1
        return range(span, span + self.hop)

    def count(self, length: int, span: int) -> int:
        return (length + self.before + self.behind - max(min(self.places), 0) - span) // self.hop + 1


def _windows(numbers: Tensor, length: int) -> _Windows | None:
    """The windows that (n, W) numbers of `length` frames pick; None where these do not go on in even steps."""
    middle = len(numbers) // 2
    steps = numbers[middle + 1] - numbers[middle]
    hop = int(steps[0])
    if hop < 1 or not torch.equal(steps, steps[:1].expand_as(steps)):
        return None
    places = numbers[middle] - hop * middle
    even = hop * torch.arange(len(numbers))[:, None] + places
    if not torch.equal(even.clamp(0, length - 1), numbers):
        return None
    return _Windows(hop, tuple(map(int, places)), max(-int(even.min()), 0), max(int(even.max()) - length + 1, 0))


def _written(
    write: NodeWriter,
    value: fx.Node,
    axis: int,
    windows: _Windows,
    fitting: tuple[int, int],
    index: tuple[int, int],
) -> fx.Node:
    """Windows over a span, some left out at the end, for an index of so many axes, in which frames stand at one."""
    (span, left_out), (dims, frames) = fitting, index
    rank, first = len(write.value_of(value).shape), min(windows.places)
    pads = [0, 0] * (rank - axis - 1) + [windows.before, windows.behind]
    value = padded(write, value, axis, pads, "replicate")
    if first > 0:
        value = write.call(aten.slice.Tensor, value, axis, first)
    made = write.call(aten.unfold.default, value, axis, span, windows.hop)
    if left_out:
        made = write.call(aten.slice.Tensor, made, axis, 0, -left_out)
    taken = torch.tensor(windows.places) - first
    if not torch.equal(taken, torch.arange(span)):
        made = write.call(aten.index_select.default, made, rank, write.constant(taken))
    if dims == 1:
        return write.call(aten.squeeze.dim, made, rank)
    order = [*range(rank)]
    order.insert(axis + 1 - frames, rank)
    return write.call(aten.permute.default, made, order)
