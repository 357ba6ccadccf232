"""States that begin empty or left out and grow up to a limit: `torch.cat([cache, k], 1)[:, -W:]`."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.compare import START, same
from rnn_export.export.lift.layers.bare_layers import Wrapped
from rnn_export.export.lift.model.call.cache_capacity import Filling, Fills
from rnn_export.export.lift.model.call.output_parts import OutputRef, is_ordered, key_of, result_parts
from rnn_export.export.lift.model.script.script_modules import given_by_name

# Calls, and seconds, in which what fills up is to be full, and calls that show that it is.
CALLS, SECONDS, STEADY = 4200, 30.0, 8
BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def with_capacity(call: Wrapped, states: Mapping[str, OutputRef]) -> tuple[Wrapped, dict[str, OutputRef]]:
    """`call` with the declared `states` that fill up at their full length, and their counts as states."""
    if (bound := given_by_name(call.model, call.example)) is None:
        return call, dict(states)
    signature, given = bound
    empty = [name for name in states if _is_empty(given.get(name)) and name in signature.parameters]
    if not empty or any(p.kind not in BY_NAME for p in signature.parameters.values()):
        return call, dict(states)
    try:
        with torch.no_grad():
            fills, full = _filled(call.model, given, {name: states[name] for name in states if name in given or empty})
            fills = {name: fills[name] for name in empty if any(fills[name])}
            if not fills or not _begins_empty(call.model, given, fills, full):
                return call, dict(states)
    except Exception:  # the user's code may raise anything, and says it where it is called next
        return call, dict(states)
    return _with_capacity(call, given, states, fills, full, signature)


def _is_empty(value: Any) -> bool:
    leaves = pytree.tree_leaves(value)
    return value is None or any(isinstance(t, Tensor) and not t.numel() for t in leaves)


def _filled(
    model: nn.Module, given: Mapping[str, Any], states: Mapping[str, OutputRef]
) -> tuple[dict[str, list[Fills | None]], dict[str, Any]]:
    """The growth of each state's tensors, and its value when full; no growth if there is no limit."""
    called, held, shapes = copy.deepcopy(model), dict(given), list[Any]()
    before = {n: _shapes(given.get(n)) if given.get(n) is not None else None for n in states}
    end = time.monotonic() + SECONDS
    for _ in range(CALLS):
        result = called(**copy.deepcopy(held))
        parts = result_parts(result)
        held |= {name: parts[key] for name, ref in states.items() if (key := key_of(result, ref)) is not None}
        shapes.append({name: _shapes(held[name]) for name in states})
        if len(shapes) >= STEADY and all(s == shapes[-1] for s in shapes[-STEADY:]):
            break
        if time.monotonic() > end:
            return {name: [] for name in states}, {}
    else:
        return {name: [] for name in states}, {}
    firsts = {name: before[name] or shapes[0][name] for name in states}
    return _counted({n: _grown([firsts[n], *(s[n] for s in shapes)]) for n in states}), {n: held[n] for n in states}


def _shapes(value: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) if isinstance(t, Tensor) else () for t in pytree.tree_leaves(value)]


def _grown(shapes: Sequence[Sequence[tuple[int, ...]]]) -> list[tuple[int, tuple[int, ...]] | None]:
    """By tensor of a state, the axis along which it grows and its lengths by call; None if it does not."""
    found: list[tuple[int, tuple[int, ...]] | None] = []
    for of_calls in zip(*shapes, strict=True):
        first, last = of_calls[0], of_calls[-1]
        axes = [a for a, (m, n) in enumerate(zip(first, last, strict=False)) if m != n]
        grows = len(first) == len(last) and len(axes) == 1 and first[axes[0]] < last[axes[0]]
        found.append((axes[0], tuple(shape[axes[0]] for shape in of_calls)) if grows else None)
    return found


def _counted(
    grown: Mapping[str, Sequence[tuple[int, tuple[int, ...]] | None]],
) -> dict[str, list[Fills | None]]:
    """Each with the name of its count, shared by tensors of equal length at every call."""
    counts: dict[tuple[int, ...], str] = {}
    for name, tensors in grown.items():
        own = [lengths for _, lengths in filter(None, tensors) if lengths not in counts]
        for i, lengths in enumerate(dict.fromkeys(own)):
            counts[lengths] = f"{name}_count_{i}" if i else f"{name}_count"
    return {
        name: [None if t is None else Fills(t[0], t[1][-1], counts[t[1]]) for t in tensors]
        for name, tensors in grown.items()
    }


def _begins_empty(
    model: nn.Module, given: Mapping[str, Any], fills: Mapping[str, Sequence[Fills | None]], full: Mapping[str, Any]
) -> bool:
    """True if the model gives for states without entries what it gives for those at first."""
    empty = {n: _mapped(full[n], given.get(n), fills[n], lambda t, f: t.narrow(f.axis, 0, 0)) for n in fills}
    first, second = (copy.deepcopy(model)(**copy.deepcopy({**given, **more})) for more in ({}, empty))
    a, b = pytree.tree_leaves(first), pytree.tree_leaves(second)
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and same(a, b, START)
    return type(a) is type(b) and bool(a == b)


def _mapped(value: Any, given: Any, fills: Sequence[Fills | None], of: Any) -> Any:
    """`value` with `of` on tensors that fill up, zeros for others, and `given` or 0 for parts of no tensor."""
    leaves, tree = pytree.tree_flatten(value)
    firsts = pytree.tree_leaves(given)
    firsts = firsts if len(firsts) == len(leaves) else [None if isinstance(t, Tensor) else type(t)(0) for t in leaves]
    parts = [
        first if not isinstance(t, Tensor) else torch.zeros_like(t) if f is None else of(t, f)
        for t, first, f in zip(leaves, firsts, fills, strict=True)
    ]
    return pytree.tree_unflatten(parts, tree)


def _with_capacity(
    call: Wrapped,
    given: Mapping[str, Any],
    states: Mapping[str, OutputRef],
    fills: Mapping[str, Sequence[Fills | None]],
    full: Mapping[str, Any],
    signature: inspect.Signature,
) -> tuple[Wrapped, dict[str, OutputRef]]:
    model = Filling(call.model, {name: states[name] for name in fills}, fills, signature)
    example = {name: value for name, value in given.items() if name not in fills}
    example |= {n: _mapped(full[n], given.get(n), fills[n], lambda t, f: torch.zeros_like(t)) for n in fills}
    example |= {count: torch.zeros(1, dtype=torch.int64) for count in model.counts}
    with torch.no_grad():
        result = copy.deepcopy(model)(**copy.deepcopy(example))
    more: dict[str, OutputRef] = {count: count for count in model.counts}
    if is_ordered(result):
        more = {count: len(result) - len(more) + i for i, count in enumerate(more)}
        states = {
            name: ref % (len(result) - len(more)) if isinstance(ref, int) else ref for name, ref in states.items()
        }
    bound = model.signature.bind_partial()
    bound.arguments.update(example)
    return Wrapped(model, bound.args, call.states, call.input_names), {**states, **more}
