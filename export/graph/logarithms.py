"""Logarithms of sums of exponentials as ONNX: torch.onnx takes the exponentials first, which overflow or vanish."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxscript import opset18

op: Any = opset18


def log_sigmoid(x: Any) -> Any:
    """min(x, 0) - log(1 + exp(-|x|))."""
    return op.Sub(op.Min(x, _number(0.0)), op.Softplus(op.Neg(op.Abs(x))))


def logaddexp(x: Any, other: Any) -> Any:
    """max(a, b) + log(1 + exp(-|a - b|))."""
    most, gap = _parted(x, other)
    return op.Add(most, op.Softplus(gap))


def logaddexp2(x: Any, other: Any) -> Any:
    most, gap = _parted(x, other)
    unit = _number(math.log(2))
    return op.Add(most, op.Div(op.Softplus(op.Mul(gap, unit)), unit))


def logsumexp(x: Any, dim: Sequence[int], keepdim: bool = False) -> Any:
    """Log(sum(exp(x - m))) + m, m the largest or, where that is infinite, 0: ONNX Runtime's own takes -Inf for 0."""
    if not x.shape:
        return op.Identity(x)
    axes = op.Constant(value_ints=[*dim] if dim else [*range(len(x.shape))])
    most = op.ReduceMax(x, axes, keepdims=1)
    most = op.Where(op.IsInf(most), _number(0.0), most)
    total = op.Add(op.Log(op.ReduceSum(op.Exp(op.Sub(x, most)), axes, keepdims=1)), most)
    return total if keepdim else op.Squeeze(total, axes)


def _parted(x: Any, other: Any) -> tuple[Any, Any]:
    """The larger, and the smaller minus the larger: 0 where both are the same infinity."""
    most, least = op.Max(x, other), op.Min(x, other)
    return most, op.Where(op.Equal(most, least), _number(0.0), op.Sub(least, most))


def _number(value: float) -> Any:
    return op.Constant(value_float=value)
