"""Keeps sizes symbolic if the user's code rounds them: `int(math.ceil(length / stride))`."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rnn_export.export.lift.ir.source_location import is_foreign


class _OfNumbers(type):
    """The metaclass of a stand-in for `int`: its calls and type checks."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], torch.SymInt | torch.SymFloat | torch.SymBool):
            return torch.sym_int(args[0])  # type: ignore[no-untyped-call]
        return builtins.int(*args, **kwargs)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, builtins.int)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, builtins.int)


class _Int(builtins.int, metaclass=_OfNumbers):
    """`int` that keeps a symbol."""


@contextlib.contextmanager
def sizes_stay_symbols(module: nn.Module) -> Iterator[None]:
    """Replace `int` in the files of the classes of `module`, and in all others of their packages."""
    files = {sys.modules.get(type(m).__module__) for m in module.modules()}
    own = [f for f in files if f is not None and not is_foreign(getattr(f, "__file__", None) or "")]
    roots = {f.__name__.partition(".")[0] for f in own} - {"__main__"}
    inside = [f for name, f in [*sys.modules.items()] if name.partition(".")[0] in roots and f is not None]
    changed = [vars(f) for f in {id(f): f for f in (*own, *inside)}.values() if "int" not in vars(f)]
    try:
        for names in changed:
            names["int"] = _Int
        yield
    finally:
        for names in changed:
            names.pop("int", None)
