"""Linear recurrences as operators, which stand for parallel scans that compute the same.

h[t] = factor[t] * h[t - 1] + x[t] along one axis, from h[-1] = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

# By which values are multiplied to see whether what is linear about 1 has a limit.
LOUD = (1e3, 1e6, 1e12)
SCALES = (1.0, *LOUD)


@torch.library.custom_op("rnn_export::recurrence", mutates_args=())
def recurrence(factor: Tensor, x: Tensor, dim: int) -> Tensor:
    """h, in the shape of x and of `factor`, frame after frame along `dim`."""
    h, frames = torch.zeros_like(x.select(dim, 0)), []
    for a, b in zip(factor.unbind(dim), x.unbind(dim), strict=True):
        h = a * h + b
        frames.append(h)
    return torch.stack(frames, dim)


@torch.library.custom_op("rnn_export::log_recurrence", mutates_args=())
def log_recurrence(log_factor: Tensor, log_x: Tensor, dim: int) -> Tensor:
    """log(h) of log(factor) and log(x), for values that a float cannot hold."""
    h, frames = torch.full_like(log_x.select(dim, 0), -torch.inf), []
    for a, b in zip(log_factor.unbind(dim), log_x.unbind(dim), strict=True):
        h = torch.logaddexp(h + a, b)
        frames.append(h)
    return torch.stack(frames, dim)


for _op in (recurrence, log_recurrence):
    _op.register_fake(lambda factor, x, dim: torch.empty_like(x))
