"""Functions that make numbers of the sizes that they are given, as others that leave them free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


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


INSTEAD: Mapping[Any, Callable[..., Any]] = {torch.max_pool1d: _max_pool1d, F.max_pool1d: _max_pool1d}


class FreeSizes(TorchFunctionMode):
    """While a module is exported."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return INSTEAD.get(func, func)(*args, **(kwargs or {}))
