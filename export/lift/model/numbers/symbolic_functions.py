"""Replaces functions that specialize the sizes they are given by functions that keep them symbolic."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rnn_export.export.lift.model.numbers.symbolic_gradient import gradient


def _max_pool1d(
    input: Tensor,  # noqa: A002 - the name that a caller may use
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """max_pool1d by max_pool2d of one row: torch's own specializes the length of the input."""
    if return_indices:
        return torch.max_pool1d_with_indices(input, kernel_size, stride or (), padding, dilation, ceil_mode)
    size, step, before, dilation_size = (_one(v) for v in (kernel_size, stride, padding, dilation))
    step = size if step is None else step
    pooled = torch.max_pool2d(input.unsqueeze(-2), (1, size), (1, step), (0, before), (1, dilation_size), ceil_mode)
    return pooled.squeeze(-2)


def _one(value: Any) -> Any:
    """The item of a list of one, None for an empty list."""
    if not isinstance(value, list | tuple):
        return value
    return value[0] if value else None


# The attribute of a tensor whose entries are all one size, or a number made of one: that number, which stays free.
NUMBER = "_rnn_export_number"
SYMBOLS = (torch.SymInt, torch.SymFloat)
OF_NUMBERS = {torch.as_tensor, torch.tensor, torch.scalar_tensor}
WHOLE = {torch.int64, torch.int32}
ROUNDED: Mapping[Any, Callable[[Any], Any]] = {
    torch.ceil: math.ceil, Tensor.ceil: math.ceil, torch.floor: math.floor, Tensor.floor: math.floor,
    Tensor.long: torch.sym_int, Tensor.int: torch.sym_int,
}  # fmt: skip
# What is reckoned of numbers alone is a number.
ON_INTEGERS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "neg", "lt", "le", "gt", "ge")},
    "div": operator.truediv, "truediv": operator.truediv, "true_divide": operator.truediv,
    "rsub": lambda a, b: b - a, "rdiv": lambda a, b: b / a, "rtruediv": lambda a, b: b / a,
    "rfloordiv": lambda a, b: b // a, "floor_divide": operator.floordiv, "radd": operator.add, "rmul": operator.mul,
    "maximum": torch.sym_max, "minimum": torch.sym_min,
}  # fmt: skip
# Where all entries are one number, these give it, or more of it.
KEEP = ("max", "min", "amax", "amin", "clone", "detach", "contiguous", "cpu", "unsqueeze", "to", "float")
INSTEAD: Mapping[Any, Callable[..., Any]] = {
    torch.max_pool1d: _max_pool1d, F.max_pool1d: _max_pool1d, torch.gradient: gradient
}  # fmt: skip


class FreeSizes(TorchFunctionMode):
    """Keeps sizes symbolic while a module is exported; integers in `constants`, its unchanged buffers, are known."""

    def __init__(self, constants: Constants | None = None) -> None:
        super().__init__()
        self._constants = constants

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in OF_NUMBERS and isinstance(args[0], SYMBOLS):
            return _tensor_of(*args, **kwargs)
        if func is torch.full and len(args) > 1 and isinstance(args[1], SYMBOLS):
            filled = func(*args, **kwargs)
            setattr(filled, NUMBER, args[1])
            return filled
        number = getattr(args[0], NUMBER, None) if args else None
        if number is not None and func in (Tensor.item, Tensor.__bool__):
            return bool(number) if func is Tensor.__bool__ else number
        if func is F.pad:
            args = (args[0], self._as_numbers(args[1]), *args[2:]) if len(args) > 1 else args
            kwargs = {name: self._as_numbers(value) if name == "pad" else value for name, value in kwargs.items()}
        if func is Tensor.__getitem__:
            args = (args[0], _with_numbers(args[1]))
        if not kwargs and any(isinstance(a, SYMBOLS) or self._stands_for_one(a) for a in args[:2]):
            computed = ON_INTEGERS.get(getattr(func, "__name__", "").removeprefix("__").removesuffix("__"))
            if computed is not None:
                return self._computed(func, computed, args)
        result = INSTEAD.get(func, func)(*args, **kwargs)
        if number is not None:
            _keep_number(func, args, kwargs, number, result)
        return result

    def _computed(self, func: Any, computed: Callable[..., Any], args: Sequence[Any]) -> Any:
        """The result of `func`, marked with its number, which stays symbolic."""
        result, numbers = func(*args), [self._number(a) for a in args]
        if None not in numbers and isinstance(result, Tensor) and result.dim() == 0:
            setattr(result, NUMBER, computed(*numbers))
        return result

    def _stands_for_one(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() == 0 and self._number(value) is not None

    def _number(self, value: Any) -> Any:
        """The number that `value` stands for, or None."""
        if not isinstance(value, Tensor):
            return value if isinstance(value, int | float | torch.SymInt | torch.SymFloat) else None
        number = getattr(value, NUMBER, None)
        return self._constants.of(value) if number is None and self._constants is not None else number

    def _as_numbers(self, values: Any) -> Any:
        numbers = [self._number(value) for value in values] if isinstance(values, tuple | list) else [None]
        return values if None in numbers else type(values)(numbers)


class Constants:
    """The integers in the buffers of a module, without those that `changed(module, name)` is true for."""

    def __init__(self, module: nn.Module, changed: Callable[[nn.Module, str], bool]) -> None:
        buffers = ((m, name, t) for m in module.modules() for name, t in m._buffers.items() if t is not None)
        self._known = [
            (m, name, int(t)) for m, name, t in buffers if not t.dim() and t.dtype in WHOLE and not changed(m, name)
        ]

    def of(self, tensor: Tensor) -> int | None:
        """The number that `tensor` stands for while its module is exported; None if it is no such buffer."""
        return next((value for m, name, value in self._known if m._buffers.get(name) is tensor), None)


def _tensor_of(number: Any, dtype: torch.dtype | None = None, device: Any = None, **_: Any) -> Tensor:
    """The tensor of a number, which torch itself would specialize."""
    dtype = dtype or (torch.int64 if isinstance(number, torch.SymInt) else torch.get_default_dtype())
    made = torch.scalar_tensor(number, dtype=dtype, device=device)
    setattr(made, NUMBER, number)
    return made


def _keep_number(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], number: Any, result: Any) -> None:
    """Keep the number of a result that rounds or repeats it; drop that of a tensor written to."""
    rounded = ROUNDED.get(func)
    if func is Tensor.to and not WHOLE.isdisjoint(n for n in (*args[1:], *kwargs.values()) if type(n) is torch.dtype):
        rounded = torch.sym_int
    name = getattr(func, "__name__", "")
    if rounded is not None:
        setattr(result, NUMBER, rounded(number))
    elif name in KEEP and isinstance(result, Tensor):
        setattr(result, NUMBER, number)
    elif name.startswith("__i") or (name.endswith("_") and not name.endswith("__")):
        delattr(args[0], NUMBER)


def _with_numbers(index: Any) -> Any:
    """`index` with the numbers that its tensors stand for."""
    if isinstance(index, tuple):
        return tuple(map(_with_numbers, index))
    if isinstance(index, slice):
        return slice(_with_numbers(index.start), _with_numbers(index.stop), _with_numbers(index.step))
    return getattr(index, NUMBER, index) if isinstance(index, Tensor) and index.dim() == 0 else index
