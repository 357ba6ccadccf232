"""Sizes and strides of dense arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """A shape of which every size is a number."""
    return () if value.shape is None else tuple(value.shape.numpy())


def strides_of(shape: Sequence[int]) -> list[int]:
    """Values from one index of an axis to the next, in an array without gaps."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def index_expression(variables: Sequence[str], strides: Sequence[int]) -> str:
    """The C of the flat index that loop variables stand for in an array of these strides."""
    return " + ".join(f"{variable} * {stride}" for variable, stride in zip(variables, strides, strict=True)) or "0"
