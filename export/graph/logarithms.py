"""Logarithms of sums of exponentials as ONNX: torch.onnx takes the exponentials first, which overflow or vanish."""

from __future__ import annotations

import math
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


def _parted(x: Any, other: Any) -> tuple[Any, Any]:
    """The larger, and how far the smaller is below it: 0 where both are the same infinity."""
    most, least = op.Max(x, other), op.Min(x, other)
    return most, op.Where(op.Equal(most, least), _number(0.0), op.Sub(least, most))


def _number(value: float) -> Any:
    return op.Constant(value_float=value)
