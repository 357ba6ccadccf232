"""Tensors with ragged axes, and their alignment in operators that combine them.

A ragged axis has a data-dependent number of entries, stored at its maximum. The axis of
`key = cat([mems[3 - m:], x, cache[8 - n:]])` is three segments: the last m of 3 entries are valid, all of the second,
and the last n of 8. The valid entries, in order, are the axis of the model; the others are arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.symbolic_integers import Number, Numbers

LOWEST, HIGHEST = "lowest", "highest"


class Unruled(Exception):
    """An operator has no form of a fixed size; the message says why, where there is more to say."""


@dataclass(frozen=True)
class RaggedTensor:
    """A tensor of fixed sizes, and its ragged axes by number."""

    node: fx.Node
    ragged_axes: Mapping[int, RaggedAxis]

    @property
    def shape(self) -> Sequence[Any]:
        shape: Sequence[Any] = self.node.meta["val"].shape
        return shape


Result = fx.Node | RaggedTensor | list[Any]


@dataclass
class Rewrite:
    """The rewriting of one graph: the replacement of each node.

    Attributes:
        values: values with ragged axes; a list for an operator with several results.
        known: data-dependent Python numbers.
        held: the numbers in integer tensors of one entry.
    """

    numbers: Numbers
    values: dict[fx.Node, Any] = field(default_factory=dict)
    known: dict[fx.Node, Number] = field(default_factory=dict)
    held: dict[fx.Node, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ragged_axes, self.call, self.constant = (
            RaggedAxes(self.numbers),
            self.numbers.writer.call,
            self.numbers.writer.constant,
        )

    def number_in(self, tensor: fx.Node, key: Any) -> Number:
        """The number in an integer tensor of one entry."""
        return self.held[tensor] if tensor in self.held else self.numbers.of_tensor(tensor, key)

    def given(self, node: fx.Node) -> dict[str, Any]:
        """The arguments of `node` by name: tensors as `RaggedTensor`, data-dependent numbers as `Number`."""
        named = named_args(node) | node.kwargs
        return {name: self.of(value) for name, value in named.items()}

    def of(self, value: Any) -> Any:
        """The replacement of an argument: a tensor as `RaggedTensor`, a data-dependent number as `Number`."""
        if isinstance(value, list | tuple):
            return [self.of(part) for part in value]
        if not isinstance(value, fx.Node):
            return value
        if value in self.known:
            number = self.known[value]
            return number if number.known is None else number.known
        if value in self.values:
            return self.values[value]
        tensor = self.numbers.writer.value_of(value) if value.op == "get_attr" else value.meta.get("val")
        return RaggedTensor(value, {}) if isinstance(tensor, torch.Tensor) else value

    def plain(self, node: fx.Node) -> Result:
        """`node` on the replacements of its arguments, none of them ragged; numbers as tensors of one entry."""
        target, sized = node.target, False

        def instead(value: Any) -> Any:
            nonlocal sized
            if value not in self.known:
                return value
            number = self.known[value]
            sized = sized or number.known is None
            return self.numbers.node(number) if number.known is None else number.known

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), instead)
        if any(isinstance(a, list | tuple) and any(n in self.known for n in a) for a in node.args) and sized:
            raise Unruled("a size")
        if sized and isinstance(target, torch._ops.OpOverload) and target._overloadname == "Scalar":
            target = getattr(target.overloadpacket, "Tensor", target)
        try:
            return self.call(target, *args, **kwargs)
        except Exception:  # an operator may take numbers of Python's alone
            if not sized:
                raise
            raise Unruled("it takes a number that follows from a value") from None

    def sizes(self, node: fx.Node, sizes: Sequence[Any]) -> list[Any]:
        """The sizes of a result as arguments: a number, or a node among the inputs of `node`."""
        asked = {str(n.meta.get("val")): n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.SymInt)}
        found = [size if isinstance(size, int) else asked.get(str(size), -1) for size in sizes]
        if found.count(-1) > 1:
            raise Unruled("sizes of a batch")
        return found

    def made(self, node: fx.Node, ragged_axes: Mapping[int, RaggedAxis]) -> RaggedTensor:
        """A value with the `ragged_axes` that are not full; an axis with a constant count gets that size."""
        value = RaggedTensor(node, {axis: ragged for axis, ragged in ragged_axes.items() if not ragged.is_full})
        for axis, ragged in list(value.ragged_axes.items()):
            if (count := ragged.count.known) is not None:
                value = self.gathered(value, axis, self.constant(torch.arange(count)))
        return value

    def gathered(self, value: RaggedTensor, axis: int, numbered: fx.Node) -> RaggedTensor:
        """Gather the valid entries `numbered` of a ragged axis."""
        node = self.call(
            aten.index_select.default, value.node, axis, self.ragged_axes.found(value.ragged_axes[axis], numbered)
        )
        return RaggedTensor(node, {a: ragged for a, ragged in value.ragged_axes.items() if a != axis})

    def as_in(self, value: RaggedTensor, axis: int, ragged: RaggedAxis) -> RaggedTensor:
        """`value` with its axis laid out as `ragged`, which has as many valid entries."""
        own = value.ragged_axes.get(axis, None)
        if own == ragged:
            return value
        size = value.shape[axis]
        if own is None:
            own = RaggedAxis.full(int(size))
        if own.count != ragged.count:
            raise Unruled("axes that meet were not seen to have as many entries")
        moved = self.gathered(
            RaggedTensor(value.node, {**value.ragged_axes, axis: own}), axis, self.ragged_axes.numbered(ragged)
        )
        return RaggedTensor(moved.node, {**moved.ragged_axes, axis: ragged})

    def filled(self, value: RaggedTensor, axis: int, instead: float | str) -> fx.Node:
        """The tensor of `value`, with `instead` in invalid entries."""
        tensor = value.node.meta["val"]
        if isinstance(instead, str):
            limits = torch.finfo(tensor.dtype) if tensor.dtype.is_floating_point else torch.iinfo(tensor.dtype)
            ends = (-torch.inf, torch.inf) if tensor.dtype.is_floating_point else (limits.min, limits.max)
            instead = ends[instead == HIGHEST]
        mask = self.mask(value.ragged_axes[axis], axis, tensor.dim())
        number = self.constant(torch.tensor(instead, dtype=tensor.dtype))
        return self.call(aten.where.self, mask, value.node, number)

    def mask(self, ragged: RaggedAxis, axis: int, rank: int) -> fx.Node:
        """The mask of valid entries along `axis` of `rank` axes."""
        mask = self.ragged_axes.mask(ragged)
        behind = rank - axis - 1
        return self.call(aten.reshape.default, mask, [ragged.size, *[1] * behind]) if behind else mask


Rule = Callable[[Rewrite, fx.Node], Result]


def ruled(rule: Rule, names: str) -> dict[Any, Rule]:
    """One rule for operators of aten by name."""
    return dict.fromkeys(overloads(names), rule)


def number_of(value: Any) -> Number:
    """An end of a slice, or an index, as a number."""
    if isinstance(value, Number):
        return value
    if type(value) is not int:
        raise Unruled("an end is of another kind than a whole number")
    return Number(value)


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
