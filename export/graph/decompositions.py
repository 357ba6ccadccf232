"""Operators that ONNX has no form of, or none that every backend has, written by others: a row each.

A row may give NotImplemented for arguments that it has no form for; the operator stays then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rnn_export.export.lift.ir.fx_nodes import aten, overloads


def _running(x: Tensor, dim: int, greatest: bool) -> tuple[Tensor, Tensor]:
    """`torch.cummax`, or `torch.cummin`: each extreme so far, and the last index where it was."""
    entries, before = _to_each(x, dim), _before(x, dim)
    so_far = torch.where(before, entries, _end(x, not greatest))
    values = (so_far.amax(-1) if greatest else so_far.amin(-1)).unsqueeze(-1)
    equal = (entries == values) | ((entries != entries) & (values != values))
    indices = torch.where(equal & before, torch.arange(x.shape[dim]), -1).amax(-1)
    return values.squeeze(-1).movedim(-1, dim), indices.movedim(-1, dim)


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """Each entry by itself: a running sum of exponentials overflows."""
    return torch.where(_before(x, dim), _to_each(x, dim), -torch.inf).logsumexp(-1).movedim(-1, dim)


def _to_each(x: Tensor, dim: int) -> Tensor:
    """(..., 1, N): the entries along `dim`, beside each of them."""
    return x.movedim(dim, -1).unsqueeze(-2)


def _before(x: Tensor, dim: int) -> Tensor:
    """(N, N): True at (n, m) for the entries m up to n."""
    at = torch.arange(x.shape[dim])
    return at <= at.unsqueeze(-1)


def _end(x: Tensor, greatest: bool) -> float:
    """The greatest or the least value of its type."""
    if x.is_floating_point():
        return torch.inf if greatest else -torch.inf
    return torch.iinfo(x.dtype).max if greatest else torch.iinfo(x.dtype).min


def _mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The most frequent value, the smallest of several, and the last index where it is."""
    entries = x.movedim(dim, -1)
    counts = (entries.unsqueeze(-1) == entries.unsqueeze(-2)).sum(-1)
    values = torch.where(counts == counts.amax(-1, keepdim=True), entries, _end(x, greatest=True)).amin(
        -1, keepdim=True
    )
    indices = torch.where(entries == values, torch.arange(x.shape[dim]), -1).amax(-1, keepdim=True)
    found = values.movedim(-1, dim), indices.movedim(-1, dim)
    return found if keepdim else (found[0].squeeze(dim), found[1].squeeze(dim))


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    matrices = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = matrices.shape[-2:]
    count = min(rows + min(offset, 0), columns - max(offset, 0))
    if not isinstance(rows, int) or not isinstance(columns, int) or count < 1:
        return NotImplemented
    first = offset if offset >= 0 else -offset * columns
    return matrices.flatten(-2)[..., first : first + (count - 1) * (columns + 1) + 1 : columns + 1]


def _shifted_left(x: Tensor, by: Tensor | int) -> Tensor:
    return x * _power_of_two(by)


def _shifted_right(x: Tensor, by: Tensor | int) -> Tensor:
    return torch.div(x, _power_of_two(by), rounding_mode="floor")


def _power_of_two(by: Tensor | int) -> Tensor | int:
    return 1 << by if isinstance(by, int) else torch.pow(2, by)


def _rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, _: Any = None) -> Any:
    """`F.rrelu` in eval mode, where it draws nothing."""
    return NotImplemented if training else F.leaky_relu(x, (lower + upper) / 2)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    **dict.fromkeys(overloads("__lshift__.Scalar __lshift__.Tensor"), _shifted_left),
    **dict.fromkeys(overloads("bitwise_left_shift.Tensor bitwise_left_shift.Tensor_Scalar"), _shifted_left),
    **dict.fromkeys(overloads("__rshift__.Scalar __rshift__.Tensor"), _shifted_right),
    **dict.fromkeys(overloads("bitwise_right_shift.Tensor bitwise_right_shift.Tensor_Scalar"), _shifted_right),
    aten.cummax.default: partial(_running, greatest=True),
    aten.cummin.default: partial(_running, greatest=False),
    aten.diagonal.default: _diagonal,
    aten.logcumsumexp.default: _logcumsumexp,
    aten.mode.default: _mode,
    aten.rrelu.default: _rrelu,
    # torch's own: what its form for ONNX has, no backend has.
    aten.cross_entropy_loss.default: aten.cross_entropy_loss.default.decompose,
    **{
        operator: torch._decomp.decomposition_table[operator]
        for operator in (aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
    },
}
