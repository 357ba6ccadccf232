"""Modes that see every operator of a run, those in `scan` and `while_loop` too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode


def _scan(
    combine: Callable[..., Sequence[Tensor]],
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    others: Sequence[Tensor] = (),
) -> list[Tensor]:
    """(carried..., frames of axis 0..., others...) -> (carried..., values...), one by one; the values are stacked."""
    carried, values = list(init), []
    for frames in zip(*xs, strict=True):
        results = combine(*carried, *frames, *others)
        carried = list(results[: len(init)])
        values.append(results[len(init) :])
    return [*carried, *(torch.stack(frames) for frames in zip(*values, strict=True))]


def _while_loop(
    holds: Callable[..., Tensor],
    body: Callable[..., Sequence[Tensor]],
    init: Sequence[Tensor],
    others: Sequence[Any] = (),
) -> tuple[Tensor, ...]:
    carried = tuple(init)
    while holds(*carried, *others):
        carried = tuple(body(*carried, *others))
    return carried


LOOPS: Mapping[str, Callable[..., Sequence[Any]]] = {"scan": _scan, "while_loop": _while_loop}


class SeesOperators(TorchDispatchMode):
    """Calls `see(operator, args, kwargs)`, which runs it, for each operator; a loop runs in Python."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not isinstance(func, HigherOrderOperator):
            return self.see(func, args, kwargs or {})
        run = LOOPS.get(str(func))
        if run is None:
            return func(*args, **(kwargs or {}))
        with self:
            return run(*args, **(kwargs or {}))


class CountsOperators(SeesOperators):
    """Counts the operators called within, as `calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: int = 0

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.calls += 1
        return func(*args, **kwargs)
