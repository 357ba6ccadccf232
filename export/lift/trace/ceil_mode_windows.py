"""The number of windows of a pool with `ceil_mode`, by its length alone.

The last window may be incomplete, but begins no later than the last entry. torch asks at each length whether it does,
so that an export would hold for some lengths only. Source: the docstring of torch.nn.MaxPool1d.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import _meta_registrations as registrations


@contextlib.contextmanager
def counted_last_windows() -> Iterator[None]:
    """Patch torch's count for an export; values are the same."""
    own: Any = registrations.pooling_output_shape_pad_lr

    def windows(size: Any, kernel: Any, left: Any, right: Any, stride: Any, dilation: Any, ceil_mode: bool) -> Any:
        numbers = (kernel, left, right, stride, dilation)
        if not ceil_mode or not all(type(n) is int for n in numbers):
            return own(size, *numbers, ceil_mode)
        behind = right - dilation * (kernel - 1) - 1 + stride
        return (size + left + min(behind, 0) + stride - 1) // stride

    registrations.pooling_output_shape_pad_lr = windows
    try:
        yield
    finally:
        registrations.pooling_output_shape_pad_lr = own
