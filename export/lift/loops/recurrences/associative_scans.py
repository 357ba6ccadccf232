"""Associative scans as loops over frames, which lifting folds like a model's own.

These are torch's, and functions of that name after jax's, which are recognised by trying them.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops import associative_scan
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.compare import BRANCH_TOLERANCE, same
from rnn_export.export.lift.loops.recurrences.linear_recurrences import LOUD, recurrence

NAME = "associative_scan"
Scan = Callable[..., list[Tensor]]


@contextlib.contextmanager
def sequential_scans(call: Callable[[], Any]) -> Iterator[None]:
    """Let associative scans, torch's and those that `call` uses, combine one frame after the other in the block."""
    # The package has a function of its module's name.
    module = associative_scan.__globals__
    before = module["generic_associative_scan"]
    found = _used(call)
    try:
        module["generic_associative_scan"] = _sequential
        with _in_place_of(found):
            yield
    finally:
        module["generic_associative_scan"] = before


def _used(call: Callable[[], Any]) -> dict[FunctionType, Scan]:
    """Functions `associative_scan(operator, elements, ...)` that `call` uses, and their loop forms."""
    found: dict[FunctionType, Scan] = {}

    def seen(function: FunctionType) -> Callable[..., Any]:
        def look(operator: Any, elements: Any, *args: Any, **kwargs: Any) -> Any:
            # Of a function that calls itself, few frames tell little.
            with _in_place_of({look: function}):
                result = function(operator, elements, *args, **kwargs)
            if function in found and _agrees(result, operator, elements, found[function]):
                return result
            dims = (dim for dim in range(min(t.dim() for t in elements)) if elements[0].shape[dim] > 2)
            scans = (scan(dim) for dim in dims for scan in (_recurrence, _fold))
            loud = [[*elements[:i], n * x, *elements[i + 1 :]] for n in LOUD for i, x in enumerate(elements)]

            def holds_on(given: Sequence[Tensor], scan: Scan) -> bool:
                with _in_place_of({look: function}):
                    return _agrees(function(operator, given, *args, **kwargs), operator, given, scan)

            agreeing = (scan for scan in scans if _agrees(result, operator, elements, scan))
            is_it = next((scan for scan in agreeing if all(holds_on(given, scan) for given in loud)), None)
            if is_it is not None:
                found[function] = is_it
            return result

        return look

    own = {f for names in _modules() if isinstance(f := names[NAME], FunctionType) and not _is_torch(f)}
    if own:
        with _in_place_of({f: seen(f) for f in own}), torch.no_grad(), contextlib.suppress(Exception):
            call()  # what fails here fails again where it counts
    return found


def _agrees(result: Any, operator: Any, elements: Sequence[Tensor], scan: Scan) -> bool:
    try:
        return all(same(a, b, BRANCH_TOLERANCE) for a, b in zip(result, scan(operator, elements), strict=True))
    except Exception:  # an axis that the operator does not take
        return False


def _recurrence(dim: int) -> Scan:
    """The running product of factors, and the linear recurrence of factors and values."""

    def scan(operator: Any, elements: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
        factors, values = elements
        return [factors.cumprod(dim), recurrence(factors, values, dim)]

    return scan


def _fold(dim: int) -> Scan:
    def scan(operator: Any, elements: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
        frames = [[t.narrow(dim, i, 1) for t in elements] for i in range(elements[0].shape[dim])]
        carried = [frames[0]]
        for frame in frames[1:]:
            carried.append(list(operator(carried[-1], frame)))
        return [torch.cat(parts, dim) for parts in zip(*carried, strict=True)]

    return scan


def _modules() -> list[dict[str, Any]]:
    return [names for m in [*sys.modules.values()] if NAME in (names := getattr(m, "__dict__", None) or {})]


def _is_torch(function: FunctionType) -> bool:
    return function.__module__.split(".")[0] in ("torch", "rnn_export")


@contextlib.contextmanager
def _in_place_of(others: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """In the block, calls of these functions by name call their replacements."""
    places = [(names, f) for names in _modules() if isinstance(f := names[NAME], FunctionType) and f in others]
    try:
        for names, function in places:
            names[NAME] = others[function]
        yield
    finally:
        for names, function in places:
            names[NAME] = function


def _sequential(operator: Any, leaves: Sequence[Tensor], dim: int = 0, additional_inputs: Any = ()) -> list[Tensor]:
    """The running combination of `leaves` along axis 0; `operator` combines two frames, leaf by leaf."""
    combine = {**operator.keywords}
    # One frame has no axis that `combine_fn` would be mapped over: what torch.vmap holds takes it.
    combine["combine_fn"] = inspect.getclosurevars(combine["combine_fn"]).nonlocals["func"]
    carried = [leaf.select(0, 0) for leaf in leaves]
    frames = [carried]
    for t in range(1, leaves[0].shape[0]):
        carried = pytree.tree_leaves(operator.func(*carried, *(leaf.select(0, t) for leaf in leaves), **combine))
        frames.append(carried)
    return [torch.stack(leaf) for leaf in zip(*frames, strict=True)]
