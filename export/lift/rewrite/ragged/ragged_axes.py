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
class Piece:
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

    pieces: tuple[Piece, ...]

    @staticmethod
    def full(size: int) -> RaggedAxis:
        return RaggedAxis((Piece(size, Number(), Number(size)),))

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    @property
    def count(self) -> Number:
        """The number of valid entries."""
        return sum((piece.count for piece in self.pieces), Number())

    @property
    def is_full(self) -> bool:
        return all(piece.is_full for piece in self.pieces)

    def placed(self) -> Iterator[tuple[Piece, int, Number]]:
        """Yield each segment, its first index, and the number of valid entries before it."""
        at, before = 0, Number()
        for piece in self.pieces:
            yield piece, at, before
            at, before = at + piece.size, before + piece.count

    def times(self, inner: int) -> RaggedAxis:
        """The axis with `inner` entries for each one."""
        return RaggedAxis(tuple(Piece(p.size * inner, p.start * inner, p.count * inner) for p in self.pieces))

    def parted(self, inner: int) -> RaggedAxis | None:
        """The axis with one entry for `inner`; None if they do not come out even."""
        pieces = []
        for piece in self.pieces:
            start, count = piece.start.parted(inner), piece.count.parted(inner)
            if start is None or count is None or piece.size % inner:
                return None
            pieces.append(Piece(piece.size // inner, start, count))
        return RaggedAxis(tuple(pieces))

    def turned(self) -> RaggedAxis:
        """The axis in reverse order."""
        return RaggedAxis(
            tuple(Piece(p.size, (p.start + p.count) * -1 + p.size, p.count) for p in reversed(self.pieces))
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
        numbers, pieces = self.numbers, list[Piece]()
        for piece, _, before in ragged.placed():
            rest = numbers.rest(piece.count, start - before)
            pieces.append(Piece(piece.size, piece.start + piece.count - rest, rest))
        left, cut = RaggedAxis(tuple(pieces)), list[Piece]()
        if end == ragged.count:
            return left
        for piece, _, before in left.placed():
            count = numbers.between(end - start - before, Number(), piece.count)
            cut.append(Piece(piece.size, piece.start, count))
        return RaggedAxis(tuple(cut))

    def trimmed(self, ragged: RaggedAxis) -> tuple[RaggedAxis, int, int]:
        """`ragged` without never valid entries at its ends, and its start and end in the old one."""
        pieces, at, end = list(ragged.pieces), 0, ragged.size
        while len(pieces) > 1 and pieces[0].count.known == 0:
            at += pieces.pop(0).size
        while len(pieces) > 1 and pieces[-1].count.known == 0:
            end -= pieces.pop().size
        first = pieces[0]
        if (free := int(min(max(self.numbers.least(first.start), 0), first.size))) > 0:
            pieces[0], at = Piece(first.size - free, first.start - free, first.count), at + free
        last = pieces[-1]
        if (used := self.numbers.most(last.start + last.count)) < last.size:
            used = max(int(used), 0)
            pieces[-1], end = Piece(used, last.start, last.count), end - last.size + used
        return RaggedAxis(tuple(p for p in pieces if p.size) or (Piece(0, Number(), Number()),)), at, end

    def mask(self, ragged: RaggedAxis) -> fx.Node:
        """The mask (room.size,) of valid entries, bool."""
        if ragged not in self._masks:
            parts = [self._mask(piece) for piece in ragged.pieces if piece.size]
            self._masks[ragged] = parts[0] if len(parts) == 1 else self.call(aten.cat.default, parts)
        return self._masks[ragged]

    def _mask(self, piece: Piece) -> fx.Node:
        numbers, constant = self.numbers, self.numbers.writer.constant
        if piece.is_full:
            return constant(torch.ones(piece.size, dtype=torch.bool))
        at, end, sides = constant(torch.arange(piece.size)), piece.start + piece.count, []
        if self.numbers.most(piece.start) > 0:
            sides.append(self.call(aten.ge.Tensor, at, numbers.node(piece.start)))
        if self.numbers.least(end) < piece.size:
            sides.append(self.call(aten.lt.Tensor, at, numbers.node(end)))
        return sides[0] if len(sides) == 1 else self.call(aten.logical_and.default, *sides)

    def found(self, ragged: RaggedAxis, numbered: fx.Node) -> fx.Node:
        """The indices in `ragged` of the valid entries `numbered`, int64."""
        shifts, node = [(before, piece.start + at - before) for piece, at, before in ragged.placed()], self.numbers.node
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
        for piece, _, before in ragged.placed():
            at = constant(torch.arange(piece.size))
            parts.append(self.call(aten.add.Tensor, at, self.numbers.node(before - piece.start)))
        return parts[0] if len(parts) == 1 else self.call(aten.cat.default, parts)


def joined(ragged_axes: Sequence[RaggedAxis]) -> RaggedAxis:
    """The concatenation of ragged axes."""
    return RaggedAxis(tuple(piece for ragged in ragged_axes for piece in ragged.pieces if piece.size))
