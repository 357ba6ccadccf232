"""Windows gathered by frame index, `x[:, hop * arange(n)[:, None] + arange(W)]`, by `as_strided`, or by a reshape.

A reshape that stacks K frames, (B, T, C) as (B, T / K, K C), is a window of K frames with a stride, which a stream can
have; one that makes several frames of each stays. Indices clamped to a sequence, `clamp(0, T - 1)`, replicate its ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_symbols

from rnn_export.export.lift.ir.dependence.drawn_values import tried_frames
from rnn_export.export.lift.ir.dependence.length_runs import LENGTHS, LengthRun, Untried
from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten, named_args, placeholders, sources_of
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.symbolic_integers import size_at
from rnn_export.export.lift.rewrite.resampling import padded, rate_of

# Frames of the input at which the numbers are seen.
SEEN = (960, 1200, 1441)


def gathered_windows(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The gather `node` along a symbolic axis as windows; None if it has no fixed hop."""
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
    if isinstance(size, int) or not _is_gathered(write, index):
        return None
    return _gathered(write, value, axis, index)


def strided(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The windows of `as_strided` over the last axis of (..., T); None if it does anything else."""
    given = named_args(node)
    value, size, stride = given["self"], given["size"], given["stride"]
    held = write.value_of(value)
    axis = held.dim() - 1
    if given.get("storage_offset") is not None or axis < 0 or held.stride(-1) != 1 or isinstance(held.shape[-1], int):
        return None
    sizes, strides = ([write.value_of(n) if isinstance(n, fx.Node) else n for n in given] for given in (size, stride))
    rows = zip(sizes[:axis], strides[:axis], held.shape, held.stride(), strict=False)
    if any(rate_of(n, m) != 1 or (n != 1 and rate_of(s, t) != 1) for n, s, m, t in rows):
        return None
    numbers = write.call(aten.arange.default, write.call(aten.sym_size.int, value, axis))
    return _gathered(write, value, axis, write.call(aten.as_strided.default, numbers, size[axis:], stride[axis:]))


def _gathered(write: NodeWriter, value: fx.Node, axis: int, index: fx.Node) -> fx.Node | None:
    """Windows of the frames along an axis at the indices in `index`, made of sizes alone; or None."""
    shape = write.value_of(index).shape
    frames = [a for a, n in enumerate(shape) if not isinstance(n, int)]
    if len(shape) > 2 or len(frames) != 1:
        return None
    indices = _Indices(write, index, frames[0], write.value_of(value).shape[axis])
    try:
        seen = [indices.over(n) for n in SEEN]
        windows = _windows(*seen[-1])
        if windows is not None:
            # How the last frames are taken shows at every remainder of the hop.
            seen += [indices.over(n) for n in range(SEEN[-1] + 1, SEEN[-1] + windows.hop)]
    except Untried:
        return None
    if windows is None or any(_windows(*each) != windows for each in seen):
        return None
    spans = ((n, [windows.count(length, n) - len(numbers) for length, numbers in seen]) for n in windows.spans)
    fitting = next(((span, left[0]) for span, left in spans if len({*left}) == 1 and left[0] >= 0), None)
    if fitting is None or not indices.go_on(windows, *fitting):
        return None
    return _written(write, value, axis, windows, fitting, (len(shape), frames[0]))


def _is_gathered(write: NodeWriter, index: fx.Node) -> bool:
    """True if an index is integers that are made of sizes alone."""
    sources = sources_of(index, lambda n: [] if n.target in SHAPE_ONLY else n.all_input_nodes)
    return write.value_of(index).dtype == torch.int64 and all(n.op != "placeholder" for n in sources)


@dataclass(frozen=True)
class _Indices:
    """Indices (n, W), n along `axis` of `node`, into an axis of `size` frames, at any length of the input."""

    write: NodeWriter
    node: fx.Node
    axis: int
    size: torch.SymInt

    def over(self, frames: int) -> tuple[int, Tensor]:
        """The size, and all indices into it, for an input of `frames` frames. Raises Untried if it takes no such."""
        run, length = self._run(frames)
        indices = run.whole(self.node).movedim(self.axis, 0)
        return length, indices.reshape(len(indices), -1)

    def go_on(self, windows: _Windows, span: int, left_out: int) -> bool:
        """True if the indices are those of `windows` at frames far beyond those seen; False if none can be tried."""
        for frames in LENGTHS:
            run, length = self._run(frames)
            try:
                shape = run.of_shape(self.node).shape
                count = shape[self.axis]
                rows = tried_frames(run, self.node, count)[:, None]
                places = [rows if a == self.axis else torch.arange(n)[None] for a, n in enumerate(shape)]
                found = run.at(self.node, places)
            except Untried:
                continue
            is_whole = windows.count(length, span) - count == left_out and windows.ends(length, count) == windows.behind
            return is_whole and bool((found == windows.at(rows, length)).all())
        return False

    @cached_property
    def _symbols(self) -> Collection[Any]:
        values = [self.size, *map(self.write.value_of, sources_of(self.node, lambda n: n.all_input_nodes))]
        return free_symbols([value for value in values if isinstance(value, torch.SymInt)])

    def _run(self, frames: int) -> tuple[LengthRun, int]:
        sizes = dict.fromkeys(self._symbols, frames)
        return LengthRun(self.write.module, {}, sizes=sizes), size_at(self.size, frames) or 0


@dataclass(frozen=True)
class _Windows:
    """Windows every `hop` frames, of the frames at `places`; `before` and `behind` replicated frames at the ends."""

    hop: int
    places: tuple[int, ...]
    before: int
    behind: int

    @property
    def spans(self) -> range:
        """The spans that a window may have: unused frames at its end make the number of windows fit."""
        span = max(self.places) - min(self.places) + 1
        return range(span, span + self.hop)

    def count(self, length: int, span: int) -> int:
        return (length + self.before + self.behind - max(min(self.places), 0) - span) // self.hop + 1

    def at(self, rows: Tensor, length: int) -> Tensor:
        """The indices (N, W) of the windows `rows` (N, 1) into `length` frames."""
        return (self.hop * rows + torch.tensor(self.places)).clamp(0, length - 1)

    def ends(self, length: int, count: int) -> int:
        """The frames behind `length` that the last of `count` windows goes."""
        return max(self.hop * (count - 1) + max(self.places) - length + 1, 0)


def _windows(length: int, numbers: Tensor) -> _Windows | None:
    """The windows of indices (n, W) into `length` frames; None if they have no fixed hop."""
    middle = len(numbers) // 2
    steps = numbers[middle + 1] - numbers[middle]
    hop = int(steps[0])
    if hop < 1 or not torch.equal(steps, steps[:1].expand_as(steps)):
        return None
    places = tuple(map(int, numbers[middle] - hop * middle))
    found = _Windows(hop, places, max(-min(places), 0), 0)
    found = replace(found, behind=found.ends(length, len(numbers)))
    return found if torch.equal(found.at(torch.arange(len(numbers))[:, None], length), numbers) else None


def _written(
    write: NodeWriter,
    value: fx.Node,
    axis: int,
    windows: _Windows,
    fitting: tuple[int, int],
    index: tuple[int, int],
) -> fx.Node:
    """Write windows: `fitting` is their span and the count dropped at the end, `index` the rank and frame axis."""
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


# An example's axis of more entries is time: those of the batch are fewer.
ROWS = 3
# From so many frames on sizes are compared.
MANY = 1000


def stacked_frames(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The reshape `node` as windows; None if it stacks no frames."""
    value = node.all_input_nodes[0]
    before, after = (write.value_of(n).shape for n in (value, node))
    pairs = enumerate(zip(before, after, strict=False))
    axis = next((a for a, (here, there) in pairs if str(here) != str(there)), None)
    if axis is None:
        return None
    if before[axis] == 1 and not _is_computed(before[axis]) and len(before) > axis + 1:
        # (B, 1, T) as (B, T / K, K)
        value, before = write.call(aten.squeeze.dim, value, axis), (*before[:axis], *before[axis + 1 :])
    # (B, T) as (B, 1, T / K, K)
    is_separate = after[axis] == 1 and not _is_computed(after[axis]) and len(after) > axis + 1
    at = axis + is_separate
    if not _is_computed(before[axis]) or not _is_computed(after[at]):
        return None
    frame, made = before[axis + 1 :], _numbers(node, at + 1, after)
    if any(map(_is_computed, (*frame, *made))) or not math.prod(frame) or math.prod(made) % math.prod(frame):
        return None
    count = math.prod(made) // math.prod(frame)
    if count < 2 or not _is_times(before[axis], after[at], count) or _is_of_rows(write, before[axis]):
        return None
    windows = write.call(aten.unfold.default, value, axis, count, count)
    rank = len(before)
    order = [*range(axis + 1), rank, *range(axis + 1, rank)]
    windows = write.call(aten.permute.default, windows, order)
    whole = write.call(aten.flatten.using_ints, windows, axis + 1, -1)
    whole = whole if len(made) == 1 else write.call(aten.unflatten.int, whole, axis + 1, list(made))
    return write.call(aten.unsqueeze.default, whole, axis) if is_separate else whole


def _numbers(node: fx.Node, axis: int, sizes: Any) -> list[Any]:
    """The sizes from an axis on, as numbers if they were written so: torch may keep T // (T // 2) of a 2."""
    written: Any = node.args[-1]
    if node.target is aten.unflatten.int:
        dim: Any = node.args[1]
        written = [None] * (dim % len(node.all_input_nodes[0].meta["val"].shape)) + written
    written = [*written, *[None] * (len(sizes) - len(written))]
    return [n if type(n) is int and n > 0 else m for n, m in zip(written[axis:], sizes[axis:], strict=True)]


def _is_computed(size: Any) -> bool:
    return isinstance(size, torch.SymInt)


def _is_of_rows(write: NodeWriter, size: torch.SymInt) -> bool:
    """True if a size depends on that of the batch."""
    sizes = (n for fed in placeholders(write.graph) for n in fed.meta["val"].shape if _is_computed(n))
    return any(n.node.expr in size.node.expr.free_symbols and n.node.hint <= ROWS for n in sizes)


def _is_times(before: torch.SymInt, after: torch.SymInt, count: int) -> bool:
    """True if `before` is `count` times `after`, wherever it is a multiple of `count`."""
    expressions = [size.node.expr for size in (before, after)]
    if expressions[0].free_symbols != expressions[1].free_symbols or len(expressions[0].free_symbols) != 1:
        return False
    sizes = [(size_at(before, n), size_at(after, n)) for n in range(MANY, MANY + count)]
    whole = [(n, m) for n, m in sizes if n is not None and n % count == 0]
    return bool(whole) and all(m is not None and n == m * count for n, m in whole)
