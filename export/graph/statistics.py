"""Variances and standard deviations as ONNX: torch.onnx widens each to its own shape, which no reader can bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxscript import opset18

op: Any = opset18


def var(x: Any, dim: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False) -> Any:
    """The variance over the axes `dim`, or all: sum((x - mean)^2) / max(n - correction, 0), as `torch.var` has it."""
    return _moments(x, dim, correction, keepdim)[0]


def std(x: Any, dim: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False) -> Any:
    return op.Sqrt(var(x, dim, correction, keepdim))


def var_mean(
    x: Any, dim: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Any, Any]:
    return _moments(x, dim, correction, keepdim)


def std_mean(
    x: Any, dim: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Any, Any]:
    spread, mean = _moments(x, dim, correction, keepdim)
    return op.Sqrt(spread), mean


def _moments(x: Any, dim: Sequence[int] | None, correction: float | None, keepdim: bool) -> tuple[Any, Any]:
    axes = op.Constant(value_ints=[*dim] if dim else [*range(len(x.shape))])
    mean = op.ReduceMean(x, axes, keepdims=1)
    centred = op.Sub(x, mean)
    spread = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=int(keepdim))
    lost = 1.0 if correction is None else float(correction)
    if lost:
        count = op.CastLike(op.ReduceProd(op.Gather(op.Shape(x), axes), keepdims=0), x)
        lost_entries, none = (op.CastLike(op.Constant(value_float=n), x) for n in (lost, 0.0))
        left = op.Max(op.Sub(count, lost_entries), none)
        spread = op.Mul(spread, op.Div(count, left))
    return spread, mean if keepdim else op.Squeeze(mean, axes)
