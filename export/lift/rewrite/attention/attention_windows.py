"""Attention windows: the frames that a mask leaves, the values of a (T, T) table along them, and attention sinks.

Sinks are the first few frames, which attention keeps beside the window of each frame. Sink f is the running sum of a
sequence that has frame f at its place and zeros at all others: zero before frame f, and the frame from there on. A
frame attends to it once it is behind the window.

Source: G. Xiao and others, Efficient Streaming Language Models with Attention Sinks, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.node_writer import NodeWriter

# Of frames that attend within blocks.
LONGEST_PERIOD = 128


@dataclass(frozen=True)
class AttentionWindow:
    """The window of frame t: t - `behind` to t + `ahead`, and of the frames farther back the first `first`."""

    behind: int
    ahead: int
    first: int = 0

    @property
    def size(self) -> int:
        return self.behind + self.ahead + 1

    def along(self, table: Tensor) -> Tensor | None:
        """A table (..., T, T) as (..., period, size), from the oldest frame of a window on; None if not alike.

        Row n is of frame n and of every `period` frames after it: more than one if frames attend within blocks.
        """
        frames = table.shape[-1]
        rows = torch.arange(frames)
        places = rows[:, None] + torch.arange(-self.behind, self.ahead + 1)
        is_there, places = (places >= 0) & (places < frames), places.clamp(0, frames - 1)
        windows = table[..., rows[:, None].expand_as(places), places]
        one = windows[..., self.behind : self.behind + 1, :]
        if torch.equal(torch.where(is_there, windows, one), one.expand_as(windows)):
            return one
        middle = rows[self.behind : frames - self.ahead]
        windows = windows[..., middle, :]
        for period in range(2, min(LONGEST_PERIOD, len(middle) // 2) + 1):
            first = windows[..., :period, :].roll(self.behind, -2)
            if torch.equal(windows, first[..., middle % period, :]):
                return first
        return None

    def within(self, frames: int) -> AttentionWindow:
        """The window within a sequence of `frames` frames."""
        return replace(self, behind=min(self.behind, frames - 1), ahead=min(self.ahead, frames - 1))

    @staticmethod
    def of(taken: Tensor) -> AttentionWindow | None:
        """The smallest window with all of `taken`, (T, T); None if that is empty, or its sinks differ."""
        first = int(taken[-1].long().cumprod(0).sum())
        first = 0 if first == len(taken) else first
        rows, columns = taken.nonzero().unbind(1)
        offsets = (rows - columns)[columns >= first]
        if not len(offsets):
            return None
        window = AttentionWindow(max(int(offsets.max()), 0), max(int(-offsets.min()), 0), first)
        numbers = torch.arange(len(taken))
        early = (numbers[:, None] - numbers)[:, :first]
        sees_first = taken[:, :first]
        return (
            window if sees_first[early > window.behind].all() and not sees_first[early < -window.ahead].any() else None
        )

    def _of_first(self, table: Tensor) -> Tensor | None:
        """The table at the sinks, (..., 1, first); None if frames differ."""
        numbers = torch.arange(table.shape[-1])
        is_behind = (numbers[:, None] - numbers)[:, : self.first] > self.behind
        early, last = table[..., : self.first], table[..., -1:, : self.first]
        return last if torch.equal(torch.where(is_behind, early, last), last.expand_as(early)) else None

    def of_mask(self, mask: Any, frames: int) -> Tensor | None:
        """A mask (..., T, T) along the window; a mask of one entry as it is; None for any other."""
        mask = torch.as_tensor(mask)
        if mask.dim() < 2 or mask.shape[-1] != frames or mask.shape[-2] != frames:
            return mask if mask.numel() == 1 else None
        for axis in range(mask.dim() - 2):
            first = mask.narrow(axis, 0, 1)
            mask = first if torch.equal(mask, first.expand_as(mask)) else mask
        along = self.along(mask)
        if along is None or (along.shape[-2] > 1 and along.numel() > along.shape[-2] * along.shape[-1]):
            return None
        if self.first:
            early = self._of_first(mask) if along.shape[-2] == 1 else None
            return None if early is None else torch.cat([along, early], -1).unsqueeze(-2)
        return along.unsqueeze(-2)


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
