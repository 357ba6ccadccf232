"""Python's `min` and `max` of data-dependent numbers, and `len` of tensors, as operators of the graph."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.export.lift.ir.symbolic_integers import is_by_value

NOT_OF_USERS = {"torch", "rnn_export", *sys.stdlib_module_names}


@contextlib.contextmanager
def ends_of_numbers() -> Iterator[None]:
    """Patch `min` and `max` for an export: torch asks for the order."""
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


@contextlib.contextmanager
def lengths_of_tensors(module: nn.Module) -> Iterator[None]:
    """Let `len(tensor)` be `tensor.shape[0]` in the packages that define `module` and its parts.

    Python's own makes a number of it. In torch it stays: it is called there too often.
    """
    kinds = dict.fromkeys(kind for part in module.modules() for kind in type(part).__mro__)
    functions = [f for kind in kinds for f in vars(kind).values() if isinstance(f, FunctionType) and f.__module__]
    packages = {f.__module__.partition(".")[0] for f in functions} - NOT_OF_USERS
    files = [f.__globals__ for f in functions if f.__module__.partition(".")[0] in packages]
    files += [file.__dict__ for name, file in [*sys.modules.items()] if name.partition(".")[0] in packages]
    patched = [names for names in {id(names): names for names in files}.values() if "len" not in names]
    for names in patched:
        names["len"] = _length
    try:
        yield
    finally:
        for names in patched:
            del names["len"]


def _length(value: Any) -> Any:
    size = value.shape[0] if isinstance(value, Tensor) and value.dim() else None
    return size if isinstance(size, torch.SymInt) else len(value)
