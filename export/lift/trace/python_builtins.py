"""The answers that traced code gets: `min`, `max` and `len` as operators of the graph, and no word of the trace."""

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
from torch._dynamo import external_utils
from torch.fx._symbolic_trace import is_fx_tracing

from rnn_export.export.lift.ir.symbolic_integers import is_by_value
from rnn_export.export.lift.trace.monkeypatch import as_it_is, standing_in

NOT_OF_USERS = {"torch", "rnn_export", *sys.stdlib_module_names}
# Functions that say whether code is traced.
TELLING: Any = (
    torch.compiler.is_compiling,
    torch.compiler.is_exporting,
    torch._utils.is_compiling,
    external_utils.is_compiling,
    is_fx_tracing,
)


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


@contextlib.contextmanager
def traced_as_called() -> Iterator[None]:
    """Let code of users be told that nobody traces it: a stream computes what their own call does."""
    with standing_in({function: _untold(as_it_is(function)) for function in TELLING}):
        yield


def _untold(own: FunctionType) -> Callable[[], bool]:
    def answer() -> bool:
        # Behind this function stands the one in whose place it is.
        asking = str(sys._getframe(2).f_globals.get("__name__"))
        return own() if asking.partition(".")[0] in ("torch", "rnn_export") else False

    return answer
