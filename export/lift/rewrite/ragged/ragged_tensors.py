"""Tensors with ragged axes, and their alignment in operators that combine them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.symbolic_integers import Number, Numbers
from rnn_export.export.lift.rewrite.ragged.ragged_axes import Room, Rooms

LOWEST, HIGHEST = "lowest", "highest"


class Unruled(Exception):
    """An operator has no form of a fixed size; the message says why, where there is more to say."""


@dataclass(frozen=True)
class Roomy:
    """A tensor of fixed sizes, and its ragged axes by number."""

    node: fx.Node
    rooms: Mapping[int, Room]

    @property
    def shape(self) -> Sequence[Any]:
        shape: Sequence[Any] = self.node.meta["val"].shape
        return shape


Result = fx.Node | Roomy | list[Any]


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
        self.rooms, self.call, self.constant = (
            Rooms(self.numbers),
            self.numbers.writer.call,
            self.numbers.writer.constant,
        )

    def number_in(self, tensor: fx.Node, key: Any) -> Number:
        """The number in an integer tensor of one entry."""
        return self.held[tensor] if tensor in self.held else self.numbers.of_tensor(tensor, key)

    def given(self, node: fx.Node) -> dict[str, Any]:
        """The arguments of `node` by name: tensors as `Roomy`, data-dependent numbers as `Number`."""
        named = named_args(node) | node.kwargs
        return {name: self.of(value) for name, value in named.items()}

    def of(self, value: Any) -> Any:
        """The replacement of an argument: a tensor as `Roomy`, a data-dependent number as `Number`."""
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
        return Roomy(value, {}) if isinstance(tensor, torch.Tensor) else value

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

    def made(self, node: fx.Node, rooms: Mapping[int, Room]) -> Roomy:
        """A value with the `rooms` that are not full; an axis with a constant count gets that size."""
        value = Roomy(node, {axis: room for axis, room in rooms.items() if not room.is_full})
        for axis, room in list(value.rooms.items()):
            if (count := room.count.known) is not None:
                value = self.gathered(value, axis, self.constant(torch.arange(count)))
        return value

    def gathered(self, value: Roomy, axis: int, numbered: fx.Node) -> Roomy:
        """Gather the valid entries `numbered` of a ragged axis."""
        node = self.call(aten.index_select.default, value.node, axis, self.rooms.found(value.rooms[axis], numbered))
        return Roomy(node, {a: room for a, room in value.rooms.items() if a != axis})

    def as_in(self, value: Roomy, axis: int, room: Room) -> Roomy:
        """`value` with its axis laid out as `room`, which has as many valid entries."""
        own = value.rooms.get(axis, None)
        if own == room:
            return value
        size = value.shape[axis]
        if own is None:
            own = Room.full(int(size))
        if own.count != room.count:
            raise Unruled("axes that meet were not seen to have as many entries")
        moved = self.gathered(Roomy(value.node, {**value.rooms, axis: own}), axis, self.rooms.numbered(room))
        return Roomy(moved.node, {**moved.rooms, axis: room})

    def filled(self, value: Roomy, axis: int, instead: float | str) -> fx.Node:
        """The tensor of `value`, with `instead` in invalid entries."""
        tensor = value.node.meta["val"]
        if isinstance(instead, str):
            limits = torch.finfo(tensor.dtype) if tensor.dtype.is_floating_point else torch.iinfo(tensor.dtype)
            ends = (-torch.inf, torch.inf) if tensor.dtype.is_floating_point else (limits.min, limits.max)
            instead = ends[instead == HIGHEST]
        mask = self.mask(value.rooms[axis], axis, tensor.dim())
        number = self.constant(torch.tensor(instead, dtype=tensor.dtype))
        return self.call(aten.where.self, mask, value.node, number)

    def mask(self, room: Room, axis: int, rank: int) -> fx.Node:
        """The mask of valid entries along `axis` of `rank` axes."""
        mask = self.rooms.mask(room)
        behind = rank - axis - 1
        return self.call(aten.reshape.default, mask, [room.size, *[1] * behind]) if behind else mask

    def together(self, values: Sequence[Roomy]) -> tuple[list[Roomy], dict[int, Room]]:
        """Values of an elementwise operator with the same ragged axes, and these by axis of its result."""
        rank = max(len(v.shape) for v in values)
        rooms: dict[int, Room] = {}
        for value in values:
            for axis, room in value.rooms.items():
                rooms.setdefault(axis + rank - len(value.shape), room)
        return [self._in(value, rank, rooms) for value in values], rooms

    def _in(self, value: Roomy, rank: int, rooms: Mapping[int, Room]) -> Roomy:
        less = rank - len(value.shape)
        for axis, room in rooms.items():
            own = axis - less
            if own >= 0 and (own in value.rooms or value.shape[own] != 1):
                value = self.as_in(value, own, room)
        return value


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
