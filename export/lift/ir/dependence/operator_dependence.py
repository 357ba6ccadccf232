"""The effect of one operator along an axis of frames or rows, known by name or tried on values drawn for it.

A pointwise operator keeps every index of the axis apart, and one that works along other axes places it by its
definition. An operator that only moves entries is called on their indices. Any other is called with some indices of its
arguments exchanged: the parts of its results that change depend on them. The exchanged indices are those with a one,
then those with a zero, in each of their binary digits, so that one of the trials tells every two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.errors import first_line
from rnn_export.export.lift.ir.compare import LOCALITY, differing
from rnn_export.export.lift.ir.dependence.axis_table import MOVING, are_mixed, effects_along, kept_axis
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, Dependence, IndexDependence, growing_axes
from rnn_export.export.lift.ir.dependence.drawn_values import KINDS, LOUD, Draws, Kind, picked_from
from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, VALUES_OF_FIRST

Values = Mapping[fx.Node, Any]
# What a trial's answer is remembered by.
Key = tuple[Any, ...]


class IndicesMixed(Exception):
    """An index of a result depends on another one."""


class NotDecided(IndicesMixed):
    """No drawn value shows what the operator does, for the reason given."""


@dataclass(frozen=True)
class Operand:
    """An argument and its layout; `is_fixed` if its values must stay."""

    value: Tensor
    layout: AxisLayout | None
    is_fixed: bool

    @property
    def is_number(self) -> bool:
        return not (self.value.is_floating_point() or self.value.is_complex() or self.value.dtype == torch.bool)

    @property
    def is_weight(self) -> bool:
        return self.layout is None and self.value.is_floating_point() and not self.is_fixed

    @property
    def key(self) -> Key:
        held = self.value.detach().contiguous().numpy().tobytes() if self.is_fixed else None
        return tuple(self.value.shape), self.value.dtype, self.layout, held


class Operators:
    """Dependences of the operators of one graph, cached by operator, arguments and their shapes.

    `values` are those of one run, `more` those of another with more frames or rows; `fixed` tells the nodes that no
    input reaches, whose integers must stay as they are.
    """

    def __init__(self, values: Values, more: Values, fixed: Callable[[fx.Node], bool]) -> None:
        self.values, self.more, self.fixed = values, more, fixed
        self._known: dict[Key, list[IndexDependence] | IndicesMixed] = {}

    def dependences(self, node: fx.Node, layouts: Mapping[fx.Node, AxisLayout]) -> list[IndexDependence]:
        """The dependence of each result of `node`; one that gives no tuple has one result.

        `layouts` are those of the arguments, all with as many frames or rows. Raises IndicesMixed.
        """
        here, there = (_results(run[node]) for run in (self.values, self.more))
        if len(here) != len(there):
            # There is a result for each cell.
            raise IndicesMixed
        growing = [growing_axes(value, other) for value, other in zip(here, there, strict=True)]
        effects = effects_along(node, self.values, {n: at.axis for n, at in layouts.items()})
        if any(len(axes) > 1 for axes in growing) or are_mixed(effects):
            raise IndicesMixed
        merged, axis = {(at.outer, at.inner) for at in layouts.values()}, kept_axis(effects)
        if len(merged) == 1 and axis is not None and all(axes == [axis] for axes in growing):
            return [AxisLayout(axis, *merged.pop())] * len(here)
        tensors = [n for n in node.all_input_nodes if isinstance(self.values[n], Tensor)]
        operands = {n: self._operand(n, layouts.get(n)) for n in tensors}
        shown = {n: operands[n].key if n in operands else self.values[n] for n in node.all_input_nodes}
        key = node.target, repr(fx.node.map_arg((node.args, node.kwargs), shown.__getitem__)), repr(growing)
        if key not in self._known:
            try:
                self._known[key] = self._tried(node, operands, growing)
            except IndicesMixed as mixed:
                self._known[key] = mixed
        known = self._known[key]
        if isinstance(known, IndicesMixed):
            raise known
        return known

    def _tried(
        self, node: fx.Node, operands: Mapping[fx.Node, Operand], growing: Sequence[Sequence[int]]
    ) -> list[IndexDependence]:
        if node.target in MOVING:
            return _Moves(node, self.values, self.more, operands).answers(growing)
        floats = {n: o for n, o in operands.items() if o.layout is None and o.value.is_floating_point()}
        # Weights may be such as none that is drawn: shares from 0 to 1, labels. What a constant hides, as zeros do that
        # a loop starts from, is no more than what any would show.
        own = {n: replace(o, is_fixed=True) for n, o in floats.items() if not o.is_fixed}
        other = {n: replace(o, is_fixed=False) for n, o in floats.items() if o.is_fixed}
        undecided: list[NotDecided] = []
        for changed in ({}, *filter(None, (own, other))):
            try:
                return _Trial(node, self.values, self.more, {**operands, **changed}).answers(growing)
            except NotDecided as error:
                undecided.append(error)
        raise undecided[0]

    def _operand(self, node: fx.Node, layout: AxisLayout | None) -> Operand:
        value = self.values[node]
        # Weights are drawn too: what one at zero hides would count. What is made of sizes, or picks, stays.
        grows = bool(growing_axes(value, self.more[node]))
        return Operand(value, layout, layout is None and self.fixed(node) and (grows or not value.is_floating_point()))


def _results(value: Any) -> Sequence[Tensor]:
    return [value] if isinstance(value, Tensor) else value


class _Asked:
    """One operator and the indices of its results."""

    def __init__(self, node: fx.Node, values: Values, more: Values, operands: Mapping[fx.Node, Operand]) -> None:
        self.node, self.values, self.more, self.operands = node, values, more, operands
        argument, layout = next((n, o.layout) for n, o in operands.items() if o.layout is not None)
        self.indices, self.more_indices = layout.indices_in(values[argument]), layout.indices_in(more[argument])
        self.usual_outer = layout.outer

    def answers(self, growing: Sequence[Sequence[int]]) -> list[IndexDependence]:
        sizes = zip(_results(self.values[self.node]), _results(self.more[self.node]), growing, strict=True)
        return [
            self._layout(i, axes[0], value.shape[axes[0]], more.shape[axes[0]]) if axes else self._without_indices(i)
            for i, (value, more, axes) in enumerate(sizes)
        ]

    def _without_indices(self, result: int) -> Dependence:
        if not self._moves(result):
            self._refuse_unmoved(result)
            return Dependence.NONE
        if self._is_last(result):
            return Dependence.LAST
        raise IndicesMixed

    def _layout(self, result: int, axis: int, size: int, more: int) -> AxisLayout:
        """The layout of a result that grows along `axis`, from `size` to `more`."""
        rest, left = divmod(size, self.indices)
        if left or more != rest * self.more_indices:
            raise IndicesMixed
        if not self._moves(result):
            self._refuse_unmoved(result)
        factors = [n for n in range(1, rest + 1) if rest % n == 0]
        # Results that never change tell nothing: then the cells stand as they stood before.
        for outer in sorted(factors, key=lambda n: n != self.usual_outer):
            layout = AxisLayout(axis, outer, rest // outer)
            if self._stays(result, layout):
                return layout
        raise IndicesMixed

    def _refuse_unmoved(self, result: int) -> None:
        """Refuse a result that no drawn value changes."""
        entries = _results(self.values[self.node])[result].numel()
        if entries and self.node.target not in SHAPE_ONLY | VALUES_OF_FIRST:
            raise NotDecided("none of the values that it was tried on changed its result")

    def _moves(self, result: int) -> bool:
        """True if an index moves a result."""
        raise NotImplementedError

    def _is_last(self, result: int) -> bool:
        """True if only the last index moves a result."""
        raise NotImplementedError

    def _stays(self, result: int, layout: AxisLayout) -> bool:
        """True if each index of a result with layout `layout` is of no other."""
        raise NotImplementedError


class _Moves(_Asked):
    """An operator that only moves entries, called once on their indices."""

    def __init__(self, node: fx.Node, values: Values, more: Values, operands: Mapping[fx.Node, Operand]) -> None:
        super().__init__(node, values, more, operands)
        try:
            self.found = indices_of_results(node, values, {n: o.layout for n, o in operands.items()})
        except Exception as error:  # operators raise many kinds
            raise NotDecided(first_line(error)) from error

    def _moves(self, result: int) -> bool:
        return bool((self.found[result] != OF_NONE).any())

    def _is_last(self, result: int) -> bool:
        found = self.found[result]
        return bool(((found == OF_NONE) | (found == self.indices - 1)).all())

    def _stays(self, result: int, layout: AxisLayout) -> bool:
        return stay(self.found[result], layout)


class _Trial(_Asked):
    """One operator, and the changes of its results with some argument indices."""

    def __init__(self, node: fx.Node, values: Values, more: Values, operands: Mapping[fx.Node, Operand]) -> None:
        super().__init__(node, values, more, operands)
        self.exchanged = list(_digit_sets(self.indices))
        self.draws = Draws()
        self.weights = {n: self.draws.weights(o.value) for n, o in operands.items() if o.is_weight}
        # Numbers that the operator does not take may be as many as the model's own.
        own = max((int(o.value.max()) for o in operands.values() if o.is_number and o.value.numel()), default=0)
        for numbers in (picked_from(node, [o.value.shape for o in operands.values()]), range(max(own, 0) + 1)):
            try:
                self.changed = self._all_changed(numbers)
                return
            except Exception as error:  # operators raise many kinds
                reason = first_line(error)
        raise NotDecided(reason)

    def _all_changed(self, numbers: range | None) -> list[list[Tensor]]:
        """By set of exchanged indices, a mask of the changes in each result in any kind."""
        found = [self._changed(numbers, kind) for kind in KINDS]
        if any(o.layout is not None and o.value.is_floating_point() for o in self.operands.values()):
            for kind in LOUD:
                with suppress(Exception):  # operators raise many kinds for values that they do not take
                    found.append(self._changed(numbers, kind))
        return [
            [reduce(torch.logical_or, masks) for masks in zip(*results, strict=True)]
            for results in zip(*found, strict=True)
        ]

    def _changed(self, numbers: range | None, kind: Kind | None) -> list[list[Tensor]]:
        pairs = {node: self._pair(node, operand, kind, numbers) for node, operand in self.operands.items()}
        before = self._call({n: pair[0] for n, pair in pairs.items()})
        changed = []
        for indices in self.exchanged:
            after = self._call({n: self._mixed(n, *pair, indices) for n, pair in pairs.items()})
            changed.append([differing(a, b, LOCALITY) for a, b in zip(after, before, strict=True)])
        return changed

    def _pair(self, node: fx.Node, operand: Operand, kind: Kind | None, numbers: range | None) -> tuple[Tensor, Tensor]:
        if operand.is_fixed or operand.is_weight:
            return (self.weights.get(node, operand.value),) * 2
        return self.draws.pair(operand.value, kind, numbers)

    def _mixed(self, node: fx.Node, before: Tensor, after: Tensor, indices: Sequence[int]) -> Tensor:
        layout = self.operands[node].layout
        if layout is None:
            return before
        mask = torch.zeros(self.indices, dtype=torch.bool)
        mask[list(indices)] = True
        whole = layout.split(before)
        shaped = mask.reshape([-1 if a == layout.axis + 1 else 1 for a in range(whole.dim())])
        return torch.where(shaped, layout.split(after), whole).reshape(before.shape)

    def _call(self, arguments: Mapping[fx.Node, Tensor]) -> Sequence[Tensor]:
        args, kwargs = fx.node.map_arg(
            (self.node.args, self.node.kwargs), lambda n: arguments[n] if n in arguments else self.values[n]
        )
        assert callable(self.node.target)
        with torch.no_grad():
            return _results(self.node.target(*args, **kwargs))

    def _moves(self, result: int) -> bool:
        return any(bool(changed[result].any()) for changed in self.changed)

    def _is_last(self, result: int) -> bool:
        moves = [
            indices for indices, changed in zip(self.exchanged, self.changed, strict=True) if changed[result].any()
        ]
        return all(self.indices - 1 in indices for indices in moves)

    def _stays(self, result: int, layout: AxisLayout) -> bool:
        return all(
            self._indices(changed[result], layout) <= set(indices)
            for indices, changed in zip(self.exchanged, self.changed, strict=True)
        )

    def _indices(self, changed: Tensor, layout: AxisLayout) -> set[int]:
        """The indices of a result with a changed entry."""
        if changed.dim() <= layout.axis:
            return set(range(self.indices))
        by_index = layout.split(changed).movedim(layout.axis + 1, 0).flatten(1).any(1)
        return set(by_index.nonzero().flatten().tolist())


def _digit_sets(count: int) -> Iterator[list[int]]:
    """Sets of numbers below `count`: for any two, in both orders, one set has the first and not the second."""
    for digit in range(max(count - 1, 1).bit_length()):
        for bit in (1, 0):
            yield [n for n in range(count) if n >> digit & 1 == bit]


# What an entry has that is of no cell.
OF_NONE = -1


def numbered(value: Tensor, layout: AxisLayout | None) -> Tensor:
    """The frame or row index of each entry, in the shape of `value`."""
    if layout is None:
        return torch.full(value.shape, OF_NONE)
    indices = layout.indices_in(value)
    sizes = [indices if axis == layout.axis + 1 else 1 for axis in range(value.dim() + 2)]
    return torch.arange(indices).reshape(sizes).expand_as(layout.split(value)).reshape(value.shape).contiguous()


def indices_of_results(
    node: fx.Node, values: Mapping[fx.Node, Any], layouts: Mapping[fx.Node, AxisLayout | None]
) -> list[Tensor]:
    """The frame or row index of each entry, by result of `node`, one of `MOVING`."""
    given = {n: numbered(values[n], layout) for n, layout in layouts.items()}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: given[n] if n in given else values[n])
    assert callable(node.target)
    with torch.no_grad():
        results = node.target(*args, **kwargs)
    return [results] if isinstance(results, Tensor) else list(results)


def stay(found: Tensor, layout: AxisLayout) -> bool:
    """True if each entry of a result with layout `layout` is of its own index, or of none."""
    return bool(((found == OF_NONE) | (found == numbered(found, layout))).all())
