"""Sizes are divided by plain means: torch asks sympy.simplify, which takes minutes for one rounded many times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import sympy
from torch.utils._sympy import functions


class _Sympy(ModuleType):
    """sympy, in which a quotient by a factor of every term is taken term by term, and made no simpler."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sympy, name)

    @staticmethod
    def simplify(expression: sympy.Expr) -> sympy.Expr:
        return sympy.expand_mul(expression, deep=False)


@contextlib.contextmanager
def plain_division() -> Iterator[None]:
    """While a module is exported; values are the same, and their expressions as the code has them."""
    before = functions.sympy  # type: ignore[attr-defined]
    functions.sympy = _Sympy("sympy")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        functions.sympy = before  # type: ignore[attr-defined]
