"""Remainders and floored quotients as ONNX, exact as in torch: torch.onnx takes the floor of a rounded quotient."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.core import aten_div_mode

op: Any = opset18


def remainder(self: Any, other: Any) -> Any:
    """The exact remainder, and `other` more where the signs of the two differ."""
    self, other = _tensors(self, other)
    if self.dtype.is_integer():
        return op.Mod(self, other)
    left = op.Mod(self, other, fmod=1)
    return op.Where(_is_across_zero(left, other), op.Add(left, other), left)


def floor_divide(self: Any, other: Any) -> Any:
    """The floor of the exact quotient."""
    self, other = _tensors(self, other)
    if self.dtype.is_integer():
        below = op.CastLike(_is_across_zero(op.Mod(self, other, fmod=1), other), self)
        return op.Sub(op.Div(self, other), below)
    left = op.Mod(self, other, fmod=1)
    # Without what is left the quotient is whole but for its rounding.
    whole = op.Round(op.Div(op.Sub(self, left), other))
    floored = op.Sub(whole, op.CastLike(_is_across_zero(left, other), self))
    return op.Where(op.Equal(other, _like(0, self)), op.Div(self, other), floored)


def div_mode(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """`torch.div`: torch.onnx takes whole numbers through float32."""
    if rounding_mode == "floor":
        return floor_divide(self, other)
    tensors = _tensors(self, other)
    if rounding_mode == "trunc" and tensors[0].dtype.is_integer():
        return op.Div(*tensors)
    return aten_div_mode(*tensors, rounding_mode=rounding_mode)


def _is_across_zero(left: Any, other: Any) -> Any:
    """True where the remainder and the divisor have opposite signs."""
    return op.Less(op.Mul(op.Sign(left), op.Sign(other)), _like(0, other))


def _tensors(self: Any, other: Any) -> tuple[Any, Any]:
    """Both as tensors: one may be a number."""
    tensor = next(x for x in (self, other) if hasattr(x, "dtype"))
    return _like(self, tensor), _like(other, tensor)


def _like(x: Any, tensor: Any) -> Any:
    return x if hasattr(x, "dtype") else ir.tensor(x, dtype=tensor.dtype)
