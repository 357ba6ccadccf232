"""Functions that make numbers of the sizes that they are given, as others that leave them free."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


def _max_pool1d(
    input: Tensor,  # noqa: A002 - the name that a caller may use
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Over rows of one entry: torch's own asks for the length of the input as a number."""
    if return_indices:
        return torch.max_pool1d_with_indices(input, kernel_size, stride or (), padding, dilation, ceil_mode)
    size, step, before, apart = (_one(v) for v in (kernel_size, stride, padding, dilation))
    step = size if step is None else step
    pooled = torch.max_pool2d(input.unsqueeze(-2), (1, size), (1, step), (0, before), (1, apart), ceil_mode)
    return pooled.squeeze(-2)


def _one(value: Any) -> Any:
    """The number of a list of one, None of none."""
    if not isinstance(value, list | tuple):
        return value
    return value[0] if value else None


class SizeTensor:
    """What `torch.as_tensor` makes of a size or of a number computed from one: of no axes, and free."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented  # it makes torch's functions take one; FreeSizes calls them

    def item(self) -> Any:
        return self.value

    def tensor(self) -> Tensor:
        """What torch makes of it, for all that does more than round."""
        return torch.scalar_tensor(self.value, dtype=torch.int64 if isinstance(self.value, torch.SymInt) else None)

    def whole(self, *_: Any, **__: Any) -> SizeTensor:
        return SizeTensor(torch.sym_int(self.value))  # type: ignore[no-untyped-call]

    long = int = whole

    def ceil(self) -> SizeTensor:
        return SizeTensor(math.ceil(self.value))

    def floor(self) -> SizeTensor:
        return SizeTensor(math.floor(self.value))


SYMBOLS = (torch.SymInt, torch.SymFloat)
OF_NUMBERS = {torch.as_tensor, torch.tensor, torch.scalar_tensor}
ROUNDED: Mapping[Any, Callable[[SizeTensor], SizeTensor]] = {
    torch.ceil: SizeTensor.ceil, torch.floor: SizeTensor.floor,
}  # fmt: skip
INSTEAD: Mapping[Any, Callable[..., Any]] = {torch.max_pool1d: _max_pool1d, F.max_pool1d: _max_pool1d}


class FreeSizes(TorchFunctionMode):
    """While a module is exported."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OF_NUMBERS and isinstance(args[0], SYMBOLS):
            return SizeTensor(args[0])
        if func in ROUNDED and isinstance(args[0], SizeTensor):
            return ROUNDED[func](args[0])
        if func is Tensor.__getitem__:
            args = (args[0], _with_sizes(args[1]))
        args, kwargs = pytree.tree_map_only(SizeTensor, SizeTensor.tensor, (args, kwargs))
        return INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _with_sizes(index: Any) -> Any:
    """`index` with the sizes that it is made of."""
    if isinstance(index, tuple):
        return tuple(map(_with_sizes, index))
    if isinstance(index, slice):
        return slice(_with_sizes(index.start), _with_sizes(index.stop), _with_sizes(index.step))
    return index.value if isinstance(index, SizeTensor) else index
