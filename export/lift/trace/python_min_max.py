"""Python's `min` and `max` of data-dependent numbers as operators of the graph; torch asks for the order."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch

from rnn_export.export.lift.ir.symbolic_integers import is_by_value


@contextlib.contextmanager
def ends_of_numbers() -> Iterator[None]:
    """Patch `min` and `max` for an export."""
    before = builtins.min, builtins.max
    builtins.min, builtins.max = _of(before[0], torch.sym_min), _of(before[1], torch.sym_max)
    try:
        yield
    finally:
        builtins.min, builtins.max = before


def _of(own: Callable[..., Any], symbolic: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def end(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
        if kwargs or len(given) < 2 or not any(is_by_value(n) for n in given):
            return own(*args, **kwargs)
        if not all(isinstance(n, int | torch.SymInt) for n in given):
            return own(*args, **kwargs)
        return reduce(symbolic, given)

    return end
