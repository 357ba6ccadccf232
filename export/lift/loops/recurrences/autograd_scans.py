"""torch.autograd functions that compute a linear recurrence in parallel, recognised by trying them.

Doubling code has steps of powers of two that depend on the length, so no graph of any length holds it. A call shows the
result: on random factors and values, quiet and loud, at several lengths, it equals the recurrence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from rnn_export.export.lift.ir.compare import BRANCH_TOLERANCE, same
from rnn_export.export.lift.loops.recurrences.linear_recurrences import SCALES, recurrence

# Powers of two and others, as doubling code takes other ways at each.
LENGTHS = (1, 2, 3, 4, 5, 8, 12, 16, 17, 33)


@dataclass(frozen=True)
class Recognised:
    """A function of two tensors that is the recurrence along `dim`; the factors come first, or the values."""

    function: type[Function]
    dim: int
    factors_first: bool

    def forward(self, ctx: Any, *args: Any) -> Tensor:
        a, x = args[:2] if self.factors_first else args[1::-1]
        result: Tensor = recurrence(a, x, self.dim)
        return result


@contextlib.contextmanager
def parallel_functions(call: Callable[[], Any]) -> Iterator[None]:
    """Replace the functions that `call` uses, and that are linear recurrences, by operators in the block."""
    found = [r for function, args in _used(call) if (r := _recognised(function, args)) is not None]
    before = {r.function: r.function.__dict__["forward"] for r in found}
    try:
        for r in found:
            r.function.forward = staticmethod(r.forward)  # type: ignore[method-assign]
        yield
    finally:
        for function, forward in before.items():
            function.forward = forward  # type: ignore[method-assign]


def _used(call: Callable[[], Any]) -> list[tuple[type[Function], Sequence[Any]]]:
    """The functions that are called with two tensors of one shape, and their arguments."""
    used: dict[type[Function], Sequence[Any]] = {}
    own = [f for f in _subclasses(Function) if "forward" in vars(f) and not f.__module__.startswith("torch.")]
    before = {function: vars(function)["forward"] for function in own}

    def seen(function: type[Function], forward: Any) -> Any:
        def look(ctx: Any, *args: Any) -> Any:
            if len(args) > 1 and all(isinstance(a, Tensor) for a in args[:2]) and args[0].shape == args[1].shape:
                used.setdefault(function, args)
            return forward.__func__(ctx, *args)

        return staticmethod(look)

    try:
        for function, forward in before.items():
            if isinstance(forward, staticmethod):
                function.forward = seen(function, forward)  # type: ignore[method-assign]
        with torch.no_grad(), contextlib.suppress(Exception):  # what fails here fails again where it counts
            call()
    finally:
        for function, forward in before.items():
            function.forward = forward  # type: ignore[method-assign]
    return list(used.items())


def _subclasses(kind: type[Function]) -> Iterator[type[Function]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _subclasses(inner)


def _recognised(function: type[Function], args: Sequence[Any]) -> Recognised | None:
    """The recurrence that a function is at every length tried, if it is one."""
    for dim in range(args[0].dim()):
        for factors_first in (True, False):
            found = Recognised(function, dim, factors_first)
            if all(_agrees(found, args, length, scale) for length in LENGTHS for scale in SCALES):
                return found
    return None


def _agrees(found: Recognised, args: Sequence[Any], length: int, scale: float) -> bool:
    draws = torch.Generator().manual_seed(length)
    sizes = [length if axis == found.dim else n for axis, n in enumerate(args[0].shape)]
    a, x = 1.5 * torch.rand(sizes, generator=draws), scale * torch.randn(sizes, generator=draws)
    given = [a, x] if found.factors_first else [x, a]
    try:
        with torch.no_grad():
            got: Any = found.function.apply(*(t.clone() for t in given), *args[2:])  # type: ignore[no-untyped-call]
            return isinstance(got, Tensor) and same(got, recurrence(a, x, found.dim), BRANCH_TOLERANCE)
    except Exception:  # a length or an axis that it does not take
        return False
