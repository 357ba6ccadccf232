"""Classifies each argument of a loop body by its values in all copies of the body.

Each kind is a dataclass. Rules return a kind or None, and the first one that returns a kind decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx

from rnn_export.export.lift.loops.value_references import Path, Ref


@dataclass(frozen=True)
class Place:
    """The place of a node in a loop: node `node` of copy `copy`."""

    copy: int
    node: int


@dataclass(frozen=True)
class BodyValue:
    """The part `path` of node `node` of the body."""

    node: int
    path: Path = ()


@dataclass(frozen=True)
class LiteralValue:
    """A number, text or None, the same in every copy."""

    value: Any


@dataclass(frozen=True)
class Counted:
    """A number that grows from copy to copy: `start`, and `step` more in each."""

    start: float
    step: float

    def of(self, copy: int) -> float:
        """The number of a copy."""
        return self.start + copy * self.step


@dataclass(frozen=True)
class Local:
    """A value of the same copy."""

    value: BodyValue


@dataclass(frozen=True)
class Scan:
    """Frame k of `sequence` in copy k; `frame` is the path of frame 0, its first part along the axis of frames."""

    sequence: Ref
    frame: Path

    @property
    def axis(self) -> int:
        return self.frame[0].axis


@dataclass(frozen=True)
class Carry:
    """A value of `depth` copies ago, or a frame that such a copy takes; `initial` in the first copies, oldest first.

    `initial` is empty if the first copies have no such argument, or take it from the iterations before them.
    """

    value: BodyValue | Scan
    depth: int
    initial: tuple[Ref, ...]


@dataclass(frozen=True)
class Invariant:
    """One value from outside, the same in every copy."""

    ref: Ref


Operand = LiteralValue | Counted | Local | Carry | Scan | Invariant


def sources_of(operand: Operand) -> tuple[Ref, ...]:
    """The values from outside the loop that an operand reads."""
    match operand:
        case Carry(value, _, initial):
            return (*initial, value.sequence) if isinstance(value, Scan) else initial
        case Scan(sequence):
            return (sequence,)
        case Invariant(ref):
            return (ref,)
    return ()


def is_known_early(operand: Operand, precomputed: frozenset[int]) -> bool:
    """True if the previous copy has the operand at its end, where it computes the nodes `precomputed`."""
    match operand:
        case Carry(_, depth):
            return depth == 1
        case Local(value):
            return value.node in precomputed
    return not isinstance(operand, Scan | Counted)


# --- the rules ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """One argument of a body node, over the copies that have the node.

    `copies` are their numbers, ascending, `refs` the argument in each, `places` its place in the loop, None outside.
    `precomputed` are the nodes that the first copy lacks; `same_value` tells if two nodes outside are one value. The
    first copy is iteration `first`.
    """

    copies: tuple[int, ...]
    refs: tuple[Ref, ...]
    places: tuple[Place | None, ...]
    precomputed: frozenset[int]
    same_value: Callable[[fx.Node, fx.Node], bool]
    first: int = 0

    @property
    def is_outside(self) -> bool:
        """True if every copy takes it from outside the loop."""
        return all(place is None for place in self.places)

    @cached_property
    def has_one_base(self) -> bool:
        """True if every copy takes the same value, or a part of it."""
        return all(self.same_value(self.refs[0].base, ref.base) for ref in self.refs)

    @property
    def begins_in_first(self) -> bool:
        return self.copies[0] == 0

    def value_from(self, start: int) -> tuple[int, BodyValue] | None:
        """The delay in copies and the body value that all copies but the first `start` take; else None."""
        taken = {
            None if place is None else (copy - place.copy, BodyValue(place.node, ref.path))
            for copy, ref, place in list(zip(self.copies, self.refs, self.places, strict=True))[start:]
        }
        return taken.pop() if len(taken) == 1 else None


def _local(argument: Argument) -> Local | None:
    match argument.value_from(0):
        case (0, value):
            return Local(value)
    return None


def _precomputed(argument: Argument) -> Carry | None:
    """A value of the same copy that the previous copy computes already, as the first copy lacks the node."""
    if not argument.begins_in_first or argument.places[0] is not None:
        return None
    match argument.value_from(1):
        case (0, value) if value.node in argument.precomputed:
            return Carry(value, 1, argument.refs[:1])
    return None


def _carry(argument: Argument) -> Carry | None:
    """A value of d copies ago; the first d copies, if they have the argument, take outside values."""
    head = argument.places.count(None)
    found = argument.value_from(head) if len(argument.copies) - head > 1 else None
    if found is None or found[0] < 1 or (head and not (argument.begins_in_first and found[0] == head)):
        return None
    return Carry(found[1], found[0], argument.refs[:head])


def _invariant(argument: Argument) -> Invariant | None:
    one = argument.is_outside and argument.has_one_base and len({ref.path for ref in argument.refs}) == 1
    return Invariant(argument.refs[0]) if one else None


def _scan(argument: Argument) -> Scan | Carry | None:
    """The frame of each iteration or of one before; iterations before the first copy took the first frames."""
    if not (argument.is_outside and argument.begins_in_first and argument.has_one_base):
        return None
    found = consecutive(argument.refs)
    if found is None or found[1] > argument.first:
        return None
    scan, start = found
    return scan if start == argument.first else Carry(scan, argument.first - start, ())


def _delayed_scan(argument: Argument) -> Carry | None:
    """The frame of d copies ago; the first d copies take something else from outside."""
    if not (argument.is_outside and argument.begins_in_first) or argument.has_one_base:
        return None
    refs = argument.refs
    for depth in range(1, len(refs) - 2):
        one_base = len({ref.base for ref in refs[depth:]}) == 1
        if one_base and (found := consecutive(refs[depth:])) is not None and found[1] == 0:
            return Carry(found[0], argument.first + depth, refs[:depth])
    return None


def consecutive(refs: Sequence[Ref]) -> tuple[Scan, int] | None:
    """Frames n, n + 1, ... of one value as a Scan, and n; else None."""
    paths = [ref.path for ref in refs]
    if len({len(path) for path in paths}) > 1:
        return None
    moving = [i for i, parts in enumerate(zip(*paths, strict=True)) if len(set(parts)) > 1]
    if len(moving) != 1:
        return None
    (i,) = moving
    first = paths[0][i]
    start = first.entry
    if first.kind == "item" or [p[i] for p in paths] != [first._replace(entry=start + k) for k in range(len(paths))]:
        return None
    return Scan(Ref(refs[0].base, paths[0][:i]), (first._replace(entry=0), *paths[0][i + 1 :])), start


Rule = Callable[[Argument], Operand | None]
RULES: tuple[Rule, ...] = (_local, _precomputed, _carry, _invariant, _scan, _delayed_scan)


def classify(argument: Argument) -> Operand | None:
    """The kind of `argument`; None if the copies disagree."""
    return next((operand for rule in RULES if (operand := rule(argument)) is not None), None)
