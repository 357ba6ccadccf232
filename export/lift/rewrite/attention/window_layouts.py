"""Layouts of windowed attention: one window for each frame, or one for all frames of a block.

Frames that attend to each other within blocks (chunk masks) are all known once the last of their block is. A window for
each of them would be late by a block in every layer; a window for the block is not late at all, in steps of whole
blocks, and its keys are read once for all of its frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow, with_first


@dataclass(frozen=True)
class ByFrame:
    """Queries (..., T, 1, E), and keys or values (..., T, E, size) of a window for each frame."""

    window: AttentionWindow

    def queries(self, write: NodeWriter, value: fx.Node) -> fx.Node:
        return write.call(aten.unsqueeze.default, value, -2)

    def windows(self, write: NodeWriter, value: fx.Node) -> fx.Node:
        """Windows of (..., T, E), zero outside of the sequence, and the sinks."""
        window = self.window
        padded = write.call(aten.constant_pad_nd.default, value, [0, 0, window.behind, window.ahead])
        windows = write.call(aten.unfold.default, padded, -2, window.size, 1)
        return with_first(write, windows, value, window.first) if window.first else windows

    def scores(self, write: NodeWriter, value: fx.Node, rows: Tensor) -> fx.Node:
        """Queries (..., T, E) times a row for each place in the window, (..., size, E)."""
        return write.call(aten.matmul.default, self.queries(write, value), write.constant(rows.mT.unsqueeze(-3)))

    def table(self, write: NodeWriter, values: Tensor, frames: fx.Node) -> fx.Node:
        """A mask (..., period, 1, size) along the window, for as many frames as `frames` (..., T, E) has."""
        period = values.shape[-3] if values.dim() > 2 else 1
        if period == 1:
            return write.constant(values)
        numbers = write.call(aten.arange.default, write.call(aten.sym_size.int, frames, -2))
        rows = write.constant(values.reshape(period, 1, -1).float())
        taken = write.call(aten.index_select.default, rows, 0, write.call(aten.remainder.Scalar, numbers, period))
        return write.call(aten.gt.Scalar, taken, 0.5) if values.dtype == torch.bool else taken

    def looked_at(self, write: NodeWriter, is_there: fx.Node) -> fx.Node:
        return is_there

    def frames(self, write: NodeWriter, value: fx.Node, like: fx.Node) -> fx.Node:
        """Results (..., T, 1, E) as frames."""
        return write.call(aten.squeeze.dim, value, -2)


@dataclass(frozen=True)
class ByBlock:
    """Queries (..., blocks, period, E), and keys or values (..., blocks, E, size) of a window for each block.

    A window begins `before` frames before the block. `taken` (period, size) is the mask of its frames for each frame.
    """

    window: AttentionWindow
    period: int
    before: int
    taken: Tensor

    @staticmethod
    def of(window: AttentionWindow, period: int, mask: Tensor) -> ByBlock | None:
        """The layout for a mask (T, T); None if a block has to wait for others as well."""
        middle = len(mask) // 2 // period * period
        if period == 1 or not window.ahead or window.first or middle < window.behind or middle + period > len(mask):
            return None
        rows = mask[middle : middle + period]
        columns = rows.any(0).nonzero().flatten() - middle
        if not len(columns) or columns.max() >= period:
            return None
        before = max(0, -int(columns.min()))
        found = ByBlock(window, period, before, rows[:, middle - before : middle + period])
        return found if found._is_all_of(mask) else None

    def _is_all_of(self, mask: Tensor) -> bool:
        rows, columns = torch.arange(len(mask))[:, None], torch.arange(len(mask))
        start = rows - rows % self.period - self.before
        place = (columns - start).clamp(0, self.taken.shape[1] - 1)
        inside = (columns >= start) & (columns < start + self.taken.shape[1])
        return torch.equal(inside & self.taken[rows % self.period, place], mask)

    @property
    def size(self) -> int:
        return self.before + self.period

    @property
    def _places(self) -> Tensor:
        """The place (period, size) of each frame of the window in the window of its row."""
        row, column = torch.arange(self.period)[:, None], torch.arange(self.size)
        return (column - self.before - row + self.window.behind).clamp(0, self.window.size - 1)

    def _windows(self, write: NodeWriter, value: fx.Node, before: int) -> fx.Node:
        padded = write.call(aten.constant_pad_nd.default, value, [0, 0, before, self.period - 1])
        return write.call(aten.unfold.default, padded, -2, before + self.period, self.period)

    def queries(self, write: NodeWriter, value: fx.Node) -> fx.Node:
        return write.call(aten.transpose.int, self._windows(write, value, 0), -2, -1)

    def windows(self, write: NodeWriter, value: fx.Node) -> fx.Node:
        """Windows of (..., T, E), zero outside of the sequence."""
        return self._windows(write, value, self.before)

    def scores(self, write: NodeWriter, value: fx.Node, rows: Tensor) -> fx.Node:
        """Queries (..., T, E) times a row for each place in the window, (..., size, E)."""
        all_places = write.call(aten.matmul.default, self.queries(write, value), write.constant(rows.mT.unsqueeze(-3)))
        flat = write.call(aten.flatten.using_ints, all_places, -2, -1)
        at = torch.arange(self.period)[:, None] * rows.shape[-2] + self._places
        gathered = write.call(aten.index_select.default, flat, -1, write.constant(at.flatten()))
        return write.call(aten.unflatten.int, gathered, -1, [self.period, self.size])

    def table(self, write: NodeWriter, values: Tensor, frames: fx.Node) -> fx.Node:
        """A mask along the window, (..., period or 1, 1, size)."""
        if values.dim() < 3:
            return write.constant(values)
        rows = values.squeeze(-2)
        rows = rows.repeat_interleave(self.period, -2) if rows.shape[-2] == 1 else self._repeated(rows)
        table = rows.gather(-1, self._places.expand(*rows.shape[:-1], -1))
        return write.constant(table.unsqueeze(-3))

    def _repeated(self, rows: Tensor) -> Tensor:
        return torch.cat([rows] * (self.period // rows.shape[-2]), -2)

    def looked_at(self, write: NodeWriter, is_there: fx.Node) -> fx.Node:
        return write.call(aten.logical_and.default, is_there, write.constant(self.taken))

    def frames(self, write: NodeWriter, value: fx.Node, like: fx.Node) -> fx.Node:
        """Results (..., blocks, period, E) as frames, as many as `like` (..., T, E) has."""
        flat = write.call(aten.flatten.using_ints, value, -3, -2)
        return write.call(aten.slice.Tensor, flat, -2, 0, write.call(aten.sym_size.int, like, -2))


Layout = ByFrame | ByBlock


def period_of(tables: Iterable[Tensor]) -> int:
    """The number of frames after which all masks along a window repeat."""
    return math.lcm(*(t.shape[-3] for t in tables if t.dim() > 2))
