"""Indexing by an integer in a tensor, `buf[:, self.i] = x`, as operators of a graph.

Torch asks for the value of the integer, which no graph knows: here a read is a gather, and a write selects the entry
whose index equals it. Tensors made of such integers, `torch.tensor([self.i])`, are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rnn_export.export.lift.ir.source_location import at_line, user_line
from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.model.numbers.constant_tensors import OF_SIZES, VALUE
from rnn_export.export.lift.model.numbers.int_provenance import ComputedInt, is_one, provenance
from rnn_export.export.lift.model.numbers.symbolic_functions import NUMBER

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)


ENTRIES = (Tensor.__getitem__, Tensor.__setitem__)
# What a number picks: how it was reckoned, of how many entries, and where in the user's code.
Pick = tuple[Any, int, str]


class TensorNumbers(TorchFunctionMode):
    """Rewrites indexing by tensors during an export, and notes `picks`; known numbers are left to other modes.

    Tensors of lists are rewritten at other times too: torch reads their numbers without an operator to be seen.
    """

    def __init__(self, picks: list[Pick]) -> None:
        super().__init__()
        self._picks = picks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in CONSTRUCTORS:
            return CONSTRUCTORS[func](func, *args, **kwargs)
        instead = INSTEAD.get(func) if torch.compiler.is_exporting() else None
        if instead is None or kwargs:
            return func(*args, **kwargs)
        indexed = _indexed(args[0], args[1]) if func in ENTRIES else None
        if indexed is not None and isinstance(size := args[0].shape[indexed.axis], int):
            self._picks.append((indexed.how, size, at_line(*user_line())))
        return instead(func, *args)


def is_number(value: Any, axes: int = 0) -> bool:
    """True if a value is one integer in a tensor of rank `axes`, of which nothing else is known."""
    if not isinstance(value, Tensor) or value.dim() != axes or value.dtype not in WHOLE or not is_one(value):
        return False
    return not any(hasattr(value, known) for known in (NUMBER, VALUE, OF_SIZES))


def one_entry(part: Any) -> Tensor | None:
    """The start of a slice of one entry, `n : n + 1`, if it is a tensor; else None."""
    if not isinstance(part, slice) or part.step not in (None, 1) or not is_number(part.start):
        return None
    how, end = provenance(part.start), provenance(part.stop)
    if how is None or not isinstance(end, ComputedInt) or end.args not in ((how, 1), (1, how)):
        return None
    return part.start if getattr(end.function, "__name__", "") in ("__add__", "__radd__", "add") else None


def _get(func: Any, value: Tensor, index: Any) -> Any:
    indexed = _indexed(value, index)
    return (
        func(value, index)
        if indexed is None
        else _get(func, value.index_select(indexed.axis, indexed.at), indexed.rest)
    )


def _set(func: Any, value: Tensor, index: Any, new: Any) -> None:
    indexed = _indexed(value, index)
    if indexed is None:
        func(value, index, new)
        return
    entry = value.index_select(indexed.axis, indexed.at)
    _set(func, entry, indexed.rest, new)
    numbers = torch.arange(value.shape[indexed.axis]).reshape([-1] + [1] * (value.dim() - indexed.axis - 1))
    value.copy_(torch.where(numbers == indexed.at, entry, value))


class _Indexed:
    """The first tensor in an index: its `axis`, `at` (1,) counted from 0, and `rest`, the index without it."""

    def __init__(self, value: Tensor, index: Sequence[Any], place: int, axis: int) -> None:
        first = one_entry(index[place])
        number = index[place] if first is None else first
        self.axis, self.how = axis, provenance(number)
        self.at = _from_start(number.long(), value.shape[axis]).reshape(1)
        # Of what is picked there is one entry.
        self.rest = (*index[:place], 0 if first is None else slice(None), *index[place + 1 :])


def _indexed(value: Tensor, index: Any) -> _Indexed | None:
    parts = index if isinstance(index, tuple) else (index,)
    place = next((i for i, part in enumerate(parts) if is_number(part) or one_entry(part) is not None), None)
    if place is None:
        return None
    taken = [_axes_taken(part) for part in parts]
    if any(n is None for n in taken):
        return None
    before: list[int] = [n or 0 for n in taken[:place]]
    if any(part is Ellipsis for part in parts[:place]):
        before.append(value.dim() - sum(n or 0 for n in taken))
    return _Indexed(value, parts, place, sum(before))


def _axes_taken(part: Any) -> int | None:
    """The number of axes that a part of an index takes, 0 for an ellipsis; None if unknown."""
    if part is None or part is Ellipsis:
        return 0
    if isinstance(part, Tensor):
        return part.dim() if part.dtype in (torch.bool, torch.uint8) and part.dim() else 1
    return 1 if isinstance(part, int | slice | list | torch.SymInt) and not isinstance(part, bool) else None


def _from_start(number: Tensor, size: Any) -> Tensor:
    """An index that may count from the end, counted from the start."""
    return torch.where(number < 0, number + size, number)


def _roll(func: Any, value: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    if isinstance(shifts, list | tuple) and isinstance(dims, list | tuple):
        for shift, dim in zip(shifts, dims, strict=True):
            value = _roll(func, value, shift, dim)
        return value
    shift, dim = (v[0] if isinstance(v, list | tuple) and len(v) == 1 else v for v in (shifts, dims))
    if not is_number(shift):
        return func(value, shifts) if dims is None else func(value, shifts, dims)  # type: ignore[no-any-return]
    if dim is None:
        return _roll(func, value.flatten(), shift, 0).view(value.shape)
    size = value.shape[dim]
    return value.index_select(dim, (torch.arange(size) - shift.long()) % size)


def _narrow(func: Any, value: Tensor, dim: int, start: Any, length: int) -> Tensor:
    if not is_number(start):
        return func(value, dim, start, length)  # type: ignore[no-any-return]
    return value.index_select(dim, _from_start(start.long(), value.shape[dim]) + torch.arange(length))


def _select(func: Any, value: Tensor, dim: int, index: Any) -> Tensor:
    if not is_number(index):
        return func(value, dim, index)  # type: ignore[no-any-return]
    return value.index_select(dim, _from_start(index.long(), value.shape[dim]).reshape(1)).squeeze(dim)


def _constructed(func: Any, data: Any, **kwargs: Any) -> Tensor:
    """A tensor of lists in which some numbers are tensors: `torch.tensor([n])`."""
    if not isinstance(data, list | tuple) or not leaves_of(data):
        return func(data, **kwargs)  # type: ignore[no-any-return]
    dtype = kwargs.get("dtype")
    made = torch.stack([_constructed(func, part) if isinstance(part, list | tuple) else _as_one(part) for part in data])
    return made if dtype is None else made.to(dtype)


def _as_one(value: Any) -> Tensor:
    return value.reshape(()) if isinstance(value, Tensor) else torch.tensor(value)


def _full(func: Any, size: Any, value: Any, **kwargs: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return func(size, value, **kwargs)  # type: ignore[no-any-return]
    return value.reshape(()).to(kwargs.get("dtype") or value.dtype).expand(size).clone()


def _new_full(func: Any, like: Tensor, size: Any, value: Any, **kwargs: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return func(like, size, value, **kwargs)  # type: ignore[no-any-return]
    return _full(func, size, value, dtype=kwargs.get("dtype") or like.dtype)


def _full_like(func: Any, like: Tensor, value: Any, **kwargs: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return func(like, value, **kwargs)  # type: ignore[no-any-return]
    return _full(func, like.shape, value, dtype=kwargs.get("dtype") or like.dtype)


# What makes a tensor of numbers, among which some may be tensors.
CONSTRUCTORS: Mapping[Any, Callable[..., Tensor]] = {
    torch.tensor: _constructed, torch.as_tensor: _constructed,
    torch.full: _full, Tensor.new_full: _new_full, torch.full_like: _full_like,
}  # fmt: skip
INSTEAD: Mapping[Any, Callable[..., Any]] = {
    Tensor.__getitem__: _get, Tensor.__setitem__: _set, torch.roll: _roll, Tensor.roll: _roll,
    torch.narrow: _narrow, Tensor.narrow: _narrow, torch.select: _select, Tensor.select: _select,
}  # fmt: skip
