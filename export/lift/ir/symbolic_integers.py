"""Symbolic integers from tensor values, as sums such as `W - min(W, n)`, so that equal ones are seen.

Sizes of torch.export are evaluated by torch's interpreter, a hundred times as fast as sympy.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from rnn_export.export.lift.ir.fx_nodes import aten, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter

SHOWN = overloads("select.int reshape unsqueeze squeeze.dim expand permute alias clone _to_copy")


@dataclass(frozen=True)
class Number:
    """The sum of `plain` and `terms`: pairs of a number of `Numbers` and a factor."""

    plain: int = 0
    terms: tuple[tuple[int, int], ...] = ()

    @property
    def known(self) -> int | None:
        """The constant value; None if it follows from a tensor."""
        return None if self.terms else self.plain

    def __add__(self, other: Number | int) -> Number:
        if isinstance(other, int):
            return Number(self.plain + other, self.terms)
        factors = dict(self.terms)
        for term, factor in other.terms:
            factors[term] = factors.get(term, 0) + factor
        return Number(self.plain + other.plain, tuple(sorted((t, f) for t, f in factors.items() if f)))

    def __mul__(self, factor: int) -> Number:
        return Number(self.plain * factor, tuple((t, f * factor) for t, f in self.terms if factor))

    def __sub__(self, other: Number | int) -> Number:
        return self + other * -1

    def parted(self, by: int) -> Number | None:
        """The number divided by `by`; None if that is no such sum."""
        if self.plain % by or any(f % by for _, f in self.terms):
            return None
        return Number(self.plain // by, tuple((t, f // by) for t, f in self.terms))


class Numbers:
    """The numbers of one graph, each with a node, a tensor without axes, and its least and greatest value."""

    def __init__(self, writer: NodeWriter, from_zero: Collection[Any] = ()) -> None:
        """`from_zero` are the keys of tensors that are never below zero."""
        self.writer, self.from_zero = writer, from_zero
        self._nodes: list[fx.Node] = []
        self._ends: list[tuple[float, float]] = []
        self._known: dict[Number, tuple[float, float]] = {}
        self._by_key: dict[Any, int] = {}
        self._written: dict[Number, fx.Node] = {}

    def of_tensor(self, tensor: fx.Node, key: Any) -> Number:
        """The number in a tensor of one entry; `key` is that of all nodes that compute it."""
        call = self.writer.call

        def made() -> fx.Node:
            flat = call(aten.reshape.default, tensor, [])
            is_long = flat.meta["val"].dtype == torch.int64
            return flat if is_long else call(aten._to_copy.default, flat, dtype=torch.int64)

        return self._term(("tensor", key), made, (0 if key in self.from_zero else -math.inf, math.inf))

    def least(self, number: Number) -> float:
        return self._ends_of(number)[0]

    def most(self, number: Number) -> float:
        return self._ends_of(number)[1]

    def minimum(self, a: Number, b: Number) -> Number:
        ends = (min(self.least(a), self.least(b)), min(self.most(a), self.most(b)))
        return self._within(a - self.above(a - b), ends)

    def maximum(self, a: Number, b: Number) -> Number:
        ends = (max(self.least(a), self.least(b)), max(self.most(a), self.most(b)))
        return self._within(b + self.above(a - b), ends)

    def above(self, number: Number) -> Number:
        """`number`, or 0 if it is negative.

        All bounds are made of it, so that equal ones are seen to be: min(a, b) = a - above(a - b).
        """
        low, high = self._ends_of(number)
        if low >= 0 or high <= 0:
            return number if low >= 0 else Number()
        if number.terms[0][1] < 0:
            return self._within(number + self.above(number * -1), (0, high))

        def made() -> fx.Node:
            return self.writer.call(aten.clamp_min.default, self.node(number), 0)

        return self._term(("above", number), made, (0, high))

    def rest(self, count: Number, left: Number) -> Number:
        """The number of `count` entries after the first `left`; both may be anything."""
        return self._within(self.above(count - self.above(left)), (0, self.most(count)))

    def between(self, number: Number, low: Number, high: Number) -> Number:
        """`number` clamped to `low` and `high`; `low` <= `high`."""
        return self.minimum(self.maximum(number, low), high)

    def quotient(self, number: Number, by: int) -> Number:
        """`number // by`, `by` above zero."""
        if (parted := number.parted(by)) is not None:
            return parted
        ends = [end if math.isinf(end) else end // by for end in (self.least(number), self.most(number))]

        def made() -> fx.Node:
            return self.writer.call(aten.div.Tensor_mode, self.node(number), by, rounding_mode="floor")

        return self._term(("quotient", number, by), made, (ends[0], ends[1]))

    def place(self, number: Number, size: Number) -> Number:
        """The index of an end of a slice on an axis of `size` entries, as Python counts it."""
        if self.least(number) < 0 <= self.most(number):
            # Whether it counts from the end its value says.
            def made() -> fx.Node:
                at, call = self.node(number), self.writer.call
                return call(aten.where.self, call(aten.lt.Scalar, at, 0), self.node(number + size), at)

            number = self._term(("place", number, size), made, (-math.inf, max(self.most(size), self.most(number))))
        elif self.most(number) < 0:
            number = number + size
        return self.between(number, Number(), size)

    def node(self, number: Number) -> fx.Node:
        """An int64 tensor without axes."""
        if number not in self._written:
            call = self.writer.call
            parts = [self._nodes[t] if f == 1 else call(aten.mul.Tensor, self._nodes[t], f) for t, f in number.terms]
            total = parts[0] if parts else self.writer.constant(torch.tensor(number.plain))
            for part in parts[1:]:
                total = call(aten.add.Tensor, total, part)
            self._written[number] = call(aten.add.Tensor, total, number.plain) if parts and number.plain else total
        return self._written[number]

    def _within(self, number: Number, ends: tuple[float, float]) -> Number:
        """`number`, noted to be between `ends`."""
        if number.terms:
            factor = 1 if number.terms[0][1] > 0 else -1
            low, high = sorted(factor * (end - number.plain) for end in ends)
            terms = Number(0, (number * factor).terms)
            known = self._known.get(terms, (-math.inf, math.inf))
            self._known[terms] = (max(low, known[0]), min(high, known[1]))
        return number

    def _ends_of(self, number: Number) -> tuple[float, float]:
        """The least and greatest value of a number, summed over parts with known ones."""
        low = high = float(number.plain)
        left = dict(number.terms)
        for known, ends in sorted(self._known.items(), key=lambda item: -len(item[0].terms)):
            factor = left.get(known.terms[0][0], 0) // known.terms[0][1]
            if factor and all(left.get(t, 0) == f * factor for t, f in known.terms):
                parts = sorted(factor * end for end in ends)
                low, high = low + parts[0], high + parts[1]
                left = {t: f for t, f in left.items() if t not in dict(known.terms)}
        for term, factor in left.items():
            parts = sorted(factor * end for end in self._ends[term])
            low, high = low + parts[0], high + parts[1]
        return low, high

    def _term(self, key: Any, made: Callable[[], fx.Node], ends: tuple[float, float]) -> Number:
        if key not in self._by_key:
            # What it is made of comes before it.
            node = made()
            self._by_key[key] = len(self._nodes)
            self._nodes.append(node)
            self._ends.append(ends)
        return Number(0, ((self._by_key[key], 1),))


def is_whole_number(value: Any) -> bool:
    """True if a value is a tensor of one whole number."""
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
        return False
    return all(type(n) is int and n == 1 for n in value.shape)


def origin_of(node: fx.Node) -> fx.Node:
    """The tensor whose one whole number `node` shows in another shape or type."""
    while node.target in SHOWN and is_whole_number((shown := node.all_input_nodes[0]).meta.get("val")):
        node = shown
    return node


def is_by_value(size: Any) -> bool:
    """True if a size of the graph follows from the value of a tensor."""
    return isinstance(size, torch.SymInt) and bool(free_unbacked_symbols(size))


class _Numbers(PythonReferenceAnalysis):
    """Adds the operations of sizes that torch leaves to sympy."""

    int_truediv = staticmethod(operator.truediv)

    @staticmethod
    def trunc_to_int(value: float, dtype: torch.dtype) -> int:
        return math.trunc(value)


def size_at(size: int | torch.SymInt, length: int) -> int | None:
    """The value of a size if all its symbols are `length`; None if that is no whole number."""
    return size if isinstance(size, int) else _number(size.node.expr, {}, lambda _: length)


def size_of(size: int | torch.SymInt, known: Mapping[sympy.Symbol, int]) -> int | None:
    """The value of a size; None if that is no whole number, or needs unknown symbols."""
    return size if isinstance(size, int) else _number(size.node.expr, known, None)


def _number(
    expression: sympy.Expr, known: Mapping[sympy.Symbol, int], other: Callable[[sympy.Symbol], int] | None
) -> int | None:
    try:
        value = sympy_interp(_Numbers, dict(known), expression, missing_handler=other)
    except KeyError:  # a symbol that is not known, or a function of which torch has no numbers
        return None
    return int(value) if value == int(value) else None
