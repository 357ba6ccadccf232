"""The frame indices as one operator, which stands in a graph until each stream counts them."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("rnn_export::frame_numbers", mutates_args=())
def frame_numbers(rows: int, frames: int) -> Tensor:
    """The frame indices 0, 1, 2, ... of each row: int64, (rows, frames)."""
    return torch.arange(frames).expand(rows, frames).contiguous()
