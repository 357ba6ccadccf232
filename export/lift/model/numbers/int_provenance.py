"""The provenance of an integer of the model's own: the counters and constants that it is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.numbers.constant_tensors import RANDOM

# The attribute of a tensor that is one number, reckoned of kept ones and constants alone: how.
PROVENANCE = "_rnn_export_reckoned"
WRITES = ("add_", "sub_", "mul_", "remainder_", "fill_", "zero_", "copy_")


@dataclass(frozen=True)
class StateInt:
    """The value of the counter `name` as a call finds it."""

    name: str


@dataclass(frozen=True)
class ComputedInt:
    """The result of a torch function of `args`, of which some are `StateInt` or `ComputedInt`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


def is_one(tensor: Tensor) -> bool:
    """True if a tensor has one entry for all symbolic sizes."""
    return all(type(n) is int and n == 1 for n in tensor.shape)


def provenance(tensor: Any) -> StateInt | ComputedInt | None:
    """The provenance of the one number in `tensor`; None if it depends on anything else, such as an input."""
    return getattr(tensor, PROVENANCE, None) if isinstance(tensor, Tensor) else None


def mark(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], before: Any, result: Any
) -> None:
    """Note the provenance of `result`; `before` is that of the first of `args`, which `function` may write to."""
    name = getattr(function, "__name__", "")
    writes = name in WRITES or (name.startswith("__i") and name not in ("__int__", "__index__", "__invert__"))
    target = args[0] if writes and args else result
    if not isinstance(target, Tensor):
        return
    sides = [before, *args[1:]] if writes else args
    parts = [side if isinstance(side, StateInt | ComputedInt) else _part(side) for side in sides]
    is_known = not kwargs and None not in parts and any(isinstance(p, StateInt | ComputedInt) for p in parts)
    if is_known and is_one(target) and not any(word in name for word in RANDOM):
        setattr(target, PROVENANCE, ComputedInt(function, tuple(parts)))
    elif writes and hasattr(target, PROVENANCE):
        delattr(target, PROVENANCE)


def _part(value: Any) -> Any:
    """A number, or the provenance of a tensor; None for anything else."""
    if isinstance(value, Tensor):
        return provenance(value)
    return value if isinstance(value, int | float) else None


def keep_number(tensor: Tensor, how: Any) -> None:
    """Mark a tensor of one entry as a counter, or as a Python int."""
    if is_one(tensor) and isinstance(how, StateInt | int):
        setattr(tensor, PROVENANCE, int(how) if isinstance(how, int) else how)


def refuse_others(known: Mapping[str, frozenset[Any]], left: Mapping[str, Tensor]) -> None:
    """Raise LiftError if a value in `left` has a provenance other than those `known` for its name."""
    for name, variants in known.items():
        if name in left and provenance(left[name]) not in variants:
            raise LiftError(
                f"{name!r} is counted otherwise in a way of the code that was not met in any call that was tried, so "
                "what it may be is not known: count it in one way, with a rest (% N).",
                id="counted-otherwise",
            )


def states_in(number: Any) -> Iterator[str]:
    """Yield the names of the counters that `number` is computed from."""
    if isinstance(number, StateInt):
        yield number.name
    for part in number.args if isinstance(number, ComputedInt) else ():
        yield from states_in(part)


def value_of(how: Any, known: Mapping[Any, int]) -> int | None:
    """The value of a number for the `known` ones; None if it depends on others too."""
    if how in known:
        return known[how]
    if not isinstance(how, ComputedInt):
        return None
    parts = [value_of(a, known) if isinstance(a, StateInt | ComputedInt) else a for a in how.args]
    return None if None in parts else applied(how, parts)


def applied(how: ComputedInt, parts: Sequence[Any]) -> int:
    """Apply the function of `how` to numbers."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        sides = zip(how.args, parts, strict=True)
        return int(how.function(*(torch.tensor(p) if isinstance(a, StateInt | ComputedInt) else p for a, p in sides)))
