"""Divides sizes without sympy.simplify of rounded parts, which takes minutes for a size rounded many times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import sympy
from torch.utils._sympy import functions


class _Sympy(ModuleType):
    """sympy with a `simplify` that sees sums, products and powers, and no parts of other functions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sympy, name)

    @staticmethod
    def simplify(expression: sympy.Expr) -> sympy.Expr:
        names: dict[sympy.Expr, sympy.Expr] = {}

        def outside(part: sympy.Expr) -> sympy.Expr:
            if isinstance(part, sympy.Add | sympy.Mul | sympy.Pow):
                return part.func(*map(outside, part.args))
            return names.setdefault(part, sympy.Dummy(integer=True)) if part.args else part

        simple = sympy.simplify(outside(expression))
        return simple.xreplace({name: part for part, name in names.items()})


@contextlib.contextmanager
def plain_division() -> Iterator[None]:
    """Patch torch's functions for an export; values are the same."""
    before = functions.sympy  # type: ignore[attr-defined]
    functions.sympy = _Sympy("sympy")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        functions.sympy = before  # type: ignore[attr-defined]
