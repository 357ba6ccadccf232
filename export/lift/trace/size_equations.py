"""Solves an equation for a size by trial if sympy cannot: a size divided and rounded twice has no inverse."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import sympy
from sympy.solvers import inequalities

# Sizes that are tried.
MOST = 1 << 14


@contextlib.contextmanager
def solved_by_trying() -> Iterator[None]:
    """Patch sympy for an export: torch then names the size that it specialized, and does not fail."""
    own = inequalities.reduce_inequalities

    def reduce(conditions: Iterable[Any], symbol: sympy.Symbol) -> Any:
        conditions = list(conditions)
        try:
            return own(conditions, symbol)
        except NotImplementedError:
            sizes = (
                n for n in range(MOST) if all(c.xreplace({symbol: sympy.Integer(n)}) == sympy.true for c in conditions)
            )
            found = next(sizes, None) if any(isinstance(c, sympy.Eq) for c in conditions) else None
            if found is None:
                raise
            return sympy.Eq(symbol, found)

    inequalities.reduce_inequalities = reduce
    try:
        yield
    finally:
        inequalities.reduce_inequalities = own
