"""Evaluates the sizes of torch.export by torch's interpreter, a hundred times as fast as sympy."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

import sympy
import torch
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis


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
