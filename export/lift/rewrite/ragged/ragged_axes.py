"""Ragged axes: a data-dependent number of entries, stored at its maximum.

The axis of `key = cat([mems[3 - m:], x, cache[8 - n:]])` is three segments: the last m of 3 entries are valid, all of
the second, and the last n of 8. The valid entries, in order, are the axis of the model; the others are arbitrary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.symbolic_integers import Number, Numbers


@dataclass(frozen=True)
class Segment:
    """A segment of `size` entries, of which `count` from `start` on are valid."""

    size: int
    start: Number
    count: Number

    @property
    def is_full(self) -> bool:
        return self.start.known == 0 and self.count.known == self.size


@dataclass(frozen=True)
class RaggedAxis:
    """The segments of a ragged axis, in order."""

    segments: tuple[Segment, ...]

    @staticmethod
    def full(size: int) -> RaggedAxis:
        return RaggedAxis((Segment(size, Number(), Number(size)),))

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    @property
    def count(self) -> Number:
        """The number of valid entries."""
        return sum((segment.count for segment in self.segments), Number())

    @property
    def is_full(self) -> bool:
        return all(segment.is_full for segment in self.segments)

    def placed(self) -> Iterator[tuple[Segment, int, Number]]:
        """Yield each segment, its first index, and the number of valid entries before it."""
        at, before = 0, Number()
        for segment in self.segments:
            yield segment, at, before
            at, before = at + segment.size, before + segment.count

    def times(self, inner: int) -> RaggedAxis:
        """The axis with `inner` entries for each one."""
        return RaggedAxis(tuple(Segment(p.size * inner, p.start * inner, p.count * inner) for p in self.segments))

    def parted(self, inner: int) -> RaggedAxis | None:
        """The axis with one entry for `inner`; None if they do not come out even."""
        segments = []
        for segment in self.segments:
            start, count = segment.start.parted(inner), segment.count.parted(inner)
            if start is None or count is None or segment.size % inner:
                return None
            segments.append(Segment(segment.size // inner, start, count))
        return RaggedAxis(tuple(segments))

    def turned(self) -> RaggedAxis:
        """The axis in reverse order."""
        return RaggedAxis(
            tuple(Segment(p.size, (p.start + p.count) * -1 + p.size, p.count) for p in reversed(self.segments))
        )


class RaggedAxes:
    """Operations on the ragged axes of one graph."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.call = numbers, numbers.writer.call
        self._masks: dict[RaggedAxis, fx.Node] = {}

    def cut(self, ragged: RaggedAxis, start: Number, end: Number) -> RaggedAxis:
        """`ragged` with only the valid entries from the `start`-th up to the `end`-th.

        Both lie within it, and `end` may be before `start`.
        """
        numbers, segments = self.numbers, list[Segment]()
        for segment, _, before in ragged.placed():
            rest = numbers.rest(segment.count, start - before)
            segments.append(Segment(segment.size, segment.start + segment.count - rest, rest))
        left, cut = RaggedAxis(tuple(segments)), list[Segment]()
        if end == ragged.count:
            return left
        for segment, _, before in left.placed():
            count = numbers.between(end - start - before, Number(), segment.count)
            cut.append(Segment(segment.size, segment.start, count))
        return RaggedAxis(tuple(cut))

    def trimmed(self, ragged: RaggedAxis) -> tuple[RaggedAxis, int, int]:
        """`ragged` without never valid entries at its ends, and its start and end in the old one."""
        segments, at, end = list(ragged.segments), 0, ragged.size
        while len(segments) > 1 and segments[0].count.known == 0:
            at += segments.pop(0).size
        while len(segments) > 1 and segments[-1].count.known == 0:
            end -= segments.pop().size
        first = segments[0]
        if (free := int(min(max(self.numbers.least(first.start), 0), first.size))) > 0:
            segments[0], at = Segment(first.size - free, first.start - free, first.count), at + free
        last = segments[-1]
        if (used := self.numbers.most(last.start + last.count)) < last.size:
            used = max(int(used), 0)
            segments[-1], end = Segment(used, last.start, last.count), end - last.size + used
        return RaggedAxis(tuple(p for p in segments if p.size) or (Segment(0, Number(), Number()),)), at, end

    def mask(self, ragged: RaggedAxis) -> fx.Node:
        """The mask (room.size,) of valid entries, bool."""
        if ragged not in self._masks:
            parts = [self._mask(segment) for segment in ragged.segments if segment.size]
            self._masks[ragged] = parts[0] if len(parts) == 1 else self.call(aten.cat.default, parts)
        return self._masks[ragged]

    def _mask(self, segment: Segment) -> fx.Node:
        numbers, constant = self.numbers, self.numbers.writer.constant
        if segment.is_full:
            return constant(torch.ones(segment.size, dtype=torch.bool))
        at, end, sides = constant(torch.arange(segment.size)), segment.start + segment.count, []
        if self.numbers.most(segment.start) > 0:
            sides.append(self.call(aten.ge.Tensor, at, numbers.node(segment.start)))
        if self.numbers.least(end) < segment.size:
            sides.append(self.call(aten.lt.Tensor, at, numbers.node(end)))
        return sides[0] if len(sides) == 1 else self.call(aten.logical_and.default, *sides)

    def found(self, ragged: RaggedAxis, numbered: fx.Node) -> fx.Node:
        """The indices in `ragged` of the valid entries `numbered`, int64."""
        shifts, node = (
            [(before, segment.start + at - before) for segment, at, before in ragged.placed()],
            self.numbers.node,
        )
        by = node(shifts[0][1])
        for (_, last), (before, shift) in pairwise(shifts):
            if shift != last:
                begun = self.call(aten.ge.Tensor, numbered, node(before))
                by = self.call(aten.where.self, begun, node(shift), by)
        place = self.call(aten.add.Tensor, numbered, by)
        # What is not there is anything.
        return self.call(aten.clamp.default, place, 0, ragged.size - 1)

    def numbered(self, ragged: RaggedAxis) -> fx.Node:
        """The index of each valid entry among these, (room.size,) int64."""
        constant, parts = self.numbers.writer.constant, list[fx.Node]()
        for segment, _, before in ragged.placed():
            at = constant(torch.arange(segment.size))
            parts.append(self.call(aten.add.Tensor, at, self.numbers.node(before - segment.start)))
        return parts[0] if len(parts) == 1 else self.call(aten.cat.default, parts)


def joined(ragged_axes: Sequence[RaggedAxis]) -> RaggedAxis:
    """The concatenation of ragged axes."""
    return RaggedAxis(tuple(segment for ragged in ragged_axes for segment in ragged.segments if segment.size))
