"""Tensors with ragged axes, and their alignment in operators that combine them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.symbolic_integers import Number, Numbers
from rnn_export.export.lift.rewrite.ragged.ragged_axes import RaggedAxes, RaggedAxis

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
