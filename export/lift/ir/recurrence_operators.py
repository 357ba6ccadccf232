"""Linear recurrences as operators, which stand for scans and passes over a sequence that compute the same.

Each runs along one axis, `dim`, in the shape of x, and starts from h[-1] = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Values are multiplied by these, to see whether code that is linear in them about 1 has a limit.
LOUD = (1e3, 1e6, 1e12)


def _run(step: Callable[..., Tensor], start: float, factor: Tensor, x: Tensor, dim: int) -> Tensor:
    h, frames = torch.full_like(x.select(dim, 0), start), []
    for a, b in zip(factor.unbind(dim), x.unbind(dim), strict=True):
        h = step(a, h, b)
        frames.append(h)
    return torch.stack(frames, dim)


@torch.library.custom_op("rnn_export::recurrence", mutates_args=())
def recurrence(factor: Tensor, x: Tensor, dim: int) -> Tensor:
    """h[t] = factor[t] * h[t - 1] + x[t]; `factor` has axes of 1 where it is the same for all entries."""
    return _run(lambda a, h, b: a * h + b, 0.0, factor, x, dim)


@torch.library.custom_op("rnn_export::matrix_recurrence", mutates_args=())
def matrix_recurrence(factor: Tensor, x: Tensor, dim: int) -> Tensor:
    """h[t] = factor[t] @ h[t - 1] + x[t], of axes (..., N, N) and (..., N, M)."""
    return _run(lambda a, h, b: a @ h + b, 0.0, factor, x, dim)


@torch.library.custom_op("rnn_export::log_recurrence", mutates_args=())
def log_recurrence(factor: Tensor, x: Tensor, dim: int) -> Tensor:
    """The logarithms of a recurrence from those of its factors and values, which no float may hold."""
    return _run(lambda a, h, b: torch.logaddexp(h + a, b), -torch.inf, factor, x, dim)


LINEAR, MATRIX, LOG_LINEAR = (op._opoverload for op in (recurrence, matrix_recurrence, log_recurrence))
for _op in (recurrence, matrix_recurrence, log_recurrence):
    _op.register_fake(lambda factor, x, dim: torch.empty_like(x))
