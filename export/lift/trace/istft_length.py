"""`torch.istft` with a length, as one operator: torch's own specializes the length of a sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("rnn_export::istft", mutates_args=())
def istft_to_length(
    self: Tensor,
    n_fft: int,
    hop_length: int,
    win_length: int,
    window: Tensor,
    center: bool,
    normalized: bool,
    onesided: bool | None,
    length: int,
    return_complex: bool,
) -> Tensor:
    """A spectrum (..., F, T) as a signal (..., length): `torch.istft` of these arguments."""
    return torch.istft(
        self, n_fft, hop_length, win_length, window, center, normalized, onesided, length, return_complex
    ).clone()


@istft_to_length.register_fake
def _shape(self: Tensor, n_fft: int, hop_length: int, win_length: int, window: Tensor, *others: Any) -> Tensor:
    *_, length, return_complex = others
    dtype = self.dtype if return_complex else self.dtype.to_real()
    return self.new_empty((*self.shape[:-2], length), dtype=dtype)


def signal_of(
    input: Tensor,  # noqa: A002 - the name that a caller may use
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: Any = None,
    return_complex: bool = False,
) -> Tensor:
    """`torch.istft` that keeps a symbolic `length`."""
    if not isinstance(length, torch.SymInt):
        return torch.istft(
            input, n_fft, hop_length, win_length, window, center, normalized, onesided, length, return_complex
        )
    size = win_length or n_fft
    held = torch.ones(size, device=input.device) if window is None else window
    result: Tensor = torch.ops.rnn_export.istft(
        input, n_fft, hop_length or n_fft // 4, size, held, center, normalized, onesided, length, return_complex
    )
    return result
