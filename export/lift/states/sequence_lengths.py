"""Removes the sequence lengths that a model takes: in a stream every row has all frames."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.layers.bare_layers import Wrapped
from rnn_export.export.lift.model.call.length_arguments import Lengths, WithLengths
from rnn_export.export.lift.model.call.output_parts import OutputRef, result_parts
from rnn_export.export.lift.model.script.script_modules import signature_of

# What an argument that holds lengths has in its name.
NAMED = "len"
WHOLE = (torch.int64, torch.int32)


def bind_lengths(call: Wrapped, states: Collection[str]) -> Wrapped:
    """`call` without the arguments that hold sequence lengths; these follow from the input shapes."""
    try:
        signature = signature_of(call.model)
        given = {name: _in_tensor(v) for name, v in signature.bind_partial(*call.example).arguments.items()}
    except (TypeError, ValueError):  # what is wrong with the example is said where it is bound
        return call
    named = [name for name in given if NAMED in name.lower()] or _names_of_packed(call, given)
    found = {n: lengths for n in named if n not in states and (lengths := _lengths(n, given)) is not None}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if not found or any(signature.parameters[name].kind not in by_name for name in given):
        return call
    if not all(any(given[name] is x for x in call.example) for name in found) and _results(call, given) is None:
        return call
    left = [p for name, p in signature.parameters.items() if name not in found]
    dropped = _that_follow(call, given, found)
    model = WithLengths(call.model, found, dropped, signature.replace(parameters=left))
    bound = model.signature.bind_partial()
    bound.arguments.update({name: value for name, value in given.items() if name not in found})
    return call if bound.kwargs else replace(call, model=model, example=bound.args)


def _in_tensor(value: Any) -> Any:
    """Whole numbers in a list as a tensor, which most code takes as well and which may have any length."""
    is_list = isinstance(value, list | tuple) and bool(value) and all(type(n) is int for n in value)
    return torch.tensor(value) if is_list else value


def _results(call: Wrapped, arguments: Mapping[str, Any]) -> dict[OutputRef, Any] | None:
    """The results of a copy of the model; None if it fails, which is reported at the next call."""
    try:
        with torch.no_grad():
            return result_parts(copy.deepcopy(call.model)(**copy.deepcopy(dict(arguments))))
    except Exception:  # the user's code may raise anything
        return None


class _Packs(SeesOperators):
    """Records the lengths of packed rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[Tensor] = []

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func is aten._pack_padded_sequence.default:
            self.lengths.append(args[1].clone())
        return func(*args, **kwargs)


def _names_of_packed(call: Wrapped, given: Mapping[str, Any]) -> list[str]:
    """The one argument, of any name, that holds the lengths of packed rows; empty if not known."""
    may_be = {n: v for n, v in given.items() if isinstance(v, Tensor) and v.dim() == 1 and v.dtype in WHOLE}
    packs = _Packs()
    if may_be:
        with packs:
            _results(call, given)
    found = [n for n, v in may_be.items() if any(torch.equal(v.long(), lengths.long()) for lengths in packs.lengths)]
    return found if len(found) == 1 else []


def _lengths(name: str, given: Mapping[str, Any]) -> Lengths | None:
    """The lengths in `given[name]`, if they are those of an input before it."""
    value = given[name]
    if not isinstance(value, Tensor) or value.dim() != 1 or not len(value):
        return None
    if bool((value != value[0]).any()):
        return None
    for other, x in given.items():
        if other == name:
            return None
        if not isinstance(x, Tensor) or x.dim() < 2 or len(value) not in x.shape[:2]:
            continue
        if x.shape[0] == x.shape[1]:  # which of them is the batch, nothing says
            return None
        batch = list(x.shape).index(len(value))
        if value.is_floating_point():
            return Lengths(other, batch, None, value.dtype) if float(value[0]) == 1 else None
        times = [axis for axis, size in enumerate(x.shape) if axis != batch and size == int(value[0])]
        if value.dtype in WHOLE and len(times) == 1:
            return Lengths(other, batch, times[0], value.dtype)
    return None


def _that_follow(call: Wrapped, given: Mapping[str, Any], found: Mapping[str, Lengths]) -> frozenset[OutputRef]:
    """The results that are lengths: whole numbers, one for each row, the same for other values of inputs."""
    rows = {len(given[name]) for name in found}

    other = {
        name: torch.randn_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }
    runs = (given, {**other, **{name: given[name] for name in found}})
    first, second = (
        {key: v for key, v in (_results(call, arguments) or {}).items() if _are_lengths(v, rows)} for arguments in runs
    )
    return frozenset(key for key, value in first.items() if key in second and torch.equal(value, second[key]))


def _are_lengths(value: Any, rows: Collection[int]) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1 and value.dtype in WHOLE and len(value) in rows
